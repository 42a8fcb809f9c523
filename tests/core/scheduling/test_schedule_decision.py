"""Where one prompt goes: the paper's rule when all is as planned, and what departs from it when it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import Curve, KVSize
from prfaas.routing import Reason, Route
from prfaas.scheduling import (
    CompiledCurve,
    DecodeSide,
    Link,
    Producer,
    Rule,
    WireSize,
    Work,
    first_kv_patience_seconds,
    schedule,
)

FAST = CompiledCurve(Curve.polynomial(0.1, 4e-5, 1e-10, to_tokens=131_072))
SLOW = CompiledCurve(Curve.polynomial(0.1, 1.3e-4, 3e-10, to_tokens=131_072))
WIRE = WireSize(KVSize.per_token(17_280, state_bytes=174 << 20, to_tokens=131_072))
RULE = Rule(threshold_tokens=10_000, wire=WIRE)
GIGABIT = 1e9
LONG, SHORT = 40_000, 5_000


def link(gbits: float = 100.0, **fields: float | bool) -> Link:
    return Link("far", "here", gbits * GIGABIT, planned_bits_per_second=100 * GIGABIT, **fields)  # type: ignore[arg-type]


def far(name: str = "p", slot: int = 0, *, over: Link | None = None, **fields: float) -> Producer:
    return Producer(name, slot, "far", prefill=FAST, link=over or link(), **fields)  # type: ignore[arg-type]


def here(cached: int = 0, queue_seconds: float = 0.0) -> DecodeSide:
    return DecodeSide(cached, SLOW, queue_seconds)


@pytest.mark.parametrize(
    ("tokens", "decode", "producer", "matches", "route", "reason"),
    [
        pytest.param(LONG, here(), far(), {}, Route.REMOTE, Reason.OVER_THRESHOLD, id="long"),
        pytest.param(10_000, here(), far(), {}, Route.LOCAL, Reason.UNDER_THRESHOLD, id="boundary-is-local"),
        pytest.param(10_001, here(), far(), {}, Route.REMOTE, Reason.OVER_THRESHOLD, id="one-over"),
        pytest.param(LONG, here(30_000), far(), {}, Route.LOCAL, Reason.CACHED_HERE, id="cached-here"),
        pytest.param(LONG, here(29_999), far(), {}, Route.REMOTE, Reason.OVER_THRESHOLD, id="one-too-few"),
        pytest.param(
            LONG, here(), far(), {0: 32_000}, Route.REMOTE, Reason.CACHED_ELSEWHERE, id="cached-there"
        ),
        pytest.param(
            LONG, here(), far(queue_seconds=30), {}, Route.LOCAL, Reason.PREFILL_BUSY, id="queue-there"
        ),
        pytest.param(
            LONG,
            here(),
            far(over=link(0.1)),
            {},
            Route.LOCAL,
            Reason.LINK_BUSY,
            id="link-slower-than-planned",
        ),
        pytest.param(
            LONG,
            here(),
            far(over=link(backlog_seconds=30)),
            {},
            Route.LOCAL,
            Reason.LINK_BUSY,
            id="link-full",
        ),
        pytest.param(
            SHORT, here(queue_seconds=9), far(), {}, Route.REMOTE, Reason.DECODE_BUSY, id="queue-here"
        ),
        pytest.param(
            SHORT,
            here(queue_seconds=9),
            far(over=link(scarce=True)),
            {},
            Route.LOCAL,
            Reason.UNDER_THRESHOLD,
            id="short-prompts-do-not-cross-a-scarce-link",
        ),
        pytest.param(
            12_000,
            here(),
            far(over=link(threshold_factor=1.25)),
            {},
            Route.LOCAL,
            Reason.LINK_SCARCE,
            id="t-raised-by-the-link",
        ),
        pytest.param(
            LONG,
            here(),
            far(queued_tokens=990_000),
            {},
            Route.LOCAL,
            Reason.PREFILL_FULL,
            id="nobody-has-room",
        ),
    ],
)
def test_a_prompt(
    tokens: int,
    decode: DecodeSide,
    producer: Producer,
    matches: dict[int, int],
    route: Route,
    reason: Reason,
) -> None:
    choice = schedule(Work(tokens), decode, [producer], matches, RULE)
    assert (choice.route, choice.reason) == (route, reason)


@given(
    tokens=st.integers(1, 130_000),
    held=st.integers(0, 130_000),
    there=st.integers(0, 130_000),
    threshold=st.integers(0, 130_000),
    scarce=st.booleans(),
    known=st.booleans(),
)
def test_undisturbed_it_is_the_papers_rule(
    tokens: int, held: int, there: int, threshold: int, scarce: bool, known: bool
) -> None:
    """Own caches only while bandwidth is scarce; with abundant bandwidth the longest prefix counts, and what
    the own cache does not make short then goes to the prefix, as copies are not possible."""
    prefill = SLOW if known else None
    producer = Producer("p", 0, prefill=FAST if known else None, link=link(scarce=scarce))
    rule = replace(RULE, threshold_tokens=threshold, adaptive=False)
    choice = schedule(Work(tokens), DecodeSide(held, prefill), [producer], {0: there}, rule)
    held, there = min(held, tokens), min(there, tokens)
    assert (choice.route is Route.LOCAL) == (tokens - held <= threshold)
    judged = held if scarce else max(held, there)
    assert choice.uncached_tokens == tokens - judged


@given(
    tokens=st.integers(1, 130_000),
    queue=st.floats(0, 100),
    more=st.floats(0, 100),
    there=st.floats(0, 100),
)
def test_a_longer_queue_here_never_keeps_more_here(
    tokens: int, queue: float, more: float, there: float
) -> None:
    before = schedule(Work(tokens), here(queue_seconds=queue), [far(queue_seconds=there)], {}, RULE)
    after = schedule(Work(tokens), here(queue_seconds=queue + more), [far(queue_seconds=there)], {}, RULE)
    assert not (before.route is Route.REMOTE and after.route is Route.LOCAL)


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 50_000)), min_size=1, max_size=8))
def test_the_producer_is_the_one_that_would_be_done_first(queues: list[tuple[float, int]]) -> None:
    shared = link()
    producers = [
        far(str(slot), slot, over=shared, queue_seconds=wait) for slot, (wait, _) in enumerate(queues)
    ]
    matches = {slot: cached for slot, (_, cached) in enumerate(queues) if cached}
    choice = schedule(Work(60_000), here(), producers, matches, RULE)
    assert choice.producer is not None
    sent = shared.seconds_for(WIRE.bytes_of(60_000, 0))
    expected = [max(wait + FAST.at(60_000 - cached), wait + sent) for wait, cached in queues]
    assert choice.remote_seconds == pytest.approx(min(expected))
    assert expected[choice.producer.slot] == pytest.approx(min(expected))


def test_a_fixed_threshold_is_kept_whatever_the_queues() -> None:
    fixed = replace(RULE, adaptive=False)
    assert schedule(Work(LONG), here(), [far(queue_seconds=50)], {}, fixed).route is Route.REMOTE
    assert schedule(Work(SHORT), here(queue_seconds=50), [far()], {}, fixed).route is Route.LOCAL


@pytest.mark.parametrize(
    ("deadline", "route", "reason"),
    [
        (3.0, Route.REMOTE, Reason.DEADLINE),
        (20.0, Route.LOCAL, Reason.UNDER_THRESHOLD),
        (0.1, Route.LOCAL, Reason.UNDER_THRESHOLD),
    ],
    ids=["only-there-in-time", "in-time-here-too", "in-time-nowhere"],
)
def test_a_deadline_moves_what_only_the_other_side_can_meet(
    deadline: float, route: Route, reason: Reason
) -> None:
    rule = replace(RULE, threshold_tokens=50_000, adaptive=False)
    choice = schedule(Work(LONG, deadline), here(), [far()], {}, rule)
    assert (choice.route, choice.reason) == (route, reason)


def test_a_copy_is_made_when_it_takes_less_than_it_saves() -> None:
    copying = replace(RULE, copies_to_decode=True)
    choice = schedule(Work(LONG), here(), [far()], {0: 32_000}, copying)
    assert choice.route is Route.LOCAL
    assert choice.copy is not None
    assert choice.copy.tokens == 32_000
    assert choice.copy.seconds < choice.copy.saved_seconds == pytest.approx(SLOW.at(40_000) - SLOW.at(8_000))
    slow = schedule(Work(LONG), here(), [far(over=link(0.5))], {0: 32_000}, replace(copying, adaptive=False))
    assert slow.copy is None
    assert slow.route is Route.REMOTE
    scarce = schedule(Work(LONG), here(), [far(over=link(scarce=True))], {0: 32_000}, copying)
    assert scarce.copy is None
    assert scarce.reason is Reason.OVER_THRESHOLD


def test_the_wire_carries_what_is_lacking_and_the_whole_state() -> None:
    assert WIRE.bytes_of(1000, 1000) == 174 << 20
    assert WIRE.bytes_of(1000, 400) == (174 << 20) + 600 * 17_280
    assert WIRE.bytes_of(1000, 2000) == 174 << 20


def test_patience_covers_the_queue_but_never_more_than_the_local_prefill_is_worth() -> None:
    queued = schedule(Work(LONG), here(), [far(queue_seconds=2)], {}, RULE)
    assert queued.route is Route.REMOTE
    assert first_kv_patience_seconds(queued, 60) == pytest.approx(3.0)
    assert first_kv_patience_seconds(queued, 1) == 1
    long = schedule(Work(LONG), here(), [far(queue_seconds=5)], {}, replace(RULE, adaptive=False))
    assert first_kv_patience_seconds(long, 60) == pytest.approx(SLOW.at(LONG))
    unknown = schedule(Work(LONG), DecodeSide(0), [Producer("p", 0)], {}, RULE)
    assert unknown.route is Route.REMOTE
    assert first_kv_patience_seconds(unknown, 60) is None


def test_nothing_is_known_and_nobody_is_there() -> None:
    assert schedule(Work(LONG), DecodeSide(0), [], {}, RULE).reason is Reason.PREFILL_FULL
    assert schedule(Work(SHORT), DecodeSide(0), [], {}, RULE).reason is Reason.UNDER_THRESHOLD


@given(
    st.lists(
        st.tuples(st.integers(1, 9_999), st.floats(0.001, 9)),
        min_size=2,
        max_size=6,
        unique_by=lambda p: p[0],
    )
)
def test_a_compiled_curve_is_the_curve(points: list[tuple[int, float]]) -> None:
    ordered = sorted(points)
    values = sorted(value for _, value in ordered)
    curve = Curve.from_points(
        [(tokens, value) for (tokens, _), value in zip(ordered, values, strict=True)], extrapolates=True
    )
    compiled = CompiledCurve(curve)
    for tokens in (1, 5, 77, 500, 5_000, 9_999, 20_000):
        assert compiled.at(tokens) == pytest.approx(curve.at(tokens))
    assert compiled.at(0) == 0
