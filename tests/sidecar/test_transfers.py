"""Transfers without sockets: whatever is published, lost, damaged and asked for again, all that is wanted
lands once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prfaas_connector.local_api.units import Lane, Ranges, count, intersect, normalise
from prfaas_sidecar.protocol.bodies import Open
from prfaas_sidecar.protocol.frames import DataHeader, FrameType, WireError
from prfaas_sidecar.protocol.states import PullState
from prfaas_sidecar.transfers.consumer import ConsumerTransfer
from prfaas_sidecar.transfers.producer import Chunk, LayoutError, ProducerTransfer, Pull
from prfaas_sidecar.transfers.unitmap import Packed, runs

UNITS = 12
LANES = (
    Lane(0, 0, 0, UNITS, 10),
    Lane(0, 1, 0, UNITS, 10),
    Lane(1, 2, 0, UNITS, 30),
    Lane(2, 3, 0, 4, 7),
    Lane(2, 4, 0, 4, 7),
)
STATE_GROUP = 2
want_of = st.lists(st.tuples(st.integers(0, UNITS), st.integers(0, 6)), max_size=3).map(
    lambda pairs: normalise([(start, min(start + size, UNITS)) for start, size in pairs])
)
state_want = st.lists(st.integers(0, 3), max_size=4).map(lambda units: normalise([(u, u + 1) for u in units]))


def question(transfer: ConsumerTransfer, pull: int) -> Open:
    return Open(
        pull=pull,
        transfer_id="a" * 32,
        prompt_digest="b" * 64,
        lanes=tuple(
            (each.group, each.layer, each.shard, each.units, each.unit_bytes) for each in transfer.lanes
        ),
        want=transfer.want,
        missing=transfer.missing(),
        deadline_seconds=1.0,
    )


class Crossing(RuleBasedStateMachine):
    """An engine publishes, a link loses and damages, a consumer counts."""

    @initialize(first=want_of, second=want_of, third=state_want, frame=st.integers(1, 60))
    def start(self, first: Ranges, second: Ranges, third: Ranges, frame: int) -> None:
        self.frame = frame
        self.producer = ProducerTransfer(LANES, [0])
        self.consumer = ConsumerTransfer(LANES, (first, second, third), checksum_retries=10_000)
        self.pulls = 0
        self.pull = Pull(self.producer, question(self.consumer, 0))
        self.published: set[tuple[int, int]] = set()
        self.landed: set[tuple[int, int]] = set()
        self.wire: list[DataHeader] = []
        self.skipped: set[tuple[int, int]] = set()

    @precondition(lambda self: not self.producer.done)
    @rule(lane=st.integers(0, len(LANES) - 1), first=st.integers(0, UNITS - 1), size=st.integers(1, UNITS))
    def publish(self, lane: int, first: int, size: int) -> None:
        units = LANES[lane].units
        first, size = first % units, min(size, units - first % units)
        position = None
        if LANES[lane].group == STATE_GROUP:
            size, position = 1, (first + 1) * 16
        self.producer.publish(lane, first, size, position)
        self.published |= {(lane, unit) for unit in range(first, first + size)}

    @rule()
    def send(self) -> None:
        chunk = self.pull.next_chunk(self.frame)
        if chunk is None:
            assert not self.pull.waiting
            return
        size = chunk.count * LANES[chunk.lane].unit_bytes
        assert chunk.count == 1 or size <= self.frame
        assert {
            (chunk.lane, unit) for unit in range(chunk.first, chunk.first + chunk.count)
        } <= self.published
        header = DataHeader(self.pulls, chunk.lane, chunk.first, chunk.count, chunk.position, 0, size)
        self.consumer.claim(header)
        self.wire.append(header)

    @precondition(lambda self: self.wire)
    @rule(which=st.integers(0, 100), intact=st.booleans())
    def arrive(self, which: int, intact: bool) -> None:
        header = self.wire.pop(which % len(self.wire))
        if intact:
            self.consumer.landed(header)
            units = {(header.lane, unit) for unit in range(header.first, header.first + header.count)}
            assert not units & self.landed
            self.landed |= units
            return
        again = self.consumer.corrupt(header)
        assert again is not None
        self.pull.again(again.lane, again.first, again.count)

    @rule()
    def lose_the_link(self) -> None:
        self.wire.clear()
        self.pulls += 1
        self.consumer.reopened()
        self.pull = Pull(self.producer, question(self.consumer, self.pulls))

    @precondition(lambda self: not self.producer.done)
    @rule()
    def finish(self) -> None:
        self.producer.rank_done(0, complete=True)

    @precondition(lambda self: self.producer.done and not self.pull.waiting)
    @rule()
    def end(self) -> None:
        if self.consumer.pull_state is not PullState.ENDING:
            self.consumer.ended(self.producer.never_published(self.consumer.want))

    @invariant()
    def what_is_told_is_what_has_landed(self) -> None:
        if not hasattr(self, "consumer"):
            return
        whole: tuple[set[int], ...] = (set(), set(), set())
        for group in range(3):
            lanes = [index for index, lane in enumerate(LANES) if lane.group == group]
            units = range(LANES[lanes[0]].units)
            whole[group].update(u for u in units if all((lane, u) in self.landed for lane in lanes))
        told = self.consumer.landed_ranges()
        assert [{u for a, b in ranges for u in range(a, b)} for ranges in told] == list(whole)
        assert self.consumer.units_landed == len(self.landed)
        assert self.consumer.positions() == ({}, {}, {unit: (unit + 1) * 16 for unit in whole[2]})

    @invariant()
    def complete_means_that_nothing_can_still_come(self) -> None:
        if not hasattr(self, "consumer") or not self.consumer.complete():
            return
        wanted = {
            (index, unit)
            for index, lane in enumerate(LANES)
            for start, end in self.consumer.want[lane.group]
            for unit in range(start, end)
        }
        if self.producer.done:
            usable = {
                (index, unit)
                for index, unit in wanted
                if all(
                    (i, unit) in self.published
                    for i, lane in enumerate(LANES)
                    if lane.group == LANES[index].group
                )
            }
            assert usable <= self.landed
        else:
            assert wanted <= self.landed


TestCrossing = Crossing.TestCase


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=80), st.integers(0, 2))
def test_runs_are_maximal_and_complete(states: list[int], wanted: int) -> None:
    found = runs(bytearray(states), wanted, 5)
    assert [unit - 5 for start, end in found for unit in range(start, end)] == [
        index for index, state in enumerate(states) if state == wanted
    ]
    assert all(start < end for start, end in found)
    assert all(left[1] < right[0] for left, right in pairwise(found))


@given(want_of, st.integers(0, UNITS), st.integers(1, 4))
def test_packed_positions_count_only_what_is_wanted(want: Ranges, first: int, size: int) -> None:
    packed = Packed(want)
    order = [unit for start, end in want for unit in range(start, end)]
    assert packed.total == count(want)
    inside = any(start <= first and first + size <= end for start, end in want)
    assert packed.position(first, size) == (order.index(first) if inside else None)


def header(**changes: int | None) -> DataHeader:
    fields: dict[str, int | None] = {
        "pull": 0, "lane": 0, "first": 0, "count": 2, "position": None, "checksum": 0, "payload_bytes": 20,
    }  # fmt: skip
    return DataHeader(**{**fields, **changes})  # type: ignore[arg-type]


def consumer() -> ConsumerTransfer:
    return ConsumerTransfer(LANES, (((0, 4), (8, 10)), (), ((0, 4),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lane": 5},
        {"first": 3},
        {"first": 4},
        {"first": 100},
        {"payload_bytes": 21},
        {"lane": 2, "payload_bytes": 60},
    ],
)
def test_data_that_was_not_asked_for_is_a_violation(wrong: dict[str, int]) -> None:
    transfer = consumer()
    with pytest.raises(WireError):
        transfer.claim(header(**wrong))
    assert transfer.claim(header()) == 0
    assert transfer.claim(header(first=8)) == 40


def test_a_unit_that_is_under_way_or_landed_may_not_come_again() -> None:
    transfer = consumer()
    transfer.claim(header())
    with pytest.raises(WireError, match="second time"):
        transfer.claim(header(first=1, count=1, payload_bytes=10))
    transfer.landed(header())
    with pytest.raises(WireError, match="second time"):
        transfer.claim(header())


def test_lanes_that_place_a_snapshot_differently_contradict_each_other() -> None:
    transfer = consumer()
    snapshot = header(lane=3, count=1, position=16, payload_bytes=7)
    transfer.claim(snapshot)
    transfer.landed(snapshot)
    with pytest.raises(WireError, match="differently"):
        transfer.claim(header(lane=4, count=1, position=32, payload_bytes=7))


def test_damage_is_asked_for_again_only_so_often() -> None:
    transfer = ConsumerTransfer(LANES, (((0, 4),), (), ()), checksum_retries=1)
    for expected in (True, False):
        transfer.claim(header())
        assert (transfer.corrupt(header()) is not None) is expected


def test_nothing_comes_after_a_refusal_or_a_second_end() -> None:
    transfer = consumer()
    transfer.answered(FrameType.REFUSED)
    with pytest.raises(WireError, match="CLOSED"):
        transfer.claim(header())
    transfer = consumer()
    transfer.ended(())
    with pytest.raises(WireError):
        transfer.ended(())
    with pytest.raises(WireError):
        consumer().ended(((),))


@pytest.mark.parametrize(
    ("lane", "first", "size", "position"),
    [(9, 0, 1, None), (0, 10, 3, None), (3, 0, 2, 16), (0, UNITS, 1, None)],
)
def test_an_engine_that_publishes_what_is_not_there_is_told(
    lane: int, first: int, size: int, position: int | None
) -> None:
    with pytest.raises(LayoutError):
        ProducerTransfer(LANES, [0]).publish(lane, first, size, position)


def test_ranks_are_done_together_and_complete_only_if_all_are() -> None:
    transfer = ProducerTransfer(LANES, [0, 1])
    transfer.rank_done(0, complete=False)
    assert not transfer.done
    transfer.rank_done(1, complete=True)
    assert (transfer.done, transfer.done_complete) == (True, False)


def test_order_of_publishing_is_order_of_sending() -> None:
    transfer = ProducerTransfer(LANES, [0])
    transfer.publish(1, 0, 2, None)
    transfer.publish(0, 0, 4, None)
    transfer.publish(1, 2, 2, None)
    pull = Pull(transfer, question(ConsumerTransfer(LANES, (((1, 4),), (), ())), 0))
    chunks = [pull.next_chunk(20) for _ in range(4)]
    assert chunks == [Chunk(1, 1, 1, None), Chunk(0, 1, 2, None), Chunk(0, 3, 1, None), Chunk(1, 2, 2, None)]
    assert pull.next_chunk(20) is None


@pytest.mark.parametrize(("lane", "first", "size"), [(0, 0, 1), (0, 6, 1), (1, 1, 1), (7, 0, 1)])
def test_only_what_was_asked_for_and_published_can_be_sent_again(lane: int, first: int, size: int) -> None:
    transfer = ProducerTransfer(LANES, [0])
    transfer.publish(0, 0, 6, None)
    pull = Pull(transfer, question(ConsumerTransfer(LANES, (((1, 8),), (), ())), 0))
    with pytest.raises(LayoutError):
        pull.again(lane, first, size)
    pull.again(0, 2, 3)
    assert intersect(((2, 5),), ((0, 6),)) == ((2, 5),)
