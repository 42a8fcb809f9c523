"""Both regions, once for the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.federation.regions import Regions, two_regions
from tests.e2e.stage import DECODE, PREFILL


@pytest.fixture(scope="session")
def federated() -> Iterator[Regions]:
    """A fleet applied in the hub alone, ready in both regions."""
    with two_regions() as regions:
        regions.apply_fleet()
        regions.us.until_ready("prefillpool", PREFILL, 1)
        regions.eu.until_ready("decodepool", DECODE, 1)
        regions.until_remote_is_known()
        yield regions
