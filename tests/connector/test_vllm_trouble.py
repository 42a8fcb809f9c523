"""What vLLM's real schedulers do with transfers that fail, stall or are cut off, and with requests that are
aborted or preempted: every request is answered with the right tokens, or is gone without a trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm.v1.request import RequestStatus

from prfaas_connector.consumer import ConsumerTransfer, MissingUnitsError
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.local_api.messages import Abort, Consume, Produce, ProducerDone, Release
from prfaas_connector.worker import Worker
from tests.connector.vllm_configs import LAYOUTS, Settings
from tests.connector.vllm_engine import Engine, WrongKVError, expected_output, until
from tests.connector.vllm_world import KINDS, World, a_world, legs, prompt_of

PROMPT = prompt_of(150)
BOTH = ["v1", "v2 async"]
"""One scheduler and one shape of outputs each; test_vllm_transfers.py has them all."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


def start(world: World, producer: Engine, consumer: Engine, **deadline: float) -> str:
    """Both legs of a transfer. Returns its id."""
    out, into = legs(PROMPT, **deadline)
    producer.add("r", PROMPT, out, max_tokens=1)
    consumer.add("r", PROMPT, into)
    transfer_id: str = out["transfer_id"]
    return transfer_id


def ended(world: World, transfer_id: str) -> Callable[[], bool]:
    return lambda: transfer_id in world.sidecar.transfers and bool(world.sidecar.transfers[transfer_id].ended)


def test_control_wrong_kv_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CpuCopier.scatter

    def shifted(self: CpuCopier, cache: Any, block_ids: Any, arena: memoryview, offset: int) -> Any:
        return right(self, cache, [*block_ids[1:], *block_ids[:1]], arena, offset)

    monkeypatch.setattr(CpuCopier, "scatter", shifted)
    producer, consumer = world.pair()
    start(world, producer, consumer)
    with pytest.raises(WrongKVError):
        world.settle()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("units", [0, 1, 3, 7])
def test_a_link_that_is_cut(world: World, kind: str, layout: str, units: int) -> None:
    """The engine takes what has landed and computes the rest."""
    producer, consumer = world.pair(kind, layout)
    world.sidecar.cut_after_units = units
    transfer_id = start(world, producer, consumer)
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert world.sidecar.transfers[transfer_id].released_tokens == consumer.external_tokens["r"]
    if layout == "attention":
        assert consumer.external_tokens["r"] == units * 16


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("code", ["ArenaFull", "Draining"])
def test_both_sides_are_refused(world: World, kind: str, code: str) -> None:
    producer, consumer = world.pair(kind)
    world.sidecar.refuse = code
    start(world, producer, consumer)
    world.settle()
    assert producer.outputs["r"] == expected_output(PROMPT, 1)
    assert producer.parameters["r"]["prfaas"]["refused"] == code
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 0
    assert not world.sidecar.said(ProducerDone)


@pytest.mark.parametrize("kind", BOTH)
def test_the_arena_is_full_for_one_of_two(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    world.sidecar.hold()
    start(world, producer, consumer)
    until(lambda: world.sidecar.said(Produce) and world.sidecar.said(Consume))
    world.sidecar.refuse = "ArenaFull"
    out, into = legs(prompt_of(90, 5))
    producer.add("s", prompt_of(90, 5), out, max_tokens=1)
    consumer.add("s", prompt_of(90, 5), into)
    until(lambda: "s" in consumer.finished, producer, consumer)
    assert consumer.outputs["s"] == expected_output(prompt_of(90, 5), 4)
    world.sidecar.deliver()
    world.settle()
    assert consumer.external_tokens == {"r": 150, "s": 0}
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)


@pytest.mark.parametrize("kind", BOTH)
def test_a_sidecar_that_answers_nothing(world: World, kind: str) -> None:
    """Neither engine waits longer than it would take to notice."""
    producer, consumer = world.pair(kind, extra={"max_patience_seconds": 0.2})
    world.sidecar.silent = True
    start(world, producer, consumer)
    world.settle()
    assert producer.outputs["r"] == expected_output(PROMPT, 1)
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 0


