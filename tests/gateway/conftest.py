"""Fixtures of the gateway's tests."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.gateway.world import World, running


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, Any]]]:
    """What the gateway logs, in a list: pytest's own handlers write files, which an event loop must not."""
    loggers, records = [logging.getLogger(name) for name in ("prfaas_gateway", "prfaas.kube")], []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(vars(record) | {"message": record.getMessage()})

    handler, before = Keep(), [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    yield records
    for logger, (propagated, level) in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.propagate = propagated
        logger.setLevel(level)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One decode engine, one prefill engine."""
    async with running(tmp_path) as made:
        yield made
