"""Transfers between two engines with vLLM's real schedulers, when nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

from prfaas_connector.local_api.messages import Abort, Consume, Produce, Publish, Release
from prfaas_connector.local_api.units import count
from tests.connector.vllm_configs import BLOCK_TOKENS, LAYOUTS, Settings
from tests.connector.vllm_engine import Engine, expected_output, until
from tests.connector.vllm_world import CACHING, KINDS, STATEFUL, World, a_world, legs, prompt_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


def target(prompt: list[int], layout: str) -> int:
    """How many tokens' KV travels."""
    return len(prompt) if layout == "attention" else len(prompt) - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_prompts_in_chunks_beside_others(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    # Ends inside a block, at its end, at its beginning, in the first block, and after several steps.
    prompts = {f"r{length}": prompt_of(length, length) for length in (150, 96, 97, 7, 49, 48)}
    ids = {}
    for name, prompt in prompts.items():
        out, into = legs(prompt)
        ids[name] = out["transfer_id"]
        producer.add(name, prompt, out, max_tokens=1)
        consumer.add(name, prompt, into)
        for engine in (producer, consumer):
            engine.add(f"local {name}", prompt_of(60, 100 + len(prompt)), max_tokens=3)
    world.settle()
    for name, prompt in prompts.items():
        assert consumer.outputs[name] == expected_output(prompt, 4), name
        assert consumer.external_tokens[name] == target(prompt, layout)
        assert producer.parameters[name] == {"prfaas": {"transfer_id": ids[name], "refused": None}}
        transfer = world.sidecar.transfers[ids[name]]
        assert (transfer.ended, transfer.released_tokens) == ("complete", target(prompt, layout))
    for engine in (producer, consumer):
        for name, output in engine.outputs.items():
            if name.startswith("local"):
                assert len(output) == 3
    assert consumer.reported_loads == dict.fromkeys(prompts, 1)
    assert not world.sidecar.said(Abort)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_may_ask_long_before_the_producer(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    prompt = prompt_of(150)
    out, into = legs(prompt)
    consumer.add("r", prompt, into)
    for _ in range(5):
        consumer.step()
    assert consumer.outputs["r"] == []
    producer.add("r", prompt, out, max_tokens=1)
    world.settle()
    assert consumer.outputs["r"] == expected_output(prompt, 4)
    assert consumer.external_tokens["r"] == target(prompt, layout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consumer_may_ask_after_the_producer_has_finished(world: World, kind: str, layout: str) -> None:
    producer, consumer = world.pair(kind, layout)
    prompt = prompt_of(150)
    out, into = legs(prompt)
    producer.add("r", prompt, out, max_tokens=1)
    world.settle()
    consumer.add("r", prompt, into)
    world.settle()
    assert consumer.outputs["r"] == expected_output(prompt, 4)
    assert consumer.external_tokens["r"] == target(prompt, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_in_which_a_prompt_can_lie_in_its_blocks(world: World, layout: str) -> None:
    """Of a whole prompt the engine computes the last token, whose window may begin a block earlier than the
    next token's."""
    producer, consumer = world.pair("v1", layout, step_tokens=64)
    prompts = {f"r{length}": prompt_of(length, length) for length in range(2, 70)}
    for name, prompt in prompts.items():
        out, into = legs(prompt)
        producer.add(name, prompt, out, max_tokens=1)
        consumer.add(name, prompt, into, max_tokens=2)
    world.settle()
    for name, prompt in prompts.items():
        assert consumer.outputs[name] == expected_output(prompt, 2), name
        assert consumer.external_tokens[name] == target(prompt, layout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", CACHING)
@pytest.mark.parametrize("cached_by", ["producer", "consumer", "both"])
def test_prefixes_that_are_cached_already(world: World, kind: str, layout: str, cached_by: str) -> None:
    producer, consumer = world.pair(kind, layout)
    prompt = prompt_of(180)
    for name, engine in (("producer", producer), ("consumer", consumer)):
        if cached_by in (name, "both"):
            engine.add("before", prompt[:100], max_tokens=1)
    world.settle()
    out, into = legs(prompt)
    producer.add("r", prompt, out, max_tokens=1)
    consumer.add("r", prompt, into)
    world.settle()
    assert consumer.outputs["r"] == expected_output(prompt, 4)
    (consume,) = world.sidecar.said(Consume)
    assert isinstance(consume, Consume)
    cached = 96 if cached_by != "producer" else 0
    assert count(consume.want[0]) == 12 - cached // BLOCK_TOKENS
    assert consumer.external_tokens["r"] == target(prompt, layout) - cached
    computed = sum(step.get("r", 0) for step in producer.runner.scheduled)
    assert computed < len(prompt) - 60 if cached_by != "consumer" else computed >= len(prompt) - 1


@pytest.mark.parametrize("layout", CACHING)
def test_what_was_loaded_is_in_the_consumers_own_cache_afterwards(world: World, layout: str) -> None:
    producer, consumer = world.pair("v1", layout)
    prompt = prompt_of(180)
    out, into = legs(prompt)
    producer.add("r", prompt, out, max_tokens=1)
    consumer.add("r", prompt, into)
    world.settle()
    longer = prompt + prompt_of(30, 9)
    consumer.add("again", longer)
    world.settle()
    assert consumer.outputs["again"] == expected_output(longer, 4)
    if layout not in STATEFUL:
        computed = sum(step.get("again", 0) for step in consumer.runner.scheduled)
        assert computed < 60


@pytest.mark.parametrize("layout", STATEFUL)
@pytest.mark.parametrize("kind", KINDS)
def test_with_state_the_producer_stops_one_token_short(world: World, kind: str, layout: str) -> None:
    producer = world.engine(KINDS[kind], layout=layout)
    prompt = prompt_of(100)
    out, _ = legs(prompt)
    request = producer.add("r", prompt, out, max_tokens=5)
    assert request.num_prompt_tokens == request.num_tokens == 99
    world.settle()
    assert producer.outputs["r"] == expected_output(prompt[:99], 1), "one token is all that is sampled"
    snapshots = [message for message in world.sidecar.said(Publish) if message.tokens is not None]  # type: ignore[union-attr]
    assert snapshots
    assert {message.tokens for message in snapshots} == {99}  # type: ignore[union-attr]
    (produce,) = world.sidecar.said(Produce)
    (release,) = [transfer.ended for transfer in world.sidecar.transfers.values()]
    assert isinstance(produce, Produce)
    assert release is None, "nobody has asked for it"


LOCAL: dict[str, tuple[str | None, dict[str, Any]]] = {
    "another prompt": ("PromptMismatch", {"parameters": {"prompt_digest": "0" * 64}}),
    "another salt than the digest's": ("PromptMismatch", {"cache_salt": "salt"}),
    "LoRA": ("NotSupported", {"lora_request": LoRARequest("adapter", 1, "nowhere")}),
    "prompt log-probabilities": ("NotSupported", {"sampling": {"prompt_logprobs": 1}}),
    "an unknown version": (None, {"parameters": {"version": 2}}),
    "a transfer id that is none": (None, {"parameters": {"transfer_id": "x"}}),
}
"""Code that the other side is told, where the parameters can be understood."""


def check_it_stays_local(
    world: World, engine: Engine, prompt: list[int], leg: int, code: str | None, **changed: Any
) -> None:
    parameters = legs(prompt)[leg] | changed.pop("parameters", {})
    sampling = SamplingParams(
        max_tokens=3,
        ignore_eos=True,
        extra_args={"kv_transfer_params": {"prfaas": parameters}},
        **changed.pop("sampling", {}),
    )
    request = engine.add("r", prompt, sampling=sampling, **changed)
    assert request.num_prompt_tokens == len(prompt)
    world.settle()
    assert engine.outputs["r"] == expected_output(prompt, 3)
    assert not world.sidecar.said(Produce)
    assert not world.sidecar.said(Consume)
    if leg == 0 and code is not None:
        # The consumer must not wait for KV that never comes.
        transfer_id = parameters["transfer_id"]
        assert world.sidecar.said(Abort) == [Abort(transfer_id, code)]
        assert engine.parameters["r"] == {"prfaas": {"transfer_id": transfer_id, "refused": code}}
    else:
        assert not world.sidecar.transfers


@pytest.mark.parametrize("leg", [0, 1], ids=["prefill", "decode"])
@pytest.mark.parametrize("case", LOCAL)
@pytest.mark.parametrize("layout", ["attention", "all"])
def test_requests_that_stay_local(world: World, case: str, leg: int, layout: str) -> None:
    engine = world.engine(Settings(layout=layout))
    code, changed = LOCAL[case]
    check_it_stays_local(world, engine, prompt_of(70), leg, code, **changed)


@pytest.mark.parametrize(("role", "leg"), [("kv_consumer", 0), ("kv_producer", 1)])
def test_a_leg_that_is_not_this_engines_role(world: World, role: str, leg: int) -> None:
    engine = world.engine(Settings(role=role))
    check_it_stays_local(world, engine, prompt_of(70), leg, "NotSupported")


@pytest.mark.parametrize("layout", ["window", *STATEFUL])
def test_a_prompt_of_one_token_is_not_shipped(world: World, layout: str) -> None:
    engine = world.engine(Settings(layout=layout))
    check_it_stays_local(world, engine, [5], 0, "NotSupported")


@pytest.mark.parametrize("kind", KINDS)
def test_children_of_one_request_share_a_transfer_id(world: World, kind: str) -> None:
    """n > 1: the first child takes the transfer, the others compute."""
    producer, consumer = world.pair(kind)
    prompt = prompt_of(120)
    out, into = legs(prompt)
    producer.add("r", prompt, out, max_tokens=1)
    for child in ("0_r", "1_r", "2_r"):
        consumer.add(child, prompt, into)
    world.settle()
    for child in ("0_r", "1_r", "2_r"):
        assert consumer.outputs[child] == expected_output(prompt, 4)
    assert len(world.sidecar.said(Consume)) == len(world.sidecar.said(Release)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_own_rate_is_that_of_its_steps(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next step is scheduled while this one runs."""
    engine = world.engine(KINDS[kind], step_tokens=100)
    now = 1000.0
    monkeypatch.setattr("prfaas_connector.vllm.scheduler.time", SimpleNamespace(monotonic=lambda: now))
    update = engine._update

    def two_seconds_later(*step: Any) -> None:
        nonlocal now
        now += 2.0
        update(*step)

    monkeypatch.setattr(engine, "_update", two_seconds_later)
    engine.add("r", prompt_of(300), max_tokens=3)
    until(lambda: engine.idle, engine)
    assert engine.connector._scheduling._rate.tokens_per_second == pytest.approx(50.0)


@pytest.mark.parametrize("kind", KINDS)
def test_others_run_while_one_waits(world: World, kind: str) -> None:
    producer, consumer = world.pair(kind)
    prompt = prompt_of(150)
    out, into = legs(prompt)
    world.sidecar.hold()
    producer.add("r", prompt, out, max_tokens=1)
    consumer.add("r", prompt, into)
    for number in range(3):
        consumer.add(f"other {number}", prompt_of(60, 50 + number), max_tokens=6)
    until(lambda: len(consumer.finished) == 3, producer, consumer)
    assert consumer.outputs["r"] == []
    held = consumer.free_blocks - consumer.free()
    assert held == 0, "a request that waits for a network holds no blocks"
    world.sidecar.deliver()
    world.settle()
    assert consumer.outputs["r"] == expected_output(prompt, 4)
    assert consumer.external_tokens["r"] == 150


@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_starts_while_all_slots_are_taken(world: World, kind: str) -> None:
    producer = world.engine(KINDS[kind])
    consumer = world.engine(KINDS[kind], max_requests=1)
    prompt = prompt_of(150)
    out, into = legs(prompt)
    consumer.add("busy", prompt_of(40, 3), max_tokens=200)
    until(lambda: len(consumer.outputs["busy"]) > 3, consumer)
    producer.add("r", prompt, out, max_tokens=1)
    consumer.add("r", prompt, into)
    transfer_id = out["transfer_id"]
    until(
        lambda: world.sidecar.transfers.get(transfer_id) and world.sidecar.transfers[transfer_id].ended,
        producer,
    )
    assert "busy" not in consumer.finished
    assert "r" not in consumer.planned_loads
    world.settle()
    assert consumer.outputs["r"] == expected_output(prompt, 4)
    assert consumer.external_tokens["r"] == 150
