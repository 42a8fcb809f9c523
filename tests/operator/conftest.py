"""Tests with a whole operator in the test's own process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

# An operator in this process ends by cancelling its watches, and a loop that closes right after leaves their
# sockets unfinished. A process of its own takes them along; here any later test would be blamed for them.
UNFINISHED = pytest.mark.filterwarnings("ignore:unclosed (transport|<socket):ResourceWarning")
PURE = {"planning", "injection"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(UNFINISHED)


@pytest.fixture(autouse=True)
def sockets_of_this_test_are_collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the loop left is found while its warning is still this test's own."""
    yield
    if not PURE & set(request.node.path.parts):
        gc.collect()
