"""The consuming half under every order of landings, questions and allocations."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prfaas_connector.consumer import ConsumerTransfer, MissingUnitsError, Phase
from prfaas_connector.local_api.messages import Accepted, Ended, Progress, Refused
from prfaas_connector.local_api.units import Ranges, count, normalise, position
from prfaas_connector.manifest import Kind, Layout, Manifest
from prfaas_connector.request import DecodeLeg
from prfaas_connector.steps import Load, Memory
from tests.connector.model_engine import JUNK, NULL_BLOCK, ModelEngine
from tests.connector.strategies import layouts, subsets

LEG = DecodeLeg("1" * 32, "2" * 64, 30.0, "192.0.2.1:7400", "spiffe://t/pool/PrefillPool/long")
OPENED_AT = 1000.0
ARENA_BYTES = 1 << 20


class Consuming(RuleBasedStateMachine):
    """One prompt. What lies in the arena follows from its unit, so a copy can be checked by where it came
    from."""

    def __init__(self) -> None:
        super().__init__()
        # Several resume points without prompts of thousands of tokens.
        self.patch = mock.patch("prfaas_connector.manifest.TOKENS_PER_RESUME_TARGET", 24)
        self.patch.start()
        self.now = OPENED_AT
        self.memory = self.over = False
        self.answer: int | None = None
        self.has_taken = False
        self.ended: str | None = None
        self.landed_bytes = 0

    def teardown(self) -> None:
        self.patch.stop()

    @initialize(layout=layouts(), prompt_tokens=st.integers(2, 120), data=st.data())
    def open(self, layout: Layout, prompt_tokens: int, data: st.DataObject) -> None:
        self.manifest = Manifest(layout, prompt_tokens)
        self.prompt_tokens = prompt_tokens
        self.grain = max(group.block_tokens for group in layout.groups)
        self.local = data.draw(st.just(0) | st.integers(0, (prompt_tokens - 1) // self.grain)) * self.grain
        self.want = self.manifest.want(self.local)
        self.transfer = ConsumerTransfer(LEG, self.manifest, self.want, OPENED_AT)
        self.landed: list[Ranges] = [() for _ in self.want]
        self.positions: list[dict[int, int]] = [{} for _ in self.want]
        if data.draw(st.integers(0, 4)):
            self.memory_is_granted()
        consume = self.transfer.announcement()
        assert consume.lanes == self.manifest.lanes()
        assert consume.want == self.want
        self.wanted_bytes = sum(
            count(self.want[lane.group]) * lane.unit_bytes for lane in self.manifest.lanes()
        )

    # What the sidecar says.

    @precondition(lambda self: not self.memory and self.ended is None)
    @rule()
    def memory_comes_later(self) -> None:
        self.memory_is_granted()

    def memory_is_granted(self) -> None:
        offsets = tuple(range(len(self.manifest.lanes())))
        self.transfer.receive(Accepted(LEG.transfer_id, offsets), "arena", ARENA_BYTES, self.now)
        self.memory = True

    @precondition(lambda self: not self.memory and self.ended is None)
    @rule()
    def memory_is_refused(self) -> None:
        self.transfer.receive(Refused(LEG.transfer_id, "ArenaFull", ""), "arena", ARENA_BYTES, self.now)
        self.ended = "ArenaFull"

    @precondition(lambda self: self.memory and self.ended is None)
    @rule(data=st.data())
    def everything_lands(self, data: st.DataObject) -> None:
        self.land(data, everything=True)

    @precondition(lambda self: self.memory and self.ended is None)
    @rule(data=st.data())
    def units_land(self, data: st.DataObject) -> None:
        self.land(data, everything=False)

    def land(self, data: st.DataObject, everything: bool) -> None:
        for index, wanted in enumerate(self.want):
            more = wanted if everything else data.draw(subsets(wanted))
            self.landed[index] = normalise((*self.landed[index], *more))
            if self.manifest.layout.groups[index].kind is not Kind.STATE:
                continue
            for unit in range(count(self.landed[index])):
                # A snapshot is taken at the first step's end at or after its planned point.
                planned = self.manifest.resume_targets[unit]
                least = max([planned, *(self.positions[index].get(n, 0) + 1 for n in range(unit))])
                if unit not in self.positions[index] and least <= self.manifest.target_tokens:
                    self.positions[index][unit] = min(
                        least + data.draw(st.integers(0, 3)), self.manifest.target_tokens
                    )
        whole = sum(count(self.landed[lane.group]) * lane.unit_bytes for lane in self.manifest.lanes())
        self.landed_bytes = max(self.landed_bytes, whole)
        self.transfer.receive(
            Progress(
                LEG.transfer_id, tuple(self.landed), tuple(map(dict, self.positions)), self.landed_bytes
            ),
            "arena",
            ARENA_BYTES,
            self.now,
        )

    @precondition(lambda self: self.memory and self.ended is None)
    @rule(code=st.sampled_from(["complete", "LinkLost", "SidecarGone"]))
    def it_ends(self, code: str) -> None:
        self.ended = code
        self.transfer.receive(Ended(LEG.transfer_id, code, ""), "arena", ARENA_BYTES, self.now)

    # What the engine does.

    @rule(seconds=st.floats(0.01, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.over and self.local > 0)
    @rule(data=st.data())
    def the_engines_own_prefix_is_evicted(self, data: st.DataObject) -> None:
        self.local = data.draw(st.integers(0, self.local // self.grain)) * self.grain
        self.answer = None

    @precondition(lambda self: not self.over)
    @rule(rate=st.none() | st.floats(1.0, 1000.0))
    def the_engine_asks(self, rate: float | None) -> None:
        answer = self.transfer.matched(self.local, rate, self.now)
        resumable = self.manifest.resume_point(self.local, self.landed, self.positions)
        if answer is None:
            assert not self.has_taken, "it waits again after it had decided"
            assert self.ended is None
            assert self.now < OPENED_AT + LEG.deadline_seconds
            assert self.landed_bytes < self.wanted_bytes
        else:
            self.has_taken = True
            assert answer == (max(0, resumable - self.local) if self.memory else 0)
            event("takes nothing" if answer == 0 else "takes something")
        self.answer = answer

    @precondition(lambda self: not self.over and self.answer)
    @rule(data=st.data())
    def the_engine_allocates_and_loads(self, data: st.DataObject) -> None:
        assert self.answer
        resume = self.local + self.answer
        engine = ModelEngine(self.manifest.layout)
        engine.admit(self.local)
        engine.computed = resume
        engine.allocate(resume, new_state_block=data.draw(st.booleans()))
        engine.free_behind_windows()
        load = self.transfer.load("request", self.answer, [list(table) for table in engine.tables])
        assert self.transfer.phase is Phase.LOADING
        assert self.transfer.taken_tokens == self.answer
        self.carry_out(load, engine, resume)
        self.check_that_all_is_there(engine, resume)
        self.over = True
        assert self.transfer.matched(self.local, None, self.now) == 0

    def carry_out(self, load: Load, engine: ModelEngine, resume: int) -> None:
        assert load.memory == Memory("arena", tuple(range(len(self.manifest.lanes()))))
        assert [copy.group for copy in load.copies] == list(range(len(self.want)))
        for copy in load.copies:
            group = self.manifest.layout.groups[copy.group]
            assert len(copy.units) == len(copy.places) == len(copy.block_ids)
            assert len(set(copy.block_ids)) == len(copy.block_ids)
            for unit, place, block_id in zip(copy.units, copy.places, copy.block_ids, strict=True):
                assert any(start <= unit < end for start, end in self.landed[copy.group])
                assert place == position(self.want[copy.group], unit)
                assert block_id != NULL_BLOCK
                if group.kind is Kind.STATE:
                    assert copy.tokens == resume
                    engine.slots[copy.group, block_id] = [self.positions[copy.group][unit]]
                    continue
                assert copy.tokens is None
                block = self.manifest.units_between(copy.group, 0, self.prompt_tokens + 1)[unit][1]
                assert engine.tables[copy.group][block] == block_id
                assert set(engine.slots[copy.group, block_id]) == {JUNK}, "the engine's own KV is overwritten"
                first = block * group.block_tokens
                engine.slots[copy.group, block_id] = list(range(first, first + group.block_tokens))

    def check_that_all_is_there(self, engine: ModelEngine, resume: int) -> None:
        """Everything that computing the token at ``resume`` reads, and everything that would be hashed."""
        for index, group in enumerate(self.manifest.layout.groups):
            if group.kind is Kind.STATE:
                assert engine.slots[index, engine.tables[index][-1]] == [resume]
                continue
            for block, block_id in enumerate(engine.tables[index]):
                if block_id != NULL_BLOCK:
                    first = block * group.block_tokens
                    known = engine.slots[index, block_id][: resume - first]
                    assert known == list(range(first, min(first + group.block_tokens, resume)))

    @precondition(lambda self: not self.over and self.answer)
    @rule()
    def the_engine_keeps_a_block_that_never_landed(self) -> None:
        """An engine that allocates more of a window than was shipped must not have it hashed as loaded."""
        assert self.answer
        resume = self.local + self.answer
        engine = ModelEngine(self.manifest.layout)
        engine.computed = resume
        engine.allocate(resume)  # without freeing what lies behind the windows
        missing = False
        for index, group in enumerate(self.manifest.layout.groups):
            if group.kind is Kind.STATE:
                continue
            there = {
                block
                for unit, block in self.manifest.units_between(index, 0, self.prompt_tokens + 1)
                if any(start <= unit < end for start, end in self.landed[index])
            }
            first = self.local // group.block_tokens
            missing |= not set(range(first, -(-resume // group.block_tokens))) <= there
        # What the transfer remembers of a refused load does not matter: the request is computed here.
        transfer = replace(self.transfer)
        for name in ("landed", "positions", "landed_bytes", "memory", "local_tokens"):
            setattr(transfer, name, getattr(self.transfer, name))
        if missing:
            with pytest.raises(MissingUnitsError):
                transfer.load("request", self.answer, engine.tables)
        else:
            transfer.load("request", self.answer, engine.tables)
        event("a block is missing" if missing else "no block is missing")

    @invariant()
    def it_asks_for_no_more_than_there_is(self) -> None:
        if hasattr(self, "transfer"):
            assert self.transfer.wanted_bytes == self.wanted_bytes
            assert self.transfer.landed_bytes == self.landed_bytes


TestConsuming = Consuming.TestCase
TestConsuming.settings = settings(max_examples=300, stateful_step_count=15)