@pytest.mark.parametrize("kind", BOTH)
def test_the_deadline_passes(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    world.sidecar.hold()
    transfer_id = start(world, producer, consumer, deadline_seconds=0.3)
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 0
    assert world.sidecar.transfers[transfer_id].released_tokens == 0


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("failure", ["worker", "scheduler"])
def test_a_load_fails(
    world: World, kind: str, layout: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LookupError("the arena is gone") if failure == "worker" else MissingUnitsError("not there")

    if failure == "worker":
        monkeypatch.setattr(Worker, "carry_out", fail)
    else:
        monkeypatch.setattr(ConsumerTransfer, "load", fail)
    producer, consumer = world.pair(kind, layout)
    consumer.add("before", PROMPT[:100], max_tokens=1)
    until(lambda: consumer.idle, consumer)
    start(world, producer, consumer)
    world.settle()
    assert consumer.reported_loads == {"r": 1}
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    (release,) = world.sidecar.said(Release)
    assert isinstance(release, Release)
    assert release.taken_tokens == 0
    # The failed load left nothing in the cache that a later prompt could read.
    consumer.add("after", PROMPT, max_tokens=2)
    world.settle()
    assert consumer.outputs["after"] == expected_output(PROMPT, 2)


# Aborts.


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_is_aborted_while_it_waits_for_kv(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    world.sidecar.hold()
    start(world, producer, consumer)
    until(lambda: producer.idle, producer, consumer)
    consumer.abort("r")
    world.settle()
    assert consumer.outputs["r"] == []
    assert len(world.sidecar.said(Release)) == 1
    assert not consumer.planned_loads


@pytest.mark.parametrize("kind", BOTH)
def test_the_consumer_is_aborted_before_its_first_step(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    start(world, producer, consumer)
    consumer.abort("r")
    world.settle()
    assert len(world.sidecar.said(Release)) == 1
    assert not consumer.planned_loads


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loads last until the event is set."""
    go, carry_out = threading.Event(), Worker.carry_out

    def slow(self: Worker, load: Any) -> None:
        assert go.wait(30)
        carry_out(self, load)

    monkeypatch.setattr(Worker, "carry_out", slow)
    yield go
    go.set()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_is_aborted_while_it_loads(
    world: World, kind: str, layout: str, loading: threading.Event
) -> None:
    producer, consumer = world.pair(kind, layout)
    start(world, producer, consumer)
    until(lambda: consumer.planned_loads["r"], producer, consumer)
    held = consumer.free_blocks - consumer.free()
    assert held > 0
    consumer.abort("r")
    other = prompt_of(60, 8)
    consumer.add("other", other)
    until(lambda: "other" in consumer.finished, producer, consumer)
    assert consumer.outputs["other"] == expected_output(other, 4)
    assert consumer.free_blocks - consumer.free() == held, "the loader still writes to these blocks"
    assert not world.sidecar.said(Release), "the loader still reads from the arena"
    loading.set()
    world.settle()
    assert consumer.reported_loads == {"r": 1}
    assert len(world.sidecar.said(Release)) == 1


@pytest.mark.parametrize("kind", BOTH)
def test_the_consumer_is_aborted_after_its_load_was_reported(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    start(world, producer, consumer)
    until(lambda: consumer.reported_loads["r"], producer, consumer)
    consumer.abort("r")
    world.settle()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_is_aborted_while_it_decodes(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    out, into = legs(PROMPT)
    producer.add("r", PROMPT, out, max_tokens=1)
    consumer.add("r", PROMPT, into, max_tokens=50)
    until(lambda: len(consumer.outputs["r"]) >= 2, producer, consumer)
    consumer.abort("r")
    world.settle()
    produced = consumer.outputs["r"]
    assert produced == expected_output(PROMPT, len(produced))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_the_producer_is_aborted(world: World, kind: str, layout: str, steps: int) -> None:
    producer, consumer = world.pair(kind, layout)
    start(world, producer, consumer)
    until(lambda: world.sidecar.said(Produce), what="nothing was announced")
    for _ in range(steps):
        producer.step()
    unfinished = "r" in producer.scheduler.requests
    producer.abort("r")
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    (done,) = world.sidecar.said(ProducerDone)
    assert isinstance(done, ProducerDone)
    if unfinished and not done.complete:
        assert len(world.sidecar.said(Abort)) == 1


# Preemption.


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_producer_is_preempted(world: World, kind: str, layout: str, steps: int) -> None:
    """It starts again from its prefix cache, in other blocks, while the others' KV fills the old ones."""
    producer, consumer = world.pair(kind, layout)
    transfer_id = start(world, producer, consumer)
    until(lambda: any("r" in step for step in producer.runner.scheduled), producer)
    for _ in range(steps - 1):
        producer.step()
    request = producer.preempt("r")
    assert request is not None
    for number in range(4):
        producer.add(f"other {number}", prompt_of(70, 20 + number), max_tokens=2)
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert world.sidecar.transfers[transfer_id].ended == "complete"
    assert request.num_preemptions == 1


@pytest.mark.parametrize("kind", BOTH)
def test_preemption_for_want_of_blocks(world: World, kind: str) -> None:
    """The transferred prompt is the newest request, so it is the one that has to give way."""
    producer = world.engine(KINDS[kind], blocks=13, step_tokens=24, reserve_whole_prompts=False)
    consumer = world.engine(KINDS[kind])
    producer.add("first", prompt_of(40, 2), max_tokens=120)
    until(lambda: len(producer.outputs["first"]) > 2, producer)
    out, into = legs(PROMPT)
    request = producer.add("r", PROMPT, out, max_tokens=1)
    consumer.add("r", PROMPT, into)
    world.settle()
    assert request.num_preemptions > 0
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 150
    assert producer.outputs["first"] == expected_output(prompt_of(40, 2), 120)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_is_preempted_after_its_load(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    out, into = legs(PROMPT)
    producer.add("r", PROMPT, out, max_tokens=1)
    consumer.add("r", PROMPT, into, max_tokens=12)
    until(lambda: len(consumer.outputs["r"]) >= 3, producer, consumer)
    request = consumer.preempt("r")
    assert request is not None
    assert request.status == RequestStatus.PREEMPTED
    world.settle()
    assert request.num_preemptions == 1
    assert consumer.reported_loads == {"r": 1}
    assert len(consumer.outputs["r"]) == 12
    assert len(world.sidecar.said(Consume)) == 1


@pytest.mark.parametrize("kind", BOTH)
def test_a_load_waits_for_blocks(world: World, kind: str) -> None:
    """While the blocks do not fit, the engine asks again and again; nothing is loaded twice."""
    producer = world.engine(KINDS[kind])
    consumer = world.engine(KINDS[kind], blocks=16)
    consumer.add("first", prompt_of(100, 2), max_tokens=40)
    until(lambda: len(consumer.outputs["first"]) > 2, consumer)
    transfer_id = start(world, producer, consumer)
    until(ended(world, transfer_id), producer)
    for _ in range(5):
        consumer.step()
    assert not consumer.planned_loads
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 150


# The sidecar dies.


@pytest.mark.parametrize("kind", BOTH)
def test_the_sidecar_dies_while_the_consumer_waits(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    world.sidecar.hold()
    start(world, producer, consumer)
    until(lambda: producer.idle, producer, consumer)
    world.replace_sidecar()
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.external_tokens["r"] == 0


@pytest.mark.parametrize("kind", BOTH)
def test_the_sidecar_dies_while_the_producer_computes(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind, step_tokens=16)
    start(world, producer, consumer)
    until(lambda: sum("r" in step for step in producer.runner.scheduled) >= 3, producer)
    world.replace_sidecar()
    world.settle()
    assert producer.outputs["r"] == expected_output(PROMPT, 1)
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sidecar_is_replaced_between_plan_and_load(
    world: World, kind: str, layout: str, loading: threading.Event
) -> None:
    producer, consumer = world.pair(kind, layout)
    start(world, producer, consumer)
    until(lambda: consumer.planned_loads["r"], producer, consumer)
    world.replace_sidecar()
    consumer.wait_until_connected()
    loading.set()
    world.settle()
    assert consumer.outputs["r"] == expected_output(PROMPT, 4)
    assert consumer.reported_loads == {"r": 1}


def test_without_a_sidecar_engines_serve_as_ever(tmp_path: Path) -> None:
    engine = Engine(Settings(), tmp_path / "nobody.sock")
    engine.add("r", PROMPT, legs(PROMPT)[1])
    engine.add("p", PROMPT, legs(PROMPT)[0], max_tokens=1)
    until(lambda: engine.idle, engine)
    engine.check_nothing_is_left()
    assert engine.outputs["r"] == expected_output(PROMPT, 4)
    assert engine.parameters["p"]["prfaas"]["refused"] == "SidecarGone"
    engine.close()
