"""The egress ledger: what is known, and what counts as spent because it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_operator.federation.egress import (
    LinkLedger,
    LinkReading,
    advance,
    budget,
    from_json,
    to_json,
)

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
GIGABIT = 1e9


def ledger(**fields: object) -> LinkLedger:
    counted = LinkLedger(
        since=MARCH,
        read_at=NOW - timedelta(seconds=10),
        spent_bytes=1000,
        highest_bits_per_second=GIGABIT,
        counters={"a": 600, "b": 400},
    )
    return replace(counted, **fields)  # type: ignore[arg-type]


def test_growth_is_spent_and_a_counter_that_begins_anew_is_another_one() -> None:
    after = advance(ledger(), LinkReading({"a": 700, "b": 400, "c": 50}), NOW)
    assert (after.spent_bytes, after.unknown_bytes) == (1150, 0)
    assert after.counters == {"a": 700, "b": 400, "c": 50}


def test_the_first_reading_counts_whole() -> None:
    first = advance(None, LinkReading({"a": 700}, bits_per_second=5.0), NOW)
    assert (first.spent_bytes, first.since, first.highest_bits_per_second) == (700, MARCH, 5.0)


def test_a_sidecar_that_ended_counts_at_the_highest_rate_less_what_others_received() -> None:
    after = advance(ledger(), LinkReading({"a": 600 + 10**9}), NOW)
    assert after.unknown_bytes == 10 * GIGABIT / 8 - 10**9
    assert after.spent_bytes == 1000 + 10 * GIGABIT / 8
    assert after.counters == {"a": 600 + 10**9}


def test_a_sidecar_that_does_not_answer_is_not_taken_for_ended() -> None:
    silent = advance(ledger(), LinkReading({"a": 600}, unread=frozenset({"b"})), NOW)
    assert (silent.spent_bytes, silent.counters) == (1000, {"a": 600, "b": 400})
    back = advance(silent, LinkReading({"a": 600, "b": 900}), NOW + timedelta(seconds=10))
    assert back.spent_bytes == 1500


def test_a_restart_in_which_nothing_changed_is_known_exactly() -> None:
    stored = from_json(to_json({"us": ledger()}))["us"]
    after = advance(stored, LinkReading({"a": 10_600, "b": 400}), NOW + timedelta(hours=2))
    assert (after.spent_bytes, after.unknown_bytes) == (11_000, 0)


def test_a_restart_over_which_sidecars_changed_is_not_known() -> None:
    """Others may have come and gone meanwhile."""
    later = NOW + timedelta(seconds=90)
    after = advance(ledger(), LinkReading({"a": 600, "b": 400, "c": 0}), later)
    assert after.unknown_bytes == 100 * GIGABIT / 8


def test_a_month_begins_anew_with_what_came_since_the_last_reading() -> None:
    april = datetime(2026, 4, 1, 0, 0, 5, tzinfo=UTC)
    after = advance(
        ledger(read_at=april - timedelta(seconds=10), unknown_bytes=7),
        LinkReading({"a": 650, "b": 400}),
        april,
    )
    assert (after.since, after.spent_bytes, after.unknown_bytes) == (datetime(2026, 4, 1, tzinfo=UTC), 50, 0)


def test_a_clock_that_goes_back_gives_nothing_back() -> None:
    february = datetime(2026, 2, 28, tzinfo=UTC)
    after = advance(ledger(), LinkReading({"a": 601, "b": 400}), february)
    assert (after.since, after.spent_bytes, after.read_at) == (MARCH, 1001, ledger().read_at)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**12), max_size=3),
            st.sets(st.sampled_from("abc")),
            st.integers(0, 3600),
        ),
        max_size=12,
    )
)
def test_spending_never_shrinks_within_a_month_and_survives_the_disk(
    rounds: list[tuple[dict[str, int], set[str], int]],
) -> None:
    counted: LinkLedger | None = None
    now = NOW
    for counters, unread, seconds in rounds:
        now += timedelta(seconds=seconds)
        before = counted
        counted = advance(counted, LinkReading(counters, frozenset(unread), 1e6), now)
        counted = from_json(to_json({"us": counted}))["us"]
        assert counted.unknown_bytes <= counted.spent_bytes
        if before is not None:
            assert counted.spent_bytes >= before.spent_bytes


def test_a_budget_is_spent_when_nothing_is_left() -> None:
    assert budget("us", "eu", ledger(), None).left_bytes is None
    assert budget("us", "eu", ledger(), 1500).left_bytes == 500
    assert not budget("us", "eu", ledger(), 1500).is_spent
    assert budget("us", "eu", ledger(), 1000).is_spent
    assert budget("us", "eu", ledger(), 10).left_bytes == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "links": {}}',
        '{"version": 1, "links": []}',
        '{"version": 1, "links": {"us": {"since": "2026-03-01", "read_at": "2026-03-01"}}}',
        '{"version": 1, "links": {"us": 5}}',
    ],
)
def test_what_is_no_ledger_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(text)
