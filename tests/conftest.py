"""Rules for all tests: nothing blocks an event loop, no process stays behind, skips have reasons."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import os
from collections.abc import Iterator

import pytest

from tests.helpers import children, eventually, kill

try:
    import blockbuster.blockbuster as blocking
except ImportError:
    # The engine's own environment has none; nothing that runs there has an event loop of ours.
    blocking = None  # type: ignore[assignment]
try:
    import hypothesis
except ImportError:
    # make gpu-check needs no more than torch and pytest.
    hypothesis = None  # type: ignore[assignment]

pytest_plugins = ["pytester", "tests.cluster_fixtures"]

LOOP_PACKAGES = ("prfaas", "prfaas_sidecar", "prfaas_gateway", "prfaas_wan", "prfaas_demo")
ENGINE_MARKERS = ("engine", "engine_full")
PR_SET_CHILD_SUBREAPER = 36
ENDING_SECONDS = 5.0


def _hypothesis_profiles() -> None:
    # A deadline for an example would be a timed assertion. In CI the same examples run each time.
    hypothesis.settings.register_profile(
        "test",
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.register_profile(
        "fuzz",
        hypothesis.settings.get_profile("test"),
        derandomize=False,
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20000")),
    )
    hypothesis.settings.load_profile(os.environ.get("PRFAAS_HYPOTHESIS", "test"))


def pytest_configure(config: pytest.Config) -> None:
    """Become the parent of orphans, so that a process whose own parent died is found too."""
    if hypothesis is not None:
        _hypothesis_profiles()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run on this machine, with the reason."""
    engine_missing = _why_no_engine()
    for item in items:
        if engine_missing and any(item.get_closest_marker(name) for name in ENGINE_MARKERS):
            if os.environ.get("PRFAAS_REQUIRE_ENGINE") == "1":
                raise pytest.UsageError(f"PRFAAS_REQUIRE_ENGINE is set, but {engine_missing}")
            item.add_marker(pytest.mark.skip(reason=engine_missing))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and mounts"))


def _why_no_engine() -> str | None:
    if importlib.util.find_spec("prfaas_setup") is None:
        return "tests that start engines run from .venv: make test"
    import prfaas_setup

    if prfaas_setup.engine_is_built():
        return None
    return "the engine environment is not built: run make engine"


@pytest.fixture(autouse=True)
def no_blocking_in_event_loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which the project's code blocked the loop, even if the error was caught."""
    if blocking is None or not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    seen: list[str] = []

    class Recorded(blocking.BlockingError):
        def __init__(self, function: str) -> None:
            super().__init__(function)
            seen.append(function)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocking, "BlockingError", Recorded)
        with blocking.blockbuster_ctx(scanned_modules=list(LOOP_PACKAGES)) as watched:
            for function in watched.functions.values():
                # It has a loop of its own, in a thread where nobody else waits.
                function.can_block_in("prfaas/kube/connect.py", "_load_file")
            yield
    if seen:
        pytest.fail(f"blocking calls in an event loop: {', '.join(sorted(set(seen)))}")


@pytest.fixture(autouse=True)
def no_process_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child process, and end that process."""
    before = children()
    yield
    # A restarted process belongs to a wider fixture; the check at the end of the session sees it.
    if request.node.get_closest_marker("restarts_processes") is None:
        _fail_for_new_children(before)


@pytest.fixture(autouse=True, scope="session")
def no_process_left_at_the_end() -> Iterator[None]:
    """The same for processes that were started for a whole module or session."""
    before = children()
    yield
    _fail_for_new_children(before)


def _fail_for_new_children(before: dict[int, str]) -> None:
    # A plugin must not be imported before pytest has rewritten its asserts.
    from tests.cluster_fixtures import server_process_ids

    def new() -> dict[int, str]:
        known = {*before, *server_process_ids()}
        return {
            pid: command
            for pid, command in children().items()
            if pid not in known and "multiprocessing.resource_tracker" not in command
        }

    try:
        eventually(lambda: not new(), within_seconds=ENDING_SECONDS)
    except AssertionError:
        left = new()
        for pid in left:
            kill(pid)
        pytest.fail(f"processes left behind: {left}")
