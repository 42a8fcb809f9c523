"""Fixtures of the sidecar's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from prfaas_demo.certificates import Authority, ca
from tests.sidecar.harness import Pair, Process, engines, pair, processes


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The CA that both regions trust."""
    return ca()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> AsyncIterator[tuple[Process, Process]]:
    """Two sidecar processes for many tests, which run in the session's event loop."""
    async with processes(tmp_path_factory.mktemp("shared"), authority) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def two(shared: tuple[Process, Process], authority: Authority) -> AsyncIterator[Pair]:
    """The shared sidecars with new engines; after each test they have forgotten everything and hold no
    memory."""
    for side in shared:
        await side.begin()
    async with engines(*shared, authority) as running:
        yield running
    for side in shared:
        await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        await side.until("prfaas_sidecar_streams", lambda count: count == 0)
        await side.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)
        await side.until("prfaas_sidecar_transfers_running", lambda count: count == 0)


@pytest.fixture
async def own_two(tmp_path: Path, authority: Authority) -> AsyncIterator[Pair]:
    """Two sidecars with engines for one test that stops or changes them."""
    async with pair(tmp_path, authority) as running:
        yield running
