"""The operator's process: arguments, logging, signals, exit status."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import prometheus_client
import uvloop

from prfaas.kube.connect import NoCluster
from prfaas_operator.config import ConfigError, OperatorConfig, load
from prfaas_operator.runtime.app import LeaseLost, NoNamespace, Operator, own_namespace_of
from prfaas_operator.runtime.planning_adapter import Planning

logger = logging.getLogger(__name__)

# Of sysexits.h: what a supervisor may tell apart.
CONFIG_STATUS = 78
LEASE_LOST_STATUS = 75


@click.command()
@click.option(
    "--config", "path", required=True, type=click.Path(path_type=Path), help="The operator's YAML file."
)
@click.option("--check", is_flag=True, help="Check the file and end.")
def main(path: Path, check: bool) -> None:
    """Keep the prfaas pools and routes of a cluster as they are wanted."""
    try:
        config = load(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(CONFIG_STATUS)
    if check:
        click.echo(f"{path}: good")
        return
    _log_as_json(config.log_level)
    # When a counter began is of no use to anybody, and doubles the scrape.
    untyped: Any = prometheus_client
    untyped.disable_created_metrics()
    try:
        uvloop.run(_run(config))
    except (NoCluster, NoNamespace) as error:
        click.echo(str(error), err=True)
        sys.exit(CONFIG_STATUS)
    except LeaseLost as error:
        logger.warning("ending: %s", error)
        sys.exit(LEASE_LOST_STATUS)


async def _run(config: OperatorConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def catch_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    catch_signals()
    planning = Planning(
        config.injection_settings(),
        gateway_namespace=own_namespace_of(config),
        gateway_name=config.gateway_name,
    )
    operator = Operator(config, planning)
    await operator.run(stop, catch_signals)
    logger.info("ended in good order")


class _Json(logging.Formatter):
    """One JSON object per line. A decision is one itself, under `decision`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        text = record.getMessage()
        if record.name == "prfaas_operator.decisions":
            line["decision"] = json.loads(text)
        else:
            line["message"] = text
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _log_as_json(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # kopf tells of each object at INFO.
    logging.getLogger("kopf").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
