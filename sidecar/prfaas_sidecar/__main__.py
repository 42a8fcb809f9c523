"""``python -m prfaas_sidecar --config sidecar.yaml``."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

from prfaas_sidecar.app import Sidecar
from prfaas_sidecar.config import Config, ConfigError, load, load_environment
from prfaas_sidecar.logs import configured
from prfaas_sidecar.memory import arena_limit_bytes, available_bytes, check_arena
from prfaas_sidecar.net.tls import Credentials

_EXAMPLE = """
\b
Example sidecar.yaml:
  engine:
    socket: /run/prfaas/engine.sock
    url: http://127.0.0.1:8000
  arena_bytes: 4GiB
  listen: {peer: "0.0.0.0:7400", control: "0.0.0.0:7401", health: "0.0.0.0:7402"}
  tls: {certificate: /etc/prfaas/tls.crt, key: /etc/prfaas/tls.key, ca: /etc/prfaas/ca.crt}
  peers:
    accept: ["spiffe://example/region/eu/ns/chat/pool/DecodePool/*"]
    dial:
      - identity: "spiffe://example/region/us/ns/chat/pool/PrefillPool/*"
        addresses: ["10.80.0.0/16:7400"]
  gateways: ["spiffe://example/region/eu/ns/chat/gateway/*"]
"""


@click.command(epilog=_EXAMPLE)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file (YAML).")
@click.option(
    "--config-env", "variable", metavar="NAME", help="Environment variable that holds the same text."
)
@click.option("--check", is_flag=True, help="Check the configuration and its certificates, start nothing.")
def main(path: Path | None, variable: str | None, check: bool) -> None:
    """Ship KV cache between this pod's engine and engines of other regions."""
    try:
        if path is not None and variable is None:
            config, source = load(path), str(path)
        elif variable is not None and path is None:
            config, source = load_environment(variable), variable
        else:
            raise click.UsageError("give one of --config and --config-env")
        if check:
            if config.tls is not None:
                Credentials(config.tls)
            check_arena(config.arena_bytes, available_bytes(), arena_limit_bytes(config))
            click.echo(f"{source}: ok")
            return
        with configured(config.log_level):
            _run(config)
    except (ConfigError, OSError) as error:
        click.echo(f"prfaas_sidecar: {error}", err=True)
        sys.exit(1)


def _run(config: Config) -> None:
    async def serve() -> None:
        await Sidecar(config).run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: its TLS costs about a sixth less."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
