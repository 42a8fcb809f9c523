"""Several API servers for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_fixtures import _serve
from tests.operator.conftest import UNFINISHED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(UNFINISHED)


@pytest.fixture
def start_server(own_api_server: Any, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Starts another API server with the CRDs; it ends with the test."""
    with ExitStack() as stack:

        def start(name: str) -> Any:
            from prfaas_cluster.apiserver import ApiServer

            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(contextmanager(_serve)(ApiServer(folder)))

        yield start


@pytest.fixture
def hub_server(own_api_server: Any) -> Any:
    return own_api_server


@pytest.fixture
def member_server(start_server: Callable[[str], Any]) -> Any:
    return start_server("member")
