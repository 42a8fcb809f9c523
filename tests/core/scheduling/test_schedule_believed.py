"""What a queue is believed to be between two reports."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import InvalidInputError
from prfaas.scheduling import BelievedQueue


def test_time_works_off_what_was_told() -> None:
    queue = BelievedQueue()
    queue.told(10.0, [4.0, 6.0])
    assert [queue.wait_seconds(at) for at in (10.0, 13.0, 14.0, 99.0)] == [4.0, 1.0, 0.0, 0.0]


def test_each_own_request_takes_the_instance_that_is_free_first() -> None:
    queue = BelievedQueue()
    queue.told(0.0, [0.0, 1.0])
    waits = []
    for _ in range(4):
        waits.append(queue.wait_seconds(0.0))
        queue.sent(0.0, 5.0)
    assert waits == [0.0, 1.0, 5.0, 6.0]


def test_a_burst_between_two_reports_is_not_sent_to_one_place() -> None:
    """Two idle pools, known once: by the report alone all ten would be sent to the first."""
    pools = [BelievedQueue(), BelievedQueue()]
    for queue in pools:
        queue.told(0.0, [0.0])
    sent = [0, 0]
    for request in range(10):
        best = min((0, 1), key=lambda each: (pools[each].wait_seconds(request * 0.1), each))
        pools[best].sent(request * 0.1, 3.0)
        sent[best] += 1
    assert sent == [5, 5]


def test_a_late_report_is_completed_by_what_was_sent_after_it_was_made() -> None:
    queue = BelievedQueue()
    queue.told(0.0, [0.0])
    queue.sent(1.0, 2.0)
    queue.sent(5.0, 4.0)
    # Made before the second request was sent, and it knows of the first one.
    queue.told(2.0, [1.0])
    assert queue.wait_seconds(5.0) == 4.0
    queue.told(1.0, [100.0])
    assert queue.wait_seconds(5.0) == 4.0, "an older report than the last one says nothing new"


def test_what_others_send_is_expected_to_go_on() -> None:
    """Half of an instance's time was given by others between two reports, and so it is taken to be after."""
    queue = BelievedQueue()
    queue.told(0.0, [0.0], 0.0)
    queue.sent(1.0, 30.0)
    queue.told(60.0, [60.0], 60.0)
    assert queue.wait_seconds(60.0) == 60.0
    assert queue.wait_seconds(120.0) == pytest.approx(30.0, abs=1.0)


def test_without_ready_instances_nobody_should_come() -> None:
    queue = BelievedQueue()
    queue.told(0.0, [])
    queue.sent(0.0, 3.0)
    assert queue.wait_seconds(0.0) == math.inf


def test_a_request_of_negative_length_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="service_seconds"):
        BelievedQueue().sent(0.0, -1.0)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50)), max_size=20),
)
def test_waits_are_those_of_a_line_served_in_order(
    busy: list[float], requests: list[tuple[float, float]]
) -> None:
    """Against the line itself, played one request after the other."""
    queue = BelievedQueue()
    queue.told(0.0, busy)
    free, now = sorted(busy), 0.0
    for gap, service in requests:
        now += gap
        begins = max(free[0], now)
        assert queue.wait_seconds(now) == pytest.approx(begins - now)
        queue.sent(now, service)
        free = sorted([*free[1:], begins + service])
