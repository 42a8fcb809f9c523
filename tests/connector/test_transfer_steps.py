"""Both halves of a transfer, step by step: the cases that matter, spelled out. The state machines try the
orders that nobody thought of."""

from __future__ import annotations

import pytest

from prfaas_connector.anytime import Reason
from prfaas_connector.consumer import ConsumerTransfer, Phase
from prfaas_connector.local_api.messages import Abort, Accepted, Ended, Progress, Refused, Wanted
from prfaas_connector.manifest import Group, Kind, Layout, Manifest
from prfaas_connector.producer import ANSWER_PATIENCE_SECONDS, ProducerTransfer
from prfaas_connector.request import DecodeLeg, PrefillLeg
from prfaas_connector.steps import GroupCopy, Memory, Save

ID, DIGEST = "1" * 32, "2" * 64
ATTENTION = Group(Kind.ATTENTION, 4, 0, (("a", 100),))
WINDOW = Group(Kind.WINDOW, 4, 6, (("w", 100),))
STATE = Group(Kind.STATE, 4, 0, (("s", 500),))
ARENA_BYTES = 1 << 20


def producing(prompt_tokens: int, *groups: Group, memory: bool = True) -> ProducerTransfer:
    leg = PrefillLeg(ID, DIGEST, 30.0, "spiffe://t/pool/DecodePool/chat")
    made = ProducerTransfer(leg, Manifest(Layout(groups, 1), prompt_tokens), 1000.0)
    if memory:
        grant(made)
    return made


def grant(transfer: ProducerTransfer) -> None:
    offsets = tuple(4096 * lane for lane in range(len(transfer.manifest.lanes())))
    transfer.receive(Accepted(ID, offsets), "arena", ARENA_BYTES)


def copied(save: Save | None) -> list[dict[int, int]]:
    """Per copy: unit -> block id."""
    assert save is not None
    return [dict(zip(copy.units, copy.block_ids, strict=True)) for copy in save.copies]


def test_complete_blocks_are_copied_in_the_step_that_completes_them() -> None:
    transfer = producing(16, ATTENTION)
    assert copied(transfer.step(0, 6, [[11, 12]])) == [{0: 11}]
    assert copied(transfer.step(6, 8, [[11, 12]])) == [{1: 12}]
    save = transfer.step(8, 16, [[11, 12, 13, 14]])
    assert copied(save) == [{2: 13, 3: 14}]
    assert save is not None
    assert save.last
    assert transfer.step(16, 17, [[11, 12, 13, 14, 15]]) is None
    assert transfer.abandon("PrefillFailed") is None


def test_the_block_in_which_the_prompt_ends_is_cleared_before_it_is_filled_and_copied_last() -> None:
    transfer = producing(10, ATTENTION)
    first = transfer.step(0, 9, [[11, 12, 13]])
    assert first is not None
    assert first.clears == ((0, 13),)
    assert copied(first) == [{0: 11, 1: 12}]
    last = transfer.step(9, 10, [[11, 12, 13]])
    assert last is not None
    assert last.clears == ()
    assert copied(last) == [{2: 13}]


def test_a_block_that_begins_with_the_step_is_cleared_in_it() -> None:
    transfer = producing(10, ATTENTION)
    transfer.step(0, 8, [[11, 12]])
    save = transfer.step(8, 10, [[11, 12, 13]])
    assert save is not None
    assert save.clears == ((0, 13),)
    assert copied(save) == [{2: 13}]


def test_a_block_that_was_begun_before_there_was_memory_is_not_shipped() -> None:
    transfer = producing(10, ATTENTION, memory=False)
    assert transfer.step(0, 9, [[11, 12, 13]]) is None
    grant(transfer)
    save = transfer.step(9, 10, [[11, 12, 13]])
    assert save is not None
    assert save.clears == ()
    assert copied(save) == [{0: 11, 1: 12}]
    assert save.last


def test_a_cached_prefix_waits_for_what_the_consumer_wants() -> None:
    transfer = producing(16, ATTENTION)
    assert copied(transfer.step(8, 12, [[11, 12, 13]])) == [{2: 13}]
    transfer.receive(Wanted(ID, (((1, 4),),)), "arena", ARENA_BYTES)
    assert copied(transfer.step(12, 16, [[11, 12, 13, 14]])) == [{1: 12, 3: 14}]


