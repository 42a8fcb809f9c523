"""The link in virtual time: single effects, one by one."""

from __future__ import annotations

from random import Random

import pytest
from wan_trains import SEGMENT_BYTES, NumberedTrain, numbers

from prfaas_wan.link import HELD_LIMIT_BYTES, Link
from prfaas_wan.settings import LinkSettings, changed

MBIT = 1e6


def make_link(settings: LinkSettings, seed: int = 1) -> Link[NumberedTrain]:
    return Link(settings, Random(seed))


def arrivals(link: Link[NumberedTrain]) -> list[tuple[float, int]]:
    """Run the link until it is empty, waking only when it says; (time, segment number) of each arrival."""
    arrived = []
    while (at := link.next_arrival()) is not None:
        arrived += [(at, number) for number in numbers(link.deliver(at))]
    return arrived


def test_an_unlimited_link_without_delay_delivers_at_once() -> None:
    link = make_link(LinkSettings())
    link.offer(5.0, NumberedTrain(0, 45))
    assert link.next_arrival() == 5.0
    assert numbers(link.deliver(5.0)) == list(range(45))
    assert link.next_arrival() is None


def test_delay_alone_shifts_every_train_by_the_same_time() -> None:
    link = make_link(LinkSettings(delay_seconds=0.025))
    link.offer(1.0, NumberedTrain(0, 1))
    link.offer(1.5, NumberedTrain(1, 1))
    assert link.deliver(1.0249) == []
    assert arrivals(link) == [(pytest.approx(1.025), 0), (pytest.approx(1.525), 1)]


@pytest.mark.parametrize(
    ("rate_bits_per_second", "segments", "expected_seconds"),
    [(12e6, 1, 0.001), (12e6, 3, 0.003), (1.2e6, 5, 0.05), (12e9, 40, 0.00004)],
)
def test_serialisation_takes_bytes_over_rate(
    rate_bits_per_second: float, segments: int, expected_seconds: float
) -> None:
    link = make_link(LinkSettings(rate_bits_per_second=rate_bits_per_second, queue_bytes=10**6))
    link.offer(0.0, NumberedTrain(0, segments))
    assert arrivals(link)[-1] == (pytest.approx(expected_seconds), segments - 1)


def test_a_slow_link_delivers_a_super_packet_in_small_bursts() -> None:
    link = make_link(LinkSettings(rate_bits_per_second=12 * MBIT, queue_bytes=10**6))
    link.offer(0.0, NumberedTrain(0, 40))
    times = [at for at, _ in arrivals(link)]
    assert times[0] == pytest.approx(0.002)  # two segments fit into two milliseconds
    assert len(set(times)) == 20


def test_rate_and_delay_add_up() -> None:
    link = make_link(LinkSettings(rate_bits_per_second=12 * MBIT, delay_seconds=0.1))
    for number in range(3):
        link.offer(0.0, NumberedTrain(number, 1))
    assert [at for at, _ in arrivals(link)] == pytest.approx([0.101, 0.102, 0.103])


def test_an_idle_link_saves_up_no_credit() -> None:
    link = make_link(LinkSettings(rate_bits_per_second=12 * MBIT))
    link.offer(0.0, NumberedTrain(0, 1))
    link.deliver(100.0)
    link.offer(100.0, NumberedTrain(1, 1))
    assert link.next_arrival() == pytest.approx(100.001)


@pytest.mark.parametrize(
    ("queue", "fitting"),
    [
        (LinkSettings(rate_bits_per_second=12 * MBIT, queue_bytes=10 * SEGMENT_BYTES), 10),
        (LinkSettings(rate_bits_per_second=12 * MBIT, queue_seconds=0.02), 20),
        (LinkSettings(rate_bits_per_second=12 * MBIT), 50),  # 50 ms when nothing is said
        (LinkSettings(rate_bits_per_second=12 * MBIT, queue_bytes=1), 1),  # an idle link takes one segment
    ],
)
def test_what_does_not_fit_into_the_queue_is_dropped_from_the_tail(queue: LinkSettings, fitting: int) -> None:
    link = make_link(queue)
    link.offer(0.0, NumberedTrain(0, 60))
    assert [number for _, number in arrivals(link)] == list(range(fitting))
    assert link.stats.dropped_queue_segments == 60 - fitting


def test_the_queue_has_room_again_for_what_was_sent() -> None:
    link = make_link(LinkSettings(rate_bits_per_second=12 * MBIT, queue_bytes=10 * SEGMENT_BYTES))
    link.offer(0.0, NumberedTrain(0, 10))
    link.offer(0.0045, NumberedTrain(10, 10))  # four and a half segments are out
    assert link.stats.dropped_queue_segments == 6


