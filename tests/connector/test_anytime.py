"""When to stop waiting: named cases, properties, and what the rule can cost at worst."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prfaas_connector.anytime import (
    MAX_PATIENCE_SECONDS,
    MIN_PATIENCE_SECONDS,
    PACE_WINDOW_SECONDS,
    Decision,
    Reason,
    View,
    decide,
)

NOTHING_YET = View(
    opened_at=100.0,
    deadline_at=130.0,
    first_progress_at=None,
    last_progress_at=None,
    landed_bytes=0,
    wanted_bytes=1000,
    resumable_tokens=0,
    local_tokens=0,
    target_tokens=1000,
    ended=False,
    local_tokens_per_second=250.0,
    max_patience_seconds=MAX_PATIENCE_SECONDS,
)
"""A prompt that takes four seconds to compute here."""

HALF = replace(
    NOTHING_YET, first_progress_at=101.0, last_progress_at=103.0, landed_bytes=500, resumable_tokens=500
)


@pytest.mark.parametrize(
    ("view", "now", "reason"),
    [
        pytest.param(NOTHING_YET, 100.0, Reason.COMING, id="just opened"),
        pytest.param(NOTHING_YET, 103.9, Reason.COMING, id="silent for less than computing it takes"),
        pytest.param(NOTHING_YET, 104.0, Reason.SILENT, id="silent for as long as computing it takes"),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=1e6), 100.4, Reason.COMING, id="jitter is no silence"
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=1e6), 100.5, Reason.SILENT, id="a short prompt"
        ),
        pytest.param(
            replace(NOTHING_YET, first_kv_seconds=6.0), 105.9, Reason.COMING, id="a queue that was announced"
        ),
        pytest.param(
            replace(NOTHING_YET, first_kv_seconds=6.0), 106.0, Reason.SILENT, id="longer than was announced"
        ),
        pytest.param(
            replace(NOTHING_YET, first_kv_seconds=1.0),
            103.9,
            Reason.COMING,
            id="a short queue takes nothing away",
        ),
        pytest.param(
            replace(NOTHING_YET, first_kv_seconds=60.0),
            110.0,
            Reason.SILENT,
            id="a queue beyond all patience",
        ),
        pytest.param(
            replace(HALF, first_kv_seconds=60.0), 105.0, Reason.SILENT, id="a queue is over once KV comes"
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=1.0), 109.9, Reason.COMING, id="a long prompt"
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=1.0), 110.0, Reason.SILENT, id="a user watches"
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=1.0, max_patience_seconds=3.0),
            103.0,
            Reason.SILENT,
            id="patience is a setting",
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=None), 109.9, Reason.COMING, id="unknown local rate"
        ),
        pytest.param(
            replace(NOTHING_YET, local_tokens_per_second=None), 110.0, Reason.SILENT, id="unknown, silent"
        ),
        pytest.param(
            replace(NOTHING_YET, deadline_at=101.0), 101.0, Reason.DEADLINE, id="the deadline comes first"
        ),
        pytest.param(replace(NOTHING_YET, ended=True), 100.0, Reason.ENDED, id="ended with nothing"),
        pytest.param(replace(HALF, ended=True), 104.0, Reason.ENDED, id="ended half way"),
        pytest.param(
            replace(HALF, landed_bytes=1000, ended=True), 104.0, Reason.COMPLETE, id="complete before ended"
        ),
        pytest.param(replace(HALF, landed_bytes=1000), 999.0, Reason.COMPLETE, id="complete and late"),
        pytest.param(
            replace(NOTHING_YET, wanted_bytes=0), 100.0, Reason.COMPLETE, id="all of it was here before"
        ),
        pytest.param(HALF, 103.5, Reason.COMING, id="landing at a good pace"),
        pytest.param(HALF, 104.0, Reason.SILENT, id="stopped for half of what computing the rest takes"),
        pytest.param(
            replace(HALF, last_progress_at=105.1), 105.2, Reason.SLOWER_THAN_LOCAL, id="half the local pace"
        ),
        pytest.param(
            replace(HALF, last_progress_at=104.9), 104.9, Reason.COMING, id="a little slower than local"
        ),
        pytest.param(
            replace(HALF, landed_bytes=1, last_progress_at=101.9),
            101.9,
            Reason.COMING,
            id="too early to judge the pace",
        ),
        pytest.param(
            replace(HALF, landed_bytes=1, last_progress_at=103.0),
            103.0,
            Reason.SLOWER_THAN_LOCAL,
            id="a crawl",
        ),
        pytest.param(
            replace(HALF, landed_bytes=1, last_progress_at=105.0, local_tokens_per_second=None),
            105.0,
            Reason.COMING,
            id="a crawl, but nobody knows whether local is faster",
        ),
    ],
)
def test_decisions(view: View, now: float, reason: Reason) -> None:
    take = None if reason is Reason.COMING else view.resumable_tokens
    assert decide(view, now) == Decision(take, reason)


@st.composite
def views(draw: st.DrawFn) -> View:
    opened = 1000.0
    first = draw(st.none() | st.floats(0, 40).map(lambda s: opened + s))
    wanted = draw(st.integers(0, 10**12))
    target = draw(st.integers(1, 1_000_000))
    local = draw(st.integers(0, target))
    return View(
        opened_at=opened,
        deadline_at=opened + draw(st.floats(0.001, 60)),
        first_progress_at=first,
        last_progress_at=None if first is None else first + draw(st.floats(0, 20)),
        landed_bytes=0 if first is None else draw(st.integers(1, 10**12)),
        wanted_bytes=wanted,
        resumable_tokens=draw(st.integers(local, target)),
        local_tokens=local,
        target_tokens=target,
        ended=draw(st.booleans()),
        local_tokens_per_second=draw(st.none() | st.floats(0.1, 1e6)),
        max_patience_seconds=draw(st.floats(0.1, 60)),
    )


nows = st.floats(0, 100).map(lambda s: 1000.0 + s)


@given(views(), nows)
def test_it_takes_what_has_landed_or_nothing(view: View, now: float) -> None:
    decision = decide(view, now)
    assert decision.take == (None if decision.reason is Reason.COMING else view.resumable_tokens)


@given(views(), st.floats(0, 100))
def test_it_never_waits_past_the_deadline(view: View, later: float) -> None:
    assert decide(view, view.deadline_at + later).take is not None


@given(views(), nows)
def test_it_never_waits_for_what_is_over(view: View, now: float) -> None:
    assert decide(replace(view, ended=True), now).take is not None
    complete = replace(view, landed_bytes=view.wanted_bytes)
    assert decide(complete, now).reason is Reason.COMPLETE


@given(views(), nows, st.floats(0, 50))
def test_once_it_takes_time_does_not_change_that(view: View, now: float, later: float) -> None:
    if decide(view, now).take is not None:
        assert decide(view, now + later).take is not None


@given(views(), nows, st.floats(1, 20))
def test_more_patience_never_takes_sooner(view: View, now: float, factor: float) -> None:
    if decide(view, now).take is None:
        patient = replace(view, max_patience_seconds=view.max_patience_seconds * factor)
        assert decide(patient, now).take is None


@given(views(), nows, st.floats(1, 20))
def test_a_faster_engine_never_waits_longer(view: View, now: float, factor: float) -> None:
    assume(view.local_tokens_per_second is not None)
    faster = replace(view, local_tokens_per_second=(view.local_tokens_per_second or 0.0) * factor)
    if decide(view, now).take is not None:
        assert decide(faster, now).take is not None


@given(views(), nows)
def test_a_fresh_sign_of_life_never_takes_sooner(view: View, now: float) -> None:
    assume(view.last_progress_at is not None and view.last_progress_at <= now)
    if decide(view, now).take is None:
        assert decide(replace(view, last_progress_at=now), now).take is None


# What the rule costs, in a model: computing the whole prompt here takes `local_seconds`, and the transfer
# lands in pieces. Cost is the time until the last token's KV is there.


@dataclass(frozen=True)
class Piece:
    at_seconds: float
    landed: float  # part of the whole, after this piece


def cost(pieces: list[Piece], local_seconds: float, max_patience_seconds: float) -> float:
    """Polls as the engine does, but only at moments at which the decision can change."""
    grid = local_seconds / 64
    end = pieces[-1].at_seconds if pieces else 0.0
    moments = {step * grid for step in range(int((end + max_patience_seconds + local_seconds) / grid) + 2)}
    for now in sorted(moments | {piece.at_seconds for piece in pieces}):
        so_far = [piece for piece in pieces if piece.at_seconds <= now]
        landed = so_far[-1].landed if so_far else 0.0
        view = View(
            opened_at=0.0,
            deadline_at=1e9,
            first_progress_at=so_far[0].at_seconds if so_far else None,
            last_progress_at=so_far[-1].at_seconds if so_far else None,
            landed_bytes=int(landed * 10**9),
            wanted_bytes=10**9,
            resumable_tokens=int(landed * 10**6),
            local_tokens=0,
            target_tokens=10**6,
            ended=False,
            local_tokens_per_second=10**6 / local_seconds,
            max_patience_seconds=max_patience_seconds,
        )
        if decide(view, now).take is not None:
            return now + (1 - landed) * local_seconds
    raise AssertionError("still waiting long after everything has stopped")


def best(pieces: list[Piece], local_seconds: float) -> float:
    """What somebody pays who knows when the pieces land."""
    return min(
        local_seconds, *(piece.at_seconds + (1 - piece.landed) * local_seconds for piece in pieces), 1e12
    )


@pytest.mark.parametrize("local_seconds", [MIN_PATIENCE_SECONDS, 1.0, 3.0, MAX_PATIENCE_SECONDS])
def test_while_nothing_lands_it_costs_at_most_twice_the_better_choice(local_seconds: float) -> None:
    worst = 0.0
    grid = local_seconds / 64
    for step in range(1, 200):
        pieces = [Piece(step * grid + grid / 2, 1.0)]
        worst = max(worst, cost(pieces, local_seconds, MAX_PATIENCE_SECONDS) / best(pieces, local_seconds))
    assert worst <= 2.0
    assert worst > 1.9  # the model does reach the bound


@pytest.mark.parametrize("local_seconds", [0.01, 0.2, 2.0, 30.0, 300.0])
def test_a_transfer_that_never_starts_costs_a_bounded_wait(local_seconds: float) -> None:
    waited = cost([], local_seconds, MAX_PATIENCE_SECONDS) - local_seconds
    bound = min(MAX_PATIENCE_SECONDS, max(MIN_PATIENCE_SECONDS, local_seconds))
    assert waited == pytest.approx(bound, abs=local_seconds / 64)


@settings(max_examples=300)
@given(
    st.floats(1.0, 10.0),
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.001, 1.0)), min_size=1, max_size=12),
)
def test_the_worst_transfer_costs_three_times_computing_everything_here(
    local_seconds: float, steps: list[tuple[float, float]]
) -> None:
    pieces, now, landed = [], 0.0, 0.0
    for gap, part in steps:
        now += gap * local_seconds
        landed += part * (1 - landed)
        pieces.append(Piece(now, landed))
    bound = 3 * local_seconds + PACE_WINDOW_SECONDS + local_seconds / 64
    assert cost(pieces, local_seconds, MAX_PATIENCE_SECONDS) <= bound