def test_everything_is_shipped_at_the_end_if_nobody_has_asked() -> None:
    transfer = producing(16, ATTENTION)
    assert copied(transfer.step(8, 16, [[11, 12, 13, 14]])) == [{0: 11, 1: 12, 2: 13, 3: 14}]


def test_units_that_are_not_wanted_are_not_copied() -> None:
    transfer = producing(16, ATTENTION)
    transfer.receive(Wanted(ID, (((0, 1), (3, 4)),)), "arena", ARENA_BYTES)
    assert copied(transfer.step(0, 16, [[11, 12, 13, 14]])) == [{0: 11, 3: 14}]


def test_after_a_preemption_only_what_is_missing_is_copied_from_the_new_blocks() -> None:
    transfer = producing(18, ATTENTION)
    assert copied(transfer.step(0, 9, [[11, 12, 13]])) == [{0: 11, 1: 12}]
    save = transfer.step(4, 18, [[21, 22, 23, 24, 25]])
    assert save is not None
    assert copied(save) == [{2: 23, 3: 24, 4: 25}]
    assert save.clears == ((0, 25),)


def test_a_preempted_tail_is_cleared_again_in_its_new_block() -> None:
    transfer = producing(6, ATTENTION)
    first = transfer.step(0, 5, [[11, 12]])
    second = transfer.step(0, 6, [[21, 22]])
    assert first is not None
    assert second is not None
    assert first.clears == ((0, 12),)
    assert second.clears == ((0, 22),)
    assert copied(second) == [{1: 22}]


def test_blocks_behind_the_window_are_null_and_not_copied() -> None:
    # Of 17 tokens' KV, the token at position 16 sees those at 11..15: blocks 2 and 3.
    transfer = producing(17, ATTENTION, WINDOW)
    assert transfer.manifest.blocks[1] == ((2, 4),)
    save = transfer.step(0, 12, [[11, 12, 13], [31, 32, 33]])
    assert copied(save) == [{0: 11, 1: 12, 2: 13}, {0: 33}]
    late = producing(17, ATTENTION, WINDOW, memory=False)
    late.step(0, 16, [[11, 12, 13, 14], [31, 32, 33, 34]])
    grant(late)
    save = late.step(16, 17, [[11, 12, 13, 14, 15], [0, 0, 0, 34, 35]])
    assert copied(save) == [{0: 11, 1: 12, 2: 13, 3: 14}, {1: 34}]


def test_state_is_copied_at_the_end_with_its_position() -> None:
    transfer = producing(11, ATTENTION, STATE)
    assert copied(transfer.step(0, 8, [[11, 12], [41]])) == [{0: 11, 1: 12}]
    save = transfer.step(8, 10, [[11, 12, 13], [0, 42]])
    assert save is not None
    assert save.copies == (
        GroupCopy(0, (2,), (2,), (13,)),
        GroupCopy(1, (0,), (0,), (42,), tokens=10),
    )


def test_states_are_copied_at_the_first_steps_end_behind_each_planned_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas_connector.manifest.TOKENS_PER_RESUME_TARGET", 10)
    transfer = producing(41, STATE)
    assert transfer.manifest.resume_targets == (10, 20, 30, 40)
    assert transfer.step(0, 9, [[41]]) is None
    save = transfer.step(9, 13, [[41]])
    assert save is not None
    assert save.copies == (GroupCopy(0, (0,), (0,), (41,), tokens=13),)
    assert transfer.step(13, 15, [[41]]) is None
    save = transfer.step(15, 33, [[41]])  # passes two points: the state is the later one's
    assert save is not None
    assert save.copies == (GroupCopy(0, (2,), (2,), (41,), tokens=33),)
    assert transfer.step(4, 22, [[51]]) is None  # preempted, and behind what was shipped
    save = transfer.step(22, 40, [[51]])
    assert save is not None
    assert save.copies == (GroupCopy(0, (3,), (3,), (51,), tokens=40),)


def test_without_memory_nothing_is_copied() -> None:
    transfer = producing(8, ATTENTION, memory=False)
    assert transfer.waiting(1000.0 + ANSWER_PATIENCE_SECONDS / 2)
    assert not transfer.waiting(1000.0 + ANSWER_PATIENCE_SECONDS)
    assert transfer.step(0, 8, [[11, 12]]) is None
    assert transfer.abandon("PrefillFailed") == Abort(ID, "PrefillFailed")


