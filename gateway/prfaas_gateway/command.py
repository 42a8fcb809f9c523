"""`python -m prfaas_gateway`: read the configuration, serve, and stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import jinja2
from aiohttp import web

from prfaas import __version__
from prfaas_gateway import access_log
from prfaas_gateway.app import client_runner, health_app
from prfaas_gateway.config import Config, ConfigError, load, split_address
from prfaas_gateway.control import ControlClient
from prfaas_gateway.decode_leg import DecodeClient
from prfaas_gateway.memory import return_large_buffers
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.probes import probe_forever
from prfaas_gateway.services import ModelRuntime, Services, build_fleet, load_models
from prfaas_gateway.streams import Budget
from prfaas_gateway.supervisor import Supervisor
from prfaas_gateway.tls import Credentials

_log = logging.getLogger(__name__)

_EXAMPLE = """\b
Example:
  python -m prfaas_gateway --config gateway.yaml --check
  python -m prfaas_gateway --config gateway.yaml
  curl http://localhost:8000/v1/completions -H 'content-type: application/json' \\
       -d '{"model": "chat", "prompt": "Hello", "max_tokens": 16}'
"""


@click.command(epilog=_EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    help="The configuration file (YAML); docs/gateway.md lists the settings.",
)
@click.option("--check", is_flag=True, help="Check the configuration, its files included, and stop.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least severe level that is logged.",
)
@click.version_option(__version__, prog_name="prfaas-gateway")
def main(config_file: Path, check: bool, log_level: str) -> None:
    """Serve OpenAI's API for one region and prefill long prompts elsewhere."""
    return_large_buffers()
    try:
        config = load(config_file)
        models = load_models(config)
        credentials = Credentials(config.tls, config.sidecar_identities) if config.tls else None
    except ConfigError as error:
        raise click.ClickException(f"the configuration cannot be used:\n{error}") from error
    except (OSError, ValueError, jinja2.TemplateError, ssl.SSLError) as error:
        raise click.ClickException(f"a file that the configuration names cannot be used: {error}") from error
    if check:
        click.echo(f"{config_file}: OK, {len(config.models)} model(s)")
        return
    try:
        with access_log.configured(log_level):
            _runner()(run(config, models, credentials))
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error}") from error


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """uvloop's event loop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


async def run(
    config: Config,
    models: dict[str, ModelRuntime],
    credentials: Credentials | None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until a signal (or ``stop``), then drain within the configured time.

    Raises:
        OSError: an address cannot be listened on.
    """
    stop = stop or _stop_on_signals()
    services = build_services(config, models, credentials)
    runners = [
        client_runner(services),
        web.AppRunner(health_app(services), access_log=None, shutdown_timeout=1),
    ]
    probing = asyncio.create_task(probe_forever(services), name="probes")
    try:
        for runner, address in zip(runners, (config.listen, config.health_listen), strict=True):
            await runner.setup()
            host, port = split_address(address)
            await web.TCPSite(runner, host or None, port, backlog=1024).start()
        _log.info("serving", extra={"addresses": [list(runner.addresses) for runner in runners]})
        await _until(stop, probing)
    finally:
        services.draining = True
        _log.info("draining", extra={"in_flight": services.in_flight})
        probing.cancel()
        for runner in runners:
            await runner.cleanup()
        await close_services(services)
        with contextlib.suppress(asyncio.CancelledError):
            await probing


async def _until(stop: asyncio.Event, probing: asyncio.Task[None]) -> None:
    """Wait for the stop. Probing ends only by a bug, which must not go unnoticed."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, probing}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if probing.done():
        probing.result()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def build_services(
    config: Config, models: dict[str, ModelRuntime], credentials: Credentials | None
) -> Services:
    """Everything that requests share. Needs a running event loop."""
    limits, timeouts = config.limits, config.timeouts
    control = None
    if credentials is not None:
        control = ControlClient(credentials, timeouts.connect_seconds, timeouts.control_seconds)
    return Services(
        config=config,
        models=models,
        fleet=build_fleet(config),
        decode=DecodeClient(
            connect_seconds=timeouts.connect_seconds,
            idle_seconds=timeouts.idle_seconds,
            max_event_bytes=limits.max_event_bytes,
            max_response_bytes=limits.max_response_bytes,
        ),
        credentials=credentials,
        control=control,
        supervisor=Supervisor(limits.background_tasks),
        metrics=Metrics(),
        threads=ThreadPoolExecutor(limits.tokenizer_threads, thread_name_prefix="tokenizer"),
        budget=Budget(limits.max_buffered_bytes),
        clock=time.monotonic,
    )


async def close_services(services: Services) -> None:
    """Let background jobs finish, then close connections and threads."""
    await services.supervisor.close(services.config.timeouts.control_seconds * 3)
    await services.decode.close()
    if services.control is not None:
        await services.control.close()
    services.threads.shutdown(wait=False, cancel_futures=True)
