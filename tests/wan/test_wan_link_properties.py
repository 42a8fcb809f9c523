"""What holds for every link and every traffic."""

from __future__ import annotations

import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from wan_trains import SEGMENT_BYTES, NumberedTrain, numbers

from prfaas_wan.link import BURST_SECONDS, Link
from prfaas_wan.settings import LinkSettings

rates = st.one_of(st.none(), st.floats(min_value=1e4, max_value=1e10))


@st.composite
def link_settings(draw: st.DrawFn) -> LinkSettings:
    delay = draw(st.floats(min_value=0, max_value=0.5))
    return LinkSettings(
        rate_bits_per_second=draw(rates),
        delay_seconds=delay,
        jitter_seconds=delay * draw(st.floats(min_value=0, max_value=1)),
        loss_fraction=draw(st.sampled_from([0.0, 0.001, 0.01, 0.3, 1.0])),
        queue_bytes=draw(st.one_of(st.none(), st.integers(min_value=1, max_value=10**6))),
        cut=draw(st.sampled_from([False, False, False, True])),
    )


class LinkMachine(RuleBasedStateMachine):
    """Offers, waits and changes in any order: nothing appears twice, out of order or uncounted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link: Link[NumberedTrain] = Link(LinkSettings(), Random(1))
        self.next_number = 0
        self.last_arrived = -1

    @rule(segments=st.integers(min_value=1, max_value=45))
    def offer(self, segments: int) -> None:
        self.link.offer(self.now, NumberedTrain(self.next_number, segments))
        self.next_number += segments

    @rule(seconds=st.floats(min_value=0, max_value=1))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.arrive(self.link.deliver(self.now))
        following = self.link.next_arrival()
        assert following is None or following > self.now

    @rule()
    def wait_for_the_next(self) -> None:
        at = self.link.next_arrival()
        if at is not None:
            self.now = max(self.now, at)
            self.arrive(self.link.deliver(self.now))

    @rule(changed=link_settings())
    def configure(self, changed: LinkSettings) -> None:
        self.link.configure(self.now, changed)

    def arrive(self, trains: list[NumberedTrain]) -> None:
        for number in numbers(trains):
            assert number > self.last_arrived
            self.last_arrived = number

    @invariant()
    def every_segment_is_accounted_for(self) -> None:
        stats = self.link.stats
        assert stats.offered_segments == self.next_number
        assert stats.offered_segments == (
            stats.delivered_segments
            + stats.lost_segments
            + stats.dropped_queue_segments
            + stats.dropped_cut_segments
            + stats.dropped_memory_segments
            + self.link.held_segments
        )
        assert self.link.held_bytes == self.link.held_segments * SEGMENT_BYTES

    @invariant()
    def an_empty_link_needs_no_waking_and_a_full_one_does(self) -> None:
        assert (self.link.next_arrival() is None) == (self.link.held_segments == 0)


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

traffic = st.lists(
    st.tuples(st.floats(min_value=0, max_value=0.05), st.integers(min_value=1, max_value=45)),
    min_size=1,
    max_size=60,
)


@given(link_settings(), traffic)
@settings(max_examples=100, deadline=None)
def test_the_far_end_never_sees_more_than_the_rate_and_never_sooner_than_the_delay(
    chosen: LinkSettings, offers: list[tuple[float, int]]
) -> None:
    steady = chosen.model_copy(update={"jitter_seconds": 0.0, "cut": False})
    link: Link[NumberedTrain] = Link(steady, Random(3))
    offered_at: dict[int, float] = {}
    arrived: list[tuple[float, NumberedTrain]] = []
    now = 0.0

    def run_until(end: float) -> None:
        while (at := link.next_arrival()) is not None and at <= end:
            arrived.extend((at, train) for train in link.deliver(at))

    for pause, segments in offers:
        now += pause
        run_until(now)
        first = len(offered_at)
        link.offer(now, NumberedTrain(first, segments))
        offered_at.update(dict.fromkeys(range(first, first + segments), now))
    run_until(math.inf)

    assert link.held_segments == 0
    for at, train in arrived:
        assert at >= offered_at[train.first] + steady.delay_seconds - 1e-9
    if steady.rate_bits_per_second is None or not arrived:
        return
    burst_bytes = max(SEGMENT_BYTES, steady.rate_bits_per_second / 8 * BURST_SECONDS)
    for begin in range(0, len(arrived), 7):
        carried = 0
        for at, train in arrived[begin:]:
            carried += train.segments * SEGMENT_BYTES
            window = at - arrived[begin][0]
            assert carried <= window * steady.rate_bits_per_second / 8 * (1 + 1e-9) + burst_bytes + 1


@given(link_settings(), traffic)
@settings(max_examples=100, deadline=None)
def test_the_queue_never_holds_more_than_its_limit(
    chosen: LinkSettings, offers: list[tuple[float, int]]
) -> None:
    link: Link[NumberedTrain] = Link(chosen, Random(4))
    now = 0.0
    for pause, segments in offers:
        now += pause
        link.offer(now, NumberedTrain(0, segments))
        # The segment being sent counts whole here, and only its unsent part against the limit.
        burst_bytes = max(SEGMENT_BYTES, (chosen.rate_bits_per_second or 0) / 8 * BURST_SECONDS)
        assert link.queued_bytes <= max(SEGMENT_BYTES, chosen.queue_limit_bytes + burst_bytes)
