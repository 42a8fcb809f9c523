"""The routing policy as a table: what decides, and in which order reasons win."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.routing import Advice, Conditions, Decision, Mode, Prompt, Reason, Route, decide, in_canary

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
            LONG,
            replace(OPEN, compatible_prefill_engines=0),
            Reason.INCOMPATIBLE_KV,
            id="no-engine-with-such-kv",
        ),
        pytest.param(LONG, replace(OPEN, threshold_tokens=None), Reason.NO_ROUTE, id="no-route"),
        pytest.param(
            replace(LONG, stays_local=Reason.TOKENIZER_PENDING),
            replace(OPEN, threshold_tokens=None),
            Reason.TOKENIZER_PENDING,
            id="the-tokenizer-has-not-come",
        ),
        pytest.param(
            LONG, replace(OPEN, mode=Mode.CANARY, in_canary=True), Reason.OVER_THRESHOLD, id="in-the-canary"
        ),
        pytest.param(
            replace(LONG, stays_local=Reason.ECHO, tokens=1),
            replace(OPEN, remote_enabled=False, healthy_prefill_engines=0),
            Reason.ECHO,
            id="the-request-is-named-before-the-moment",
        ),
        pytest.param(
            LONG,
            replace(OPEN, advice=Advice(Route.LOCAL, Reason.PREFILL_BUSY)),
            Reason.PREFILL_BUSY,
            id="advised-to-stay",
        ),
        pytest.param(
            LONG,
            replace(OPEN, remote_enabled=False, advice=Advice(Route.REMOTE, Reason.DECODE_BUSY)),
            Reason.REMOTE_DISABLED,
            id="advice-does-not-open-what-is-closed",
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


LOCALS = [
    (replace(LONG, tokens=5), OPEN, Reason.UNDER_THRESHOLD),
    (LONG, replace(OPEN, remote_enabled=False), Reason.REMOTE_DISABLED),
    (LONG, replace(OPEN, healthy_prefill_engines=0), Reason.NO_PREFILL_ENGINE),
]


@pytest.mark.parametrize(("prompt", "conditions", "reason"), LOCALS, ids=lambda value: str(value)[:14])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_changes_nothing_for_what_stays_local_anyway(
    prompt: Prompt, conditions: Conditions, reason: Reason, mode: Mode
) -> None:
    would_be = Route.LOCAL if mode is Mode.OBSERVE else None
    assert decide(prompt, replace(conditions, mode=mode)) == Decision(Route.LOCAL, reason, would_be)


@pytest.mark.parametrize(
    ("mode", "in_share", "expected"),
    [
        (Mode.OBSERVE, True, Decision(Route.LOCAL, Reason.OBSERVED, Route.REMOTE)),
        (Mode.OBSERVE, False, Decision(Route.LOCAL, Reason.OBSERVED, Route.REMOTE)),
        (Mode.CANARY, False, Decision(Route.LOCAL, Reason.NOT_IN_CANARY, Route.REMOTE)),
        (Mode.CANARY, True, Decision(Route.REMOTE, Reason.OVER_THRESHOLD)),
        (Mode.ENFORCE, False, Decision(Route.REMOTE, Reason.OVER_THRESHOLD)),
    ],
)
def test_a_mode_says_how_much_of_a_remote_decision_is_carried_out(
    mode: Mode, in_share: bool, expected: Decision
) -> None:
    assert decide(LONG, replace(OPEN, mode=mode, in_canary=in_share)) == expected


def test_advice_to_go_replaces_the_threshold_and_names_the_reason() -> None:
    advised = replace(OPEN, advice=Advice(Route.REMOTE, Reason.DECODE_BUSY))
    short = replace(LONG, tokens=5)
    assert decide(short, advised) == Decision(Route.REMOTE, Reason.DECODE_BUSY)
    held = replace(advised, mode=Mode.OBSERVE)
    assert decide(short, held) == Decision(Route.LOCAL, Reason.OBSERVED, Route.REMOTE)


@pytest.mark.parametrize("mode", [Mode.CANARY, Mode.ENFORCE])
def test_a_broken_objective_keeps_everything_here_and_says_what_would_have_been(mode: Mode) -> None:
    fallen = replace(OPEN, mode=mode, fallen_back=True)
    assert decide(LONG, fallen) == Decision(Route.LOCAL, Reason.SLO_FALLBACK, Route.REMOTE)
    assert decide(replace(LONG, tokens=5), fallen) == Decision(Route.LOCAL, Reason.UNDER_THRESHOLD)


@given(st.text(), st.floats(0, 100), st.floats(0, 100))
def test_a_canary_share_only_grows_with_its_percentage(request_id: str, one: float, two: float) -> None:
    small, large = sorted((one, two))
    assert not in_canary(request_id, 0)
    assert in_canary(request_id, 100)
    assert in_canary(request_id, large) or not in_canary(request_id, small)


def test_a_canary_share_is_about_its_percentage() -> None:
    # The ids are fixed, so the count is too.
    counted = sum(in_canary(f"request-{number}", 10) for number in range(10_000))
    assert 900 < counted < 1100
