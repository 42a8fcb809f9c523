"""Tests of the connector run where what they need is installed, and say so where it is not."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest


def needs(path: Path) -> tuple[str, ...]:
    """Packages without which a test file cannot be imported, told by its name."""
    if path.name.startswith("test_vllm_"):
        return ("vllm", "hypothesis")
    if path.name.startswith("test_torch_"):
        # The device tests run with nothing but torch: make gpu-check.
        return ("torch",)
    return ("hypothesis",)


class Elsewhere(pytest.Module):
    """A test file that this environment cannot run."""

    reason = ""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip(self.reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Only whole packages are asked for: one that is there but broken fails the run."""
    missing = [name for name in needs(module_path) if importlib.util.find_spec(name) is None]
    if not missing:
        if "vllm" in needs(module_path):
            _import_vllm()
        return None
    module = Elsewhere.from_parent(parent, path=module_path)
    module.reason = f"needs {' and '.join(missing)}: make test-connector"
    return module


def _import_vllm() -> None:
    """What vLLM and torch warn of while they are imported is not ours to mend; later warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("vllm", "vllm.v1.core.sched.async_scheduler"):
            importlib.import_module(name)
