"""The long matrix: every kind of KV cache in every scenario that it can be compared in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from prfaas_lab.pair import Pair, pair
from tests.engine import scenarios
from tests.engine.scenarios import SCENARIOS, Expectation, Scenario

pytestmark = [pytest.mark.engine_full, pytest.mark.restarts_processes, pytest.mark.timeout(900)]

ONE_AFTER_A_CHUNK: dict[str, Any] = {"lengths": (257, 513, 769), "long_tokens": 1025}
BROKEN_ON_THE_WAY: tuple[Scenario, ...] = (
    scenarios.whole_prompt,
    scenarios.cut_in_the_middle,
    scenarios.resume_over_a_new_stream,
    scenarios.aborts,
    scenarios.sidecars_die,
)


@dataclass(frozen=True)
class Case:
    """A model, how its engines are started, and what can be expected."""

    model: str
    expect: Expectation
    scenarios: tuple[Scenario, ...] = SCENARIOS
    arguments: dict[str, Any] = field(default_factory=dict)


CASES = {
    "attention-late-copies": Case("smollm2-135m", Expectation(), arguments={"device": "lazy"}),
    "attention-bfloat16": Case(
        "smollm2-135m",
        Expectation(tolerance=0.05, **ONE_AFTER_A_CHUNK),
        BROKEN_ON_THE_WAY,
        {"dtype": "bfloat16"},
    ),
    "sliding-window": Case(
        "tiny-sliding-window", Expectation(one_short=True, any_block=False), arguments={"device": "lazy"}
    ),
    "two-ranks": Case(
        "tiny-sliding-window",
        Expectation(one_short=True, any_block=False),
        arguments={"tensor_parallel_size": 2},
    ),
    "mamba2": Case("tiny-mamba2", Expectation(state=True, one_short=True, any_block=False)),
    # vLLM's gated delta net on CPUs runs in bfloat16 only.
    "gated-delta-net": Case(
        "tiny-gated-delta-net",
        Expectation(state=True, one_short=True, any_block=False, tolerance=0.05, **ONE_AFTER_A_CHUNK),
        BROKEN_ON_THE_WAY,
        {"dtype": "bfloat16", "device": "lazy"},
    ),
    # On CPUs vLLM neither chunks an MLA prompt nor caches its prefix, and its rotary kernel is wrong for MLA.
    "mla-whole-prefill": Case(
        "tiny-mla",
        Expectation(any_block=False),
        BROKEN_ON_THE_WAY,
        {
            "compilation_config": {"custom_ops": ["-rotary_embedding"]},
            "max_num_batched_tokens": 2048,
            "enable_prefix_caching": False,
        },
    ),
    # Both ranks hold the same latent KV: it is shipped once and loaded by both.
    "mla-two-ranks": Case(
        "tiny-mla",
        Expectation(any_block=False),
        (scenarios.whole_prompt, scenarios.aborts),
        {
            "compilation_config": {"custom_ops": ["-rotary_embedding"]},
            "max_num_batched_tokens": 2048,
            "enable_prefix_caching": False,
            "tensor_parallel_size": 2,
        },
    ),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Case, Pair]]:
    case = CASES[request.param]
    with pair(tmp_path_factory.mktemp(request.param), case.model, **case.arguments) as engines:
        yield case, engines


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_matrix(running: tuple[Case, Pair], scenario: Scenario) -> None:
    """Tokens equal those of one engine alone, and nothing is left held."""
    case, engines = running
    if scenario not in case.scenarios:
        pytest.skip("not comparable: this case's reference has other chunk boundaries")
    scenario(engines, case.expect)
