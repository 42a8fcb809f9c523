"""The producing half under every order of steps, answers and preemptions."""

from __future__ import annotations

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prfaas_connector.local_api.messages import Abort, Accepted, Refused, Wanted
from prfaas_connector.local_api.units import Ranges, count
from prfaas_connector.manifest import Kind, Layout, Manifest
from prfaas_connector.producer import ANSWER_PATIENCE_SECONDS, ProducerTransfer
from prfaas_connector.request import PrefillLeg
from prfaas_connector.steps import GroupCopy, Save
from tests.connector.model_engine import JUNK, NULL_BLOCK, ZERO, ModelEngine, Slot
from tests.connector.strategies import layouts, subsets

LEG = PrefillLeg("1" * 32, "2" * 64, 30.0, "spiffe://t/pool/DecodePool/chat")
OPENED_AT = 1000.0
ARENA_BYTES = 1 << 20


class Producing(RuleBasedStateMachine):
    """One prompt. The arena holds what the copies found in the cache at the moment of the copy."""

    def __init__(self) -> None:
        super().__init__()
        # Several resume points without prompts of thousands of tokens.
        self.patch = mock.patch("prfaas_connector.manifest.TOKENS_PER_RESUME_TARGET", 24)
        self.patch.start()
        self.arena: dict[tuple[int, int], list[Slot]] = {}
        self.snapshots: dict[int, dict[int, int]] = {}
        self.missed: set[tuple[int, int]] = set()
        self.clearable: dict[int, bool] = {}
        self.lasts = 0
        self.memory = self.refused = self.ended = self.admitted = False
        self.want: tuple[Ranges, ...] | None = None
        self.most_computed = 0

    def teardown(self) -> None:
        self.patch.stop()

    # What cuts a run short is rare, or most runs would end before anything has happened.
    @initialize(
        layout=layouts(),
        prompt_tokens=st.integers(2, 120),
        memory=st.sampled_from(["at once", "at once", "later", "never"]),
        may_abort=st.sampled_from([False, False, False, True]),
    )
    def open(self, layout: Layout, prompt_tokens: int, memory: str, may_abort: bool) -> None:
        self.manifest = Manifest(layout, prompt_tokens)
        self.target = self.manifest.target_tokens
        # With state the engine is made to stop at the target; otherwise it computes the prompt to its end.
        self.end = self.target if layout.has_state else prompt_tokens
        self.transfer = ProducerTransfer(LEG, self.manifest, OPENED_AT)
        self.engine = ModelEngine(layout)
        self.grain = max(group.block_tokens for group in layout.groups)
        self.may_abort, self.may_refuse = may_abort, memory == "never"
        if memory == "at once":
            self.grant()
        produce = self.transfer.announcement()
        assert produce.lanes == self.manifest.lanes()

    # What the sidecar says, whenever it says it.

    @precondition(lambda self: not self.memory and not self.may_refuse)
    @rule()
    def memory_is_granted(self) -> None:
        self.grant()

    def grant(self) -> None:
        offsets = tuple(range(len(self.manifest.lanes())))
        self.transfer.receive(Accepted(LEG.transfer_id, offsets), "arena", ARENA_BYTES)
        self.memory = True

    @precondition(lambda self: self.may_refuse and not self.refused)
    @rule()
    def memory_is_refused(self) -> None:
        self.transfer.receive(Refused(LEG.transfer_id, "ArenaFull", ""), "arena", ARENA_BYTES)
        self.refused = True

    @precondition(lambda self: self.memory and self.want is None)
    @rule(data=st.data())
    def the_consumer_asks(self, data: st.DataObject) -> None:
        everything = [((0, count(blocks)),) if blocks else () for blocks in self.manifest.blocks]
        self.want = tuple(data.draw(subsets(ranges)) for ranges in everything)
        self.transfer.receive(Wanted(LEG.transfer_id, self.want), "arena", ARENA_BYTES)

    # What the engine does.

    @precondition(lambda self: not self.admitted and not self.ended)
    @rule(data=st.data())
    def the_request_is_admitted(self, data: st.DataObject) -> None:
        cached = data.draw(st.booleans()) or self.most_computed
        most = (self.target - 1) // self.grain if cached else 0
        self.engine.admit(data.draw(st.integers(0, most)) * self.grain)
        self.admitted = True

    @precondition(lambda self: self.admitted and not self.ended)
    @rule()
    def the_request_is_preempted(self) -> None:
        self.most_computed = max(self.most_computed, self.engine.computed)
        self.admitted = False

    @precondition(lambda self: self.admitted and not self.ended)
    @rule(tokens=st.integers(1, 4) | st.integers(1, 60), new_state_block=st.booleans())
    def a_step_runs(self, tokens: int, new_state_block: bool) -> None:
        engine = self.engine
        before, after = engine.computed, min(engine.computed + tokens, self.end)
        engine.free_behind_windows()
        engine.allocate(after, new_state_block)
        self.note_tails(before, after)
        save = self.transfer.step(before, after, [list(table) for table in engine.tables])
        if save is not None:
            assert self.memory
            assert not self.refused
            self.clear(save)
        engine.compute(after)
        expected = self.due(before, after)
        copied: set[tuple[int, int]] = set()
        if save is not None:
            assert save.last == (after >= self.target)
            self.lasts += save.last
            for copy in save.copies:
                copied |= self.carry_out(copy, min(after, self.target))
        assert copied == expected
        self.ended = after >= self.target

    def note_tails(self, before: int, after: int) -> None:
        """A block in which the prompt ends can be cleared in the step that begins to fill it, and only if it
        is known by then that it will be shipped."""
        for index, group in enumerate(self.manifest.layout.groups):
            first = self.target // group.block_tokens * group.block_tokens
            if before <= first < min(after, self.target):
                self.clearable[index] = self.memory and not self.refused

    def clear(self, save: Save) -> None:
        for group, block_id in save.clears:
            slots = self.engine.slots[group, block_id]
            assert set(slots) <= {JUNK}, "KV of this very prompt would be wiped"
            slots[:] = [ZERO] * len(slots)

    def due(self, before: int, after: int) -> set[tuple[int, int]]:
        """Units that this step has to copy: complete, readable, wanted as far as one knows, and not copied
        before."""
        due: set[tuple[int, int]] = set()
        last = after >= self.target
        for index, group in enumerate(self.manifest.layout.groups):
            if group.kind is Kind.STATE:
                reached = [n for n, point in enumerate(self.manifest.resume_targets) if point <= after]
                done = self.snapshots.get(index, {})
                if reached and reached[-1] > max(done, default=-1):
                    due.add((index, reached[-1]))
                continue
            for unit, block in self.manifest.units_between(index, 0, self.target + 1):
                first, end = block * group.block_tokens, (block + 1) * group.block_tokens
                if (index, unit) in self.arena or (end > after and not last):
                    continue
                if self.want is None:
                    # A prefix that was cached may be what the consumer has too; at the end all is shipped.
                    if end <= (self.transfer.cached_tokens or 0) and not last:
                        continue
                elif not any(start <= unit < stop for start, stop in self.want[index]):
                    continue
                block_id = self.engine.tables[index][block]
                if block_id == NULL_BLOCK:
                    continue
                slots = self.engine.slots[index, block_id]
                if end > self.target and not self.clearable[index]:
                    continue  # the rest of the block is another request's
                assert slots[: self.target - first] == list(range(first, min(end, self.target)))
                due.add((index, unit))
        return due if self.memory and not self.refused else set()

    def carry_out(self, copy: GroupCopy, reached: int) -> set[tuple[int, int]]:
        kind = self.manifest.layout.groups[copy.group].kind
        assert copy.places == copy.units, "a producer's extent holds all units"
        assert len(copy.units) == len(copy.block_ids) == len(set(copy.units))
        for unit, block_id in zip(copy.units, copy.block_ids, strict=True):
            assert block_id != NULL_BLOCK
            assert (copy.group, unit) not in self.arena, "copied twice"
            slots = list(self.engine.slots[copy.group, block_id])
            self.arena[copy.group, unit] = slots
            if kind is Kind.STATE:
                assert copy.tokens == reached
                assert slots == [reached]
                self.snapshots.setdefault(copy.group, {})[unit] = reached
                continue
            assert copy.tokens is None
            bt = self.manifest.layout.groups[copy.group].block_tokens
            pairs = self.manifest.units_between(copy.group, 0, self.target + 1)
            block = pairs[unit][1]
            tokens = range(block * bt, (block + 1) * bt)
            for token, slot in zip(tokens, slots, strict=True):
                # What follows the target is the prompt's own last token, or nothing.
                assert slot == token or (slot == ZERO and token >= self.target)
        return {(copy.group, unit) for unit in copy.units}

    @precondition(lambda self: self.may_abort and not self.ended)
    @rule()
    def the_request_is_aborted(self) -> None:
        abort = self.transfer.abandon("PrefillFailed")
        assert abort == (None if self.refused else Abort(LEG.transfer_id, "PrefillFailed"))
        assert self.transfer.abandon("PrefillFailed") is None
        self.ended = True
        if self.admitted:
            end = min(self.engine.computed + 1, self.end)
            self.engine.allocate(end)
            assert self.transfer.step(self.engine.computed, end, self.engine.tables) is None
        self.admitted = False

    @precondition(lambda self: self.ended)
    @rule(more=st.integers(0, 3))
    def nothing_follows_the_end(self, more: int) -> None:
        if self.memory and not self.lasts:
            self.transfer.abandon("PrefillFailed")
        assert self.transfer.step(self.target, self.target + more, self.engine.tables) is None
        if self.lasts:
            assert self.transfer.abandon("PrefillFailed") is None

    @invariant()
    def it_ends_at_most_once(self) -> None:
        assert self.lasts <= 1

    @invariant()
    def it_waits_for_memory_only_so_long(self) -> None:
        if not hasattr(self, "transfer"):
            return
        answered = self.memory or self.refused
        assert self.transfer.waiting(OPENED_AT) == (not answered)
        assert not self.transfer.waiting(OPENED_AT + ANSWER_PATIENCE_SECONDS)


TestProducing = Producing.TestCase
TestProducing.settings = settings(max_examples=400, stateful_step_count=25)
