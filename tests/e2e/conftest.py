"""One cluster, one release, one fleet for the whole suite. Tests run in the order of their files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prfaas_cluster.record import Record
from tests.e2e.older_release import older_chart
from tests.e2e.stage import DECODE, PREFILL, SERVING, Stage

SUITE_ORDER = (
    "test_images", "test_fleet", "test_route_modes", "test_scaling", "test_changes", "test_nodes",
    "test_outages", "test_release", "test_federation",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What changes the fleet comes after what needs it as it is."""

    def place(item: pytest.Item) -> int:
        return SUITE_ORDER.index(item.path.stem) if item.path.stem in SUITE_ORDER else -1

    items.sort(key=place)


@pytest.fixture(scope="session")
def stage(real_cluster: Record, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """prfaas installed, no pools yet; the definitions of its kinds are an older version's."""
    prepared = Stage.prepare(real_cluster)
    prepared.install(older_chart(tmp_path_factory.mktemp("older")))
    prepared.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SERVING}})
    yield prepared
    prepared.kubectl("delete", "namespace", SERVING, "--ignore-not-found", timeout_seconds=180)


@pytest.fixture(scope="session")
def fleet(stage: Stage) -> Stage:
    """One prefill engine, two decode engines, a route; the gateway knows all of them."""
    stage.apply_fleet()
    stage.scale_decode(2)
    stage.until_ready("prefillpool", PREFILL, 1)
    stage.until_ready("decodepool", DECODE, 2)
    stage.until_compatible()
    return stage


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the cluster's state to the report of a failed test."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    used: Stage | None = getattr(item, "funcargs", {}).get("fleet") or getattr(item, "funcargs", {}).get(
        "stage"
    )
    if report.failed and used is not None:
        report.sections.append(("the cluster", used.describe()))
