"""Two sidecar processes, TLS between them, engines without a model: KV crosses and is the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prfaas_demo.certificates import Authority
from tests.sidecar.fake_engine import everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, pair, transfer_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_everything_that_was_published_lands_unchanged(two: Pair) -> None:
    name, lanes = transfer_id(), lanes_of(layers=3, units=16)
    produced = await two.prefill.produce(name, lanes, CONSUMER)
    consumed = await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    assert await two.prefill.wanted(name) == everything(lanes)
    two.prefill.produce_all(produced, lanes, step=4)
    end = await two.decode.ended(name)
    assert end.code == "complete"
    assert two.decode.check(consumed, lanes, everything(lanes), two.decode.landed(name)) == 3 * 16
    two.decode.release(name, taken_tokens=256)
    for side in (two.producer, two.consumer):
        await side.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


async def test_the_consumer_may_ask_before_the_producer_has_started(two: Pair) -> None:
    name, lanes = transfer_id(), lanes_of()
    consumed = await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    await two.producer.until("prfaas_sidecar_streams", lambda count: count > 0, side="producer")
    produced = await two.prefill.produce(name, lanes, CONSUMER)
    two.prefill.produce_all(produced, lanes)
    assert (await two.decode.ended(name)).code == "complete"
    assert two.decode.check(consumed, lanes, everything(lanes), two.decode.landed(name)) == 16


async def test_transfers_run_beside_each_other(two: Pair) -> None:
    names, lanes = [transfer_id() for _ in range(3)], lanes_of(layers=4, units=32)

    async def one(name: str) -> int:
        produced = await two.prefill.produce(name, lanes, CONSUMER)
        consumed = await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
        two.prefill.produce_all(produced, lanes, step=8)
        assert (await two.decode.ended(name)).code == "complete"
        return two.decode.check(consumed, lanes, everything(lanes), two.decode.landed(name))

    assert await asyncio.gather(*(one(name) for name in names)) == [4 * 32] * 3


async def test_a_large_transfer_needs_no_memory_beside_the_arena(
    tmp_path: Path, authority: Authority
) -> None:
    async with pair(tmp_path, authority, arena_bytes="260MiB") as two:
        # Units of 16 MiB: larger than any buffer that a stream may fill.
        name, lanes = transfer_id(), lanes_of(layers=2, units=8, unit_bytes=16 << 20)
        produced = await two.prefill.produce(name, lanes, CONSUMER)
        await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
        for index in range(len(lanes)):
            two.prefill.publish(produced.transfer_id, index, 0, 8)
        two.prefill.done(name)
        assert (await two.decode.ended(name)).code == "complete"
        for side in (two.producer, two.consumer):
            assert await asyncio.to_thread(side.private_mib) < 80