def test_loss_hits_segments_and_the_rest_of_the_train_goes_on() -> None:
    link = make_link(LinkSettings(loss_fraction=0.1))
    for train in range(1000):
        link.offer(0.0, NumberedTrain(train * 45, 45))
    arrived = [number for _, number in arrivals(link)]
    lost = link.stats.lost_segments
    assert len(arrived) == 45_000 - lost
    assert arrived == sorted(set(arrived))
    # Five standard deviations of the binomial distribution; the seed is fixed besides.
    assert abs(lost - 4500) < 5 * (45_000 * 0.1 * 0.9) ** 0.5
    touched_trains = {number // 45 for number in set(range(45_000)) - set(arrived)}
    assert len(touched_trains) > 0.95 * 1000


@pytest.mark.parametrize(("loss_fraction", "arriving"), [(0.0, 100), (1.0, 0)])
def test_loss_of_none_and_of_all(loss_fraction: float, arriving: int) -> None:
    link = make_link(LinkSettings(loss_fraction=loss_fraction))
    link.offer(0.0, NumberedTrain(0, 100))
    assert len(arrivals(link)) == arriving


def test_the_same_seed_loses_the_same_segments() -> None:
    def survivors(seed: int) -> list[int]:
        link = make_link(LinkSettings(loss_fraction=0.05), seed)
        link.offer(0.0, NumberedTrain(0, 2000))
        return [number for _, number in arrivals(link)]

    assert survivors(7) == survivors(7)
    assert survivors(7) != survivors(8)


def test_jitter_keeps_order_stays_within_its_bounds_and_is_centred() -> None:
    link = make_link(LinkSettings(delay_seconds=0.05, jitter_seconds=0.01))
    offered = {number: number * 0.0005 for number in range(20_000)}
    for number, at in offered.items():
        link.offer(at, NumberedTrain(number, 1))
    arrived = arrivals(link)
    assert [number for _, number in arrived] == list(offered)
    delays = [at - offered[number] for at, number in arrived]
    assert 0.04 <= min(delays) < 0.042
    assert 0.058 < max(delays) <= 0.06
    assert sum(delays) / len(delays) == pytest.approx(0.05, abs=0.001)


def test_reordering_jitter_changes_the_order() -> None:
    link = make_link(LinkSettings(delay_seconds=0.05, jitter_seconds=0.01, reorder=True))
    for number in range(200):
        link.offer(number * 0.001, NumberedTrain(number, 1))
    arrived = [number for _, number in arrivals(link)]
    assert sorted(arrived) == list(range(200))
    assert arrived != sorted(arrived)


def test_a_cut_loses_what_is_under_way_and_what_comes_and_restoring_mends_it() -> None:
    settings = LinkSettings(rate_bits_per_second=12 * MBIT, delay_seconds=0.01)
    link = make_link(settings)
    link.offer(0.0, NumberedTrain(0, 5))
    assert numbers(link.deliver(0.0125)) == [0, 1]  # a burst of two; one of two and one of one wait behind it
    before = link.stats.delivered_segments
    link.configure(0.0127, changed(settings, {"cut": True}))
    link.offer(0.013, NumberedTrain(5, 2))
    assert link.next_arrival() is None
    assert link.deliver(10.0) == []
    assert link.stats.dropped_cut_segments == 7 - before
    link.configure(10.0, settings)
    link.offer(10.0, NumberedTrain(7, 1))
    assert arrivals(link) == [(pytest.approx(10.011), 7)]


def test_a_changed_rate_applies_to_what_already_waits() -> None:
    slow = LinkSettings(rate_bits_per_second=12_000, queue_bytes=10**6)  # a segment a second
    link = make_link(slow)
    link.offer(0.0, NumberedTrain(0, 3))
    link.configure(0.5, changed(slow, {"rate_bits_per_second": 120_000}))  # ten a second
    assert [at for at, _ in arrivals(link)] == pytest.approx([0.55, 0.65, 0.75])


def test_without_a_rate_what_waited_leaves_at_once() -> None:
    slow = LinkSettings(rate_bits_per_second=12_000, queue_bytes=10**6, delay_seconds=1.0)
    link = make_link(slow)
    link.offer(0.0, NumberedTrain(0, 3))
    link.configure(0.5, changed(slow, {"rate_bits_per_second": None}))
    assert arrivals(link) == [(pytest.approx(1.5), number) for number in range(3)]


def test_a_shorter_delay_lets_nothing_overtake() -> None:
    far = LinkSettings(delay_seconds=1.0)
    link = make_link(far)
    link.offer(0.0, NumberedTrain(0, 1))
    link.configure(0.1, changed(far, {"delay_seconds": 0.01}))
    link.offer(0.1, NumberedTrain(1, 1))
    assert arrivals(link) == [(1.0, 0), (1.0, 1)]


def test_what_a_link_holds_is_bounded() -> None:
    link = make_link(LinkSettings(delay_seconds=60))
    segments = 45
    big = HELD_LIMIT_BYTES // 1000
    for number in range(40):
        link.offer(0.0, NumberedTrain(number * segments, segments, segment_bytes=big))
    assert link.held_bytes <= HELD_LIMIT_BYTES
    assert link.stats.dropped_memory_segments == 40 * segments - link.held_segments
    assert link.stats.dropped_memory_segments > 0
