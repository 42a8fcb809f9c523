"""Fixtures of the sidecar's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from prfaas_demo.certificates import Authority, ca
from tests.sidecar.harness import Pair, pair


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The CA that both regions trust."""
    return ca()


@pytest.fixture
async def two(tmp_path: Path, authority: Authority) -> AsyncIterator[Pair]:
    """Two connected sidecars with engines."""
    async with pair(tmp_path, authority) as running:
        yield running
