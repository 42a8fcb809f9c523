"""Real engines, real sidecars: SmolLM2 in every scenario, and one tiny model of each further kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas_lab.pair import Pair, pair
from tests.engine import scenarios
from tests.engine.scenarios import Expectation, Scenario

pytestmark = [pytest.mark.engine, pytest.mark.restarts_processes, pytest.mark.timeout(600)]

SHORT: tuple[Scenario, ...] = (
    scenarios.whole_prompt,
    scenarios.prefix_at_consumer,
    scenarios.prefix_at_producer,
    scenarios.cut_in_the_middle,
    scenarios.aborts,
)


def _name(scenario: Scenario) -> str:
    return scenario.__name__


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(_folder(tmp_path_factory), "smollm2-135m") as running:
        yield running


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=_name)
def test_smollm2(smollm2: Pair, scenario: Scenario) -> None:
    """Real weights, grouped-query attention, float32."""
    scenario(smollm2, Expectation())


@pytest.fixture(scope="module")
def sliding_window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(_folder(tmp_path_factory), "tiny-sliding-window") as running:
        yield running


@pytest.mark.parametrize("scenario", SHORT, ids=_name)
def test_sliding_window(sliding_window: Pair, scenario: Scenario) -> None:
    """Gemma 3 text: sliding-window and full attention groups."""
    scenario(sliding_window, Expectation(one_short=True, any_block=False))


@pytest.fixture(scope="module")
def mamba2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(_folder(tmp_path_factory), "tiny-mamba2", device="lazy") as running:
        yield running


@pytest.mark.parametrize("scenario", SHORT, ids=_name)
def test_mamba2(mamba2: Pair, scenario: Scenario) -> None:
    """Granite 4 hybrid: recurrent state beside attention; copies put off as long as their contract allows."""
    scenario(mamba2, Expectation(state=True, one_short=True, any_block=False))


def _folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("engines")
