"""The routing policy as a table: what decides, and in which order reasons win."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.routing import Conditions, Decision, Prompt, Reason, Route, decide

OPEN = Conditions(threshold_tokens=1000)
LONG = Prompt(stays_local=None, tokens=5000, cached_tokens=0)


@pytest.mark.parametrize(
    ("prompt", "conditions", "expected"),
    [
        pytest.param(LONG, OPEN, Reason.OVER_THRESHOLD, id="long"),
        pytest.param(replace(LONG, tokens=1001), OPEN, Reason.OVER_THRESHOLD, id="one-over"),
        pytest.param(replace(LONG, tokens=1000), OPEN, Reason.UNDER_THRESHOLD, id="exactly-the-threshold"),
        pytest.param(replace(LONG, tokens=0), OPEN, Reason.UNDER_THRESHOLD, id="empty"),
        pytest.param(
            replace(LONG, cached_tokens=4000), OPEN, Reason.CACHED_HERE, id="cached-to-the-threshold"
        ),
        pytest.param(replace(LONG, cached_tokens=3999), OPEN, Reason.OVER_THRESHOLD, id="cached-one-too-few"),
        pytest.param(replace(LONG, stays_local=Reason.MEDIA), OPEN, Reason.MEDIA, id="kind-stays-local"),
        pytest.param(LONG, replace(OPEN, remote_enabled=False), Reason.REMOTE_DISABLED, id="switched-off"),
        pytest.param(
            LONG, replace(OPEN, tokenizer_agrees=False), Reason.TOKENIZER_MISMATCH, id="tokenizers-differ"
        ),
        pytest.param(
            LONG,
            replace(OPEN, decode_sidecar_healthy=False),
            Reason.NO_DECODE_SIDECAR,
            id="no-decode-sidecar",
        ),
        pytest.param(
            LONG, replace(OPEN, healthy_prefill_engines=0), Reason.NO_PREFILL_ENGINE, id="no-prefill-engine"
        ),
        pytest.param(
            replace(LONG, stays_local=Reason.ECHO, tokens=1),
            replace(OPEN, remote_enabled=False, healthy_prefill_engines=0),
            Reason.ECHO,
            id="the-request-is-named-before-the-moment",
        ),
        pytest.param(
            replace(LONG, tokens=5),
            replace(OPEN, healthy_prefill_engines=0),
            Reason.UNDER_THRESHOLD,
            id="short-needs-no-engine",
        ),
    ],
)
def test_reason(prompt: Prompt, conditions: Conditions, expected: Reason) -> None:
    route = Route.REMOTE if expected is Reason.OVER_THRESHOLD else Route.LOCAL
    assert decide(prompt, conditions) == Decision(route, expected)


@given(
    tokens=st.integers(0, 10_000),
    cached=st.integers(0, 20_000),
    threshold=st.integers(0, 10_000),
)
def test_remote_exactly_when_more_than_the_threshold_is_uncached(
    tokens: int, cached: int, threshold: int
) -> None:
    decision = decide(Prompt(None, tokens, cached), Conditions(threshold))
    assert (decision.route is Route.REMOTE) == (max(0, tokens - cached) > threshold)


@given(cached=st.integers(0, 6000), more=st.integers(0, 6000))
def test_a_longer_cached_prefix_never_makes_a_prompt_remote(cached: int, more: int) -> None:
    before = decide(replace(LONG, cached_tokens=cached), OPEN)
    after = decide(replace(LONG, cached_tokens=cached + more), OPEN)
    assert not (before.route is Route.LOCAL and after.route is Route.REMOTE)