def test_a_refused_transfer_copies_nothing_and_has_nothing_to_abort() -> None:
    transfer = producing(8, ATTENTION, memory=False)
    transfer.receive(Refused(ID, "ArenaFull", ""), "arena", ARENA_BYTES)
    assert not transfer.waiting(1000.0)
    assert transfer.step(0, 8, [[11, 12]]) is None
    assert transfer.abandon("PrefillFailed") is None


def test_an_aborted_transfer_copies_nothing_more() -> None:
    transfer = producing(8, ATTENTION)
    transfer.step(0, 4, [[11]])
    assert transfer.abandon("PrefillFailed") == Abort(ID, "PrefillFailed")
    assert transfer.step(4, 8, [[11, 12]]) is None


# Consuming.


def consuming(prompt_tokens: int, *groups: Group, local_tokens: int = 0) -> ConsumerTransfer:
    leg = DecodeLeg(ID, DIGEST, 30.0, "192.0.2.1:7400", "spiffe://t/pool/PrefillPool/long")
    manifest = Manifest(Layout(groups, 1), prompt_tokens)
    made = ConsumerTransfer(leg, manifest, manifest.want(local_tokens), 1000.0)
    offsets = tuple(4096 * lane for lane in range(len(manifest.lanes())))
    made.receive(Accepted(ID, offsets), "arena", ARENA_BYTES, 1000.0)
    return made


def test_a_load_brings_every_block_behind_the_local_prefix() -> None:
    transfer = consuming(18, ATTENTION, local_tokens=8)
    transfer.receive(Progress(ID, (((2, 5),),), ({},), 300), "arena", ARENA_BYTES, 1001.0)
    assert transfer.matched(8, None, 1001.0) == 10
    load = transfer.load("r", 10, [[1, 2, 13, 14, 15]])
    assert load.memory == Memory("arena", (0,))
    # Only wanted units lie in the extent: unit 2 is its first.
    assert load.copies == (GroupCopy(0, (2, 3, 4), (0, 1, 2), (13, 14, 15)),)
    assert transfer.phase is Phase.LOADING
    assert transfer.matched(8, None, 1001.0) == 0


def test_state_is_loaded_into_the_last_block() -> None:
    transfer = consuming(11, ATTENTION, STATE)
    landed = Progress(ID, (((0, 3),), ((0, 1),)), ({}, {0: 10}), 800)
    transfer.receive(landed, "arena", ARENA_BYTES, 1001.0)
    assert transfer.matched(0, None, 1001.0) == 10
    load = transfer.load("r", 10, [[11, 12, 13], [0, 0, 41]])
    assert load.copies[1] == GroupCopy(1, (0,), (0,), (41,), tokens=10)


def test_once_it_has_decided_to_take_it_never_waits_again() -> None:
    """The engine may have no blocks free at once. What lands until then is taken as well."""
    transfer = consuming(40, ATTENTION)
    assert transfer.matched(0, 20.0, 1001.9) is None
    assert transfer.matched(0, 20.0, 1002.0) == 0
    assert transfer.reason is Reason.SILENT
    transfer.receive(Progress(ID, (((0, 2),),), ({},), 200), "arena", ARENA_BYTES, 1002.1)
    assert transfer.matched(0, 20.0, 1002.1) == 8
    transfer.receive(Ended(ID, "LinkLost", ""), "arena", ARENA_BYTES, 1003.0)
    assert transfer.matched(0, 20.0, 1003.0) == 8
    assert transfer.reason is Reason.SILENT


def test_a_transfer_without_memory_gives_nothing() -> None:
    leg = DecodeLeg(ID, DIGEST, 30.0, "192.0.2.1:7400", "spiffe://t/pool/PrefillPool/long")
    manifest = Manifest(Layout((ATTENTION,), 1), 40)
    transfer = ConsumerTransfer(leg, manifest, manifest.want(0), 1000.0)
    assert transfer.matched(0, None, 1030.0) == 0
    with pytest.raises(RuntimeError, match="the sidecar went away"):
        transfer.load("r", 4, [[1]])
