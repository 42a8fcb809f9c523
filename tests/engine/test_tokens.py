"""Real engines, real sidecars: SmolLM2 in every scenario, and one tiny model of each further kind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import prfaas_setup
from prfaas_connector.local_api.model_files import NAMES
from prfaas_lab.pair import Pair, pair
from prfaas_lab.sidecar import Sidecar
from tests.engine import scenarios
from tests.engine.scenarios import Expectation, Scenario
from tests.helpers import eventually

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


@pytest.mark.parametrize(("side", "role"), [("producer", "producer"), ("consumer", "consumer")])
def test_a_sidecar_tells_of_its_engine(smollm2: Pair, side: str, role: str) -> None:
    """The facts are the engine's own, and its tokenizer's files come through unchanged."""
    sidecar: Sidecar = getattr(smollm2, side)
    eventually(lambda: sidecar.status()["block_tokens"], what="the engine told of itself")
    shown = sidecar.status()
    folder = prfaas_setup.model_path("smollm2-135m")
    assert (shown["engine_connected"], shown["role"], shown["max_model_tokens"]) == (True, role, 4096)
    assert shown["served_models"] == [str(folder)]
    assert shown["block_tokens"] in (16, 32, 64, 128)
    assert len(shown["fingerprint"]) == 64
    assert shown["model_files_error"] is None
    named = {file["name"] for file in shown["model_files"]}
    assert (
        {"tokenizer.json", "tokenizer_config.json"}
        <= named
        == {name for name in NAMES if (folder / name).exists()}
    )
    for file in shown["model_files"]:
        body = sidecar.model_file(file["name"])
        assert body == (folder / file["name"]).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (file["bytes"], file["sha256"])
    assert shown == {**sidecar.call("GET", "/v1/engine"), "peers": shown["peers"]}


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
