"""Engines that die, abort, come back, or have several ranks; memory that returns only when nobody can touch
it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas_connector.local_api.messages import PROTOCOL, ProducerDone, Publish
from prfaas_connector.local_api.units import Lane
from prfaas_demo.certificates import Authority
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FINGERPRINT, FakeEngine, Refusal, Side, everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, sidecar, transfer_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

LANES = lanes_of()
SIZE = 2 * 8 * 4096


async def used(two: Pair) -> tuple[float, float]:
    return (
        await two.producer.metric("prfaas_sidecar_arena_used_bytes"),
        await two.consumer.metric("prfaas_sidecar_arena_used_bytes"),
    )


async def half_way(two: Pair) -> str:
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    for index in range(len(LANES)):
        two.prefill.fill(produced, LANES, index, 0, 4)
        two.prefill.publish(name, index, 0, 4)
    await two.decode.progressed(name, lambda told: told.landed == (((0, 4),),))
    return name


async def test_a_producing_engine_that_dies_ends_its_transfers(two: Pair) -> None:
    name = await half_way(two)
    await two.prefill.close()
    end = await two.decode.ended(name)
    assert end.code == "EngineGone"
    assert two.decode.landed(name) == (((0, 4),),)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)
    two.decode.release(name)
    await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_a_consuming_engine_that_dies_frees_both_sides(two: Pair) -> None:
    name = await half_way(two)
    await two.decode.close()
    await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)
    await two.producer.until(
        "prfaas_sidecar_transfers_total", lambda n: n == 1, code="EngineGone", side="producer"
    )
    two.prefill.done(name)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_an_engine_that_comes_back_is_served(two: Pair) -> None:
    await half_way(two)
    await two.prefill.close()
    await two.decode.close()
    for side in (two.producer, two.consumer):
        await side.until("prfaas_sidecar_engine_connections", lambda n: n == 0)
    prefill, decode = await two.producer.engine(), await two.consumer.engine()
    name = transfer_id()
    produced = await prefill.produce(name, LANES, CONSUMER)
    consumed = await decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    prefill.produce_all(produced, LANES)
    assert (await decode.ended(name)).code == "complete"
    assert decode.check(consumed, LANES, everything(LANES), decode.landed(name)) == 16
    await prefill.close()
    await decode.close()


async def test_an_abort_reaches_the_consumer_at_once_but_memory_waits_for_the_ranks(two: Pair) -> None:
    name = await half_way(two)
    two.prefill.abort(name)
    assert (await two.decode.ended(name)).code == "PrefillFailed"
    assert (await used(two))[0] == SIZE
    two.prefill.done(name, complete=False)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


@pytest.mark.parametrize("ask_first", [True, False])
async def test_a_leg_that_will_produce_nothing_answers_whoever_asks(two: Pair, ask_first: bool) -> None:
    name = transfer_id()
    if ask_first:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
        await two.producer.until("prfaas_sidecar_streams", lambda n: n == 4, side="producer")
    two.prefill.abort(name, "PromptMismatch")
    if not ask_first:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    assert (await two.decode.ended(name)).code == "PromptMismatch"
    with pytest.raises(Refusal):
        await two.prefill.produce(name, LANES, CONSUMER)


async def test_ranks_that_stop_half_way_fail_the_transfer(two: Pair) -> None:
    name = await half_way(two)
    two.prefill.done(name, complete=False)
    assert (await two.decode.ended(name)).code == "PrefillFailed"
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_a_transfer_that_nobody_fetches_ends_at_its_deadline(two: Pair) -> None:
    name = transfer_id()
    await two.prefill.produce(name, LANES, CONSUMER, deadline_seconds=0.3)
    await two.producer.until("prfaas_sidecar_transfers_total", lambda n: n == 1, code="DeadlineExceeded")
    assert (await used(two))[0] == SIZE
    two.prefill.done(name)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_a_consumer_waits_no_longer_than_its_deadline(two: Pair) -> None:
    name = transfer_id()
    await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER, deadline_seconds=0.4)
    await two.prefill.wanted(name)
    assert (await two.decode.ended(name)).code == "DeadlineExceeded"
    assert (await used(two))[1] == SIZE
    two.decode.release(name)
    await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_a_release_in_the_middle_cancels_at_the_producer(two: Pair) -> None:
    name = await half_way(two)
    two.decode.release(name)
    await two.producer.until(
        "prfaas_sidecar_transfers_total", lambda n: n == 1, code="Cancelled", side="producer"
    )
    two.prefill.done(name)
    for side in (two.producer, two.consumer):
        await side.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_only_what_is_wanted_crosses(two: Pair) -> None:
    name, want = transfer_id(), (((1, 3), (6, 8)),)
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    consumed = await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER, want=want)
    assert await two.prefill.wanted(name) == want
    assert (await used(two))[1] == 2 * 4 * 4096
    two.prefill.produce_all(produced, LANES)
    assert (await two.decode.ended(name)).code == "complete"
    assert two.decode.landed(name) == want
    assert two.decode.check(consumed, LANES, want, want) == 8
    assert await two.consumer.metric("prfaas_sidecar_kv_bytes_total", side="consumer") == 2 * 4 * 4096


async def test_nothing_wanted_is_complete_at_once(two: Pair) -> None:
    name = transfer_id()
    await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER, want=((),))
    assert (await two.decode.ended(name)).code == "complete"


async def test_snapshots_carry_positions_and_may_be_skipped(two: Pair) -> None:
    lanes = (Lane(0, 0, 0, 4, 4096), Lane(1, 1, 0, 3, 10_000), Lane(1, 2, 0, 3, 10_000))
    name, want = transfer_id(), everything(lanes)
    produced = await two.prefill.produce(name, lanes, CONSUMER)
    consumed = await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    two.prefill.fill(produced, lanes, 0, 0, 4)
    two.prefill.publish(name, 0, 0, 4)
    # Snapshot 0 was skipped in one layer, snapshot 1 in none, snapshot 2 in both.
    for lane, unit, tokens in ((1, 0, 16), (1, 1, 32), (2, 1, 32)):
        two.prefill.fill(produced, lanes, lane, unit, 1)
        two.prefill.publish(name, lane, unit, 1, tokens=tokens)
    two.prefill.done(name)
    assert (await two.decode.ended(name)).code == "complete"
    landed = two.decode.landed(name)
    assert landed == (((0, 4),), ((1, 2),))
    told = await two.decode.progressed(name, lambda each: each.landed == landed)
    assert told.positions == ({}, {1: 32})
    assert two.decode.check(consumed, lanes, want, landed) == 6


async def test_memory_is_held_by_every_rank_that_may_write(tmp_path: Path, authority: Authority) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as producer:
        engine = await producer.engine(world_size=2)
        names = [transfer_id(), transfer_id()]
        for name in names:
            await engine.produce(name, LANES, CONSUMER)
            engine.abort(name)
        for name in names:
            engine.workers[0].send(ProducerDone(name, 0, False))
        engine.workers[1].send(ProducerDone(names[0], 1, False))
        await producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == SIZE)
        await engine.close()
        await producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_a_lost_rank_ends_the_engine_but_not_what_others_may_still_write(
    tmp_path: Path, authority: Authority
) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as producer:
        engine = await producer.engine(world_size=2)
        await engine.produce(transfer_id(), LANES, CONSUMER)
        await engine.workers[1].close()
        # Both others are told by the end of their stream, and keep the memory until they have closed theirs.
        await eventually_async(lambda: engine.scheduler.closed.is_set() and engine.workers[0].closed.is_set())
        assert await producer.metric("prfaas_sidecar_arena_used_bytes") == SIZE
        await engine.scheduler.close()
        assert await producer.metric("prfaas_sidecar_arena_used_bytes") == SIZE
        await engine.workers[0].close()
        await producer.until("prfaas_sidecar_arena_used_bytes", lambda size: size == 0)


async def test_ready_means_scheduler_and_all_ranks(tmp_path: Path, authority: Authority) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as producer:
        scheduler = await Side.connect(producer.socket, "scheduler", 0, 2)
        first = await Side.connect(producer.socket, "worker", 0, 2)
        assert (await producer.get("/readyz"))[0] == 503
        engine = FakeEngine(scheduler, [first])
        for asked in (
            engine.produce(transfer_id(), LANES, CONSUMER),
            engine.consume(transfer_id(), LANES, producer.peer_address, PRODUCER),
        ):
            with pytest.raises(Refusal) as refusal:
                await asked
            assert refusal.value.code == "EngineGone"
        second = await Side.connect(producer.socket, "worker", 1, 2)
        assert await producer.get("/readyz") == (200, "ready\n")
        assert await producer.get("/healthz") == (200, "ok\n")
        for side in (second, first, scheduler):
            await side.close()


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({"protocol": PROTOCOL + 1}, "ProtocolError", "version"),
        ({"side": "cook"}, "ProtocolError", "cook"),
        ({"rank": 1}, "ProtocolError", "rank 1"),
        ({"side": "scheduler"}, "ProtocolError", "connected already"),
        ({"fingerprint": "0" * 64, "fingerprint_fields": {"model": "big"}}, "FingerprintMismatch", "model"),
        ({"world_size": 3}, "ProtocolError", "world size 3"),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, authority: Authority, changed: dict[str, object], code: str, text: str
) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as producer:
        scheduler = await Side.connect(producer.socket, "scheduler")
        options: dict[str, object] = {
            "side": "worker",
            "rank": 0,
            "world_size": 1,
            "fingerprint": FINGERPRINT,
        }
        with pytest.raises(Refusal) as refusal:
            await Side.connect(producer.socket, **{**options, **changed})  # type: ignore[arg-type]
        assert refusal.value.code == code
        assert text in refusal.value.message
        await scheduler.close()


async def test_an_engine_that_breaks_the_local_api_is_disconnected(two: Pair) -> None:
    name = transfer_id()
    await two.prefill.produce(name, LANES, CONSUMER)
    two.prefill.workers[0].send(Publish(name, 7, 0, 1))
    await eventually_async(lambda: two.prefill.scheduler.closed.is_set())
    await eventually_async(lambda: two.producer.said("the engine broke the local API"))


async def test_many_small_publishes_share_frames(two: Pair) -> None:
    name, lanes = transfer_id(), lanes_of(layers=1, units=200, unit_bytes=512)
    produced = await two.prefill.produce(name, lanes, CONSUMER)
    consumed = await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    two.prefill.produce_all(produced, lanes, step=1)
    assert (await two.decode.ended(name)).code == "complete"
    assert two.decode.check(consumed, lanes, everything(lanes), two.decode.landed(name)) == 200


async def test_publishing_twice_sends_once(two: Pair) -> None:
    name = await half_way(two)
    engine: FakeEngine = two.prefill
    engine.publish(name, 0, 0, 4)
    engine.done(name)
    assert (await two.decode.ended(name)).code == "complete"
    assert await two.producer.metric("prfaas_sidecar_kv_bytes_total", side="producer") == SIZE / 2
