"""`python -m prfaas_gateway`: read the configuration, serve, and stop in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jinja2
from aiohttp import web

from prfaas import __version__
from prfaas_gateway import access_log
from prfaas_gateway.app import client_runner, health_app
from prfaas_gateway.blocks_feed import follow_forever
from prfaas_gateway.config import Cluster, Config, ConfigError, load, split_address
from prfaas_gateway.control import ControlClient
from prfaas_gateway.decode_leg import DecodeClient
from prfaas_gateway.errors import ClusterUnusableError
from prfaas_gateway.memory import return_large_buffers
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.paces import LinkReport
from prfaas_gateway.probes import probe_forever
from prfaas_gateway.scheduler import TICK_SECONDS, Scheduler
from prfaas_gateway.services import Fleet, ModelRuntime, Services, load_models, static_fleet
from prfaas_gateway.streams import Budget
from prfaas_gateway.supervisor import Supervisor
from prfaas_gateway.tls import Credentials

if TYPE_CHECKING:
    from prfaas_gateway.peering.links import LinkPace
    from prfaas_gateway.peering.wire import LinkState

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
        what = f"{len(config.models)} model(s)" if config.cluster is None else "models of the cluster"
        click.echo(f"{config_file}: OK, {what}")
        return
    try:
        with access_log.configured(log_level):
            _runner()(run(config, models, credentials))
    except ClusterUnusableError as error:
        raise click.ClickException(f"the section cluster cannot be used: {error}") from error
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
        ClusterUnusableError: the section ``cluster`` names nothing that can be used.
    """
    stop = stop or _stop_on_signals()
    services = build_services(config, models, credentials)
    tasks = [
        asyncio.create_task(probe_forever(services), name="probes"),
        asyncio.create_task(_tick_forever(services), name="scheduler"),
    ]
    if services.control is not None:
        feeding = follow_forever(services, services.control)
        tasks.append(asyncio.create_task(feeding, name="held blocks"))
    peers = services.peers
    if config.cluster is not None:
        tasks.append(asyncio.create_task(await _followed(services, config.cluster), name="cluster"))
    runners = [
        client_runner(services),
        web.AppRunner(health_app(services), access_log=None, shutdown_timeout=1),
    ]
    try:
        for runner, address in zip(runners, (config.listen, config.health_listen), strict=True):
            await runner.setup()
            host, port = split_address(address)
            await web.TCPSite(runner, host or None, port, backlog=1024).start()
        if peers is not None:
            await peers.listen()
            tasks.append(asyncio.create_task(peers.run(), name="regions"))
        _log.info("serving", extra={"addresses": [list(runner.addresses) for runner in runners]})
        await _until(stop, tasks)
        await _let_others_notice(services, tasks)
    finally:
        services.draining = True
        if peers is not None:
            await peers.close()
        _log.info("draining", extra={"in_flight": services.in_flight})
        for runner in runners:
            await runner.cleanup()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_services(services)


async def _tick_forever(services: Services) -> None:
    """Keep what decisions read up to date. Ends by being cancelled."""
    while True:
        services.scheduler.tick(services.fleet.prefillers, services.clock())
        await asyncio.sleep(TICK_SECONDS)


async def _followed(services: Services, settings: Cluster) -> Coroutine[Any, Any, None]:
    """What follows the cluster, with all that is known from before already in place."""
    # Only here: a gateway with a static configuration needs no Kubernetes client.
    from prfaas_gateway.cluster.controller import follow

    return await follow(services, settings)


async def _let_others_notice(services: Services, tasks: list[asyncio.Task[None]]) -> None:
    """Go on serving while /readyz says no: a Service that still names this pod must find it answering."""
    seconds = services.config.stopping_seconds
    if seconds:
        services.stopping = True
        if services.peers is not None:
            services.peers.leaving = True
        _log.info("stopping", extra={"seconds": seconds})
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the stop. The tasks end only by a bug, which must not go unnoticed."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in tasks:
        if task.done():
            task.result()


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
    services = Services(
        config=config,
        models=models,
        fleet=Fleet(),
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
        scheduler=Scheduler(config, time.monotonic),
    )
    services.fleet = static_fleet(services)
    if config.cluster is not None and config.tls is not None and control is not None:
        # Only here, as what follows the cluster: a static configuration knows no regions.
        from prfaas_gateway.peering.peers import Peers

        services.peers = Peers(
            config,
            config.tls,
            services.fleet,
            control,
            services.metrics,
            services.budget,
            services.clock,
            services.wall_clock,
        )
        services.peers.on_link = partial(_report_link, services)
    return services


def _report_link(services: Services, link: LinkState, pace: LinkPace) -> None:
    """Let the scheduler know how the way from another region is."""
    services.scheduler.links.report(
        link.source,
        LinkReport(
            capacity_bits_per_second=pace.capacity_bits_per_second,
            used_bits_per_second=pace.used_bits_per_second,
            rtt_seconds=link.rtt_seconds or 0.0,
            loss_share=(link.retransmits_percent or 0.0) / 100,
            measured_at=pace.at,
        ),
    )


async def close_services(services: Services) -> None:
    """Let background jobs finish, then close connections and threads."""
    await services.supervisor.close(services.config.timeouts.control_seconds * 3)
    await services.decode.close()
    if services.control is not None:
        await services.control.close()
    services.threads.shutdown(wait=False, cancel_futures=True)
