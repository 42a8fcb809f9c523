"""The scheduler in a gateway on real sockets: turns, refusals, queues, shadows and ledgers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prfaas.capacity import Curve
from prfaas.scheduling import CompiledCurve, Guard
from prfaas_bench.fake_engine import Script
from tests.gateway.world import LONG, SHORT, World, decode_identity, prefill_identity, running
from tests.helpers import eventually_async

TENANT = "x-tenant"
LOCAL = {"remote_prefill": False}
ASSUMED = [{"name": "long", "instances": 2, "prefill_points": [[100, 0.1], [4000, 1.0]]}]


def pace(world: World, *, local: float, remote: float | None = None) -> None:
    """Engines that take so many seconds per 1,000 tokens."""

    def curve(seconds: float) -> CompiledCurve:
        return CompiledCurve(Curve.from_points([(1, seconds / 1000), (1000, seconds)], extrapolates=True))

    curves = {decode_identity(): curve(local)}
    if remote is not None:
        curves[prefill_identity()] = curve(remote)
    world.services.scheduler.paces.give(curves)
    tick(world)


def tick(world: World) -> None:
    world.services.scheduler.tick(world.services.fleet.prefillers, world.services.clock())


def narrow(world: World) -> None:
    """One prompt at a time."""
    (decoder,) = world.services.fleet.decoders
    decoder.config = decoder.config.model_copy(update={"max_prefill_tokens": 10})


async def ask(world: World, user: str, tenant: str = "", **fields: Any) -> int:
    headers = {TENANT: tenant} if tenant else {}
    body = {"model": "chat", "prompt": LONG, "max_tokens": 3, "stream": True, "user": user, **fields}
    async with world.client.post(f"{world.url}/v1/completions", json=body, headers=headers) as response:
        await response.read()
        return response.status


async def waiting(world: World, count: int) -> None:
    room = world.services.scheduler.room
    await eventually_async(lambda: len(room) == count, what=f"{count} wait")


async def test_who_waits_is_served_in_turns_of_tenants(tmp_path: Path) -> None:
    async with running(tmp_path, settings={**LOCAL, "tenant_header": TENANT}) as world:
        narrow(world)
        begins = [asyncio.Event() for _ in range(5)]
        world.engine.scripts = [Script(begin=begin) for begin in begins]
        tasks = [asyncio.create_task(ask(world, "a1", "a"))]
        await world.engine.wait_for(1)
        for number, (user, tenant) in enumerate([("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b")]):
            tasks.append(asyncio.create_task(ask(world, user, tenant)))
            await waiting(world, number + 1)
        for number, begin in enumerate(begins):
            await world.engine.wait_for(number + 1)
            assert len(world.engine.asked) == number + 1, "one prompt at a time"
            begin.set()
        assert await asyncio.gather(*tasks) == [200] * 5
        order = [asked.body["user"] for asked in world.engine.asked]
        assert order.index("b1") <= 2
        assert [user for user in order if user.startswith("a")] == ["a1", "a2", "a3", "a4"]


async def test_a_tenant_that_fills_the_room_is_told_so_and_others_find_a_place(tmp_path: Path) -> None:
    settings = {**LOCAL, "tenant_header": TENANT, "limits": {"max_waiting": 4}}
    async with running(tmp_path, settings=settings) as world:
        narrow(world)
        begin = asyncio.Event()
        world.engine.default = Script(begin=begin)
        tasks = [asyncio.create_task(ask(world, "b0", "b"))]
        await world.engine.wait_for(1)
        for number, tenant in enumerate("baa"):
            tasks.append(asyncio.create_task(ask(world, "x", tenant)))
            await waiting(world, number + 1)
        assert await ask(world, "x", "a") == 429
        tasks.append(asyncio.create_task(ask(world, "x", "c")))
        await waiting(world, 4)
        assert await ask(world, "x", "d") == 503
        begin.set()
        assert await asyncio.gather(*tasks) == [200] * 5
        assert world.counted("refused_total", model="chat", slo_class="standard", code="Overloaded") == 2


async def test_waiting_ends_in_time_and_a_client_that_leaves_gives_its_place_up(tmp_path: Path) -> None:
    async with running(tmp_path, settings={**LOCAL, "timeouts": {"waiting_seconds": 0.2}}) as world:
        narrow(world)
        begin = asyncio.Event()
        world.engine.default = Script(begin=begin)
        first = asyncio.create_task(ask(world, "first"))
        await world.engine.wait_for(1)
        assert await ask(world, "late") == 503
        leaver = asyncio.create_task(ask(world, "leaver"))
        await waiting(world, 1)
        leaver.cancel()
        await waiting(world, 0)
        begin.set()
        assert await first == 200
        assert await ask(world, "next") == 200
        assert [asked.body["user"] for asked in world.engine.asked] == ["first", "next"]


async def test_what_cannot_be_in_time_is_refused_by_its_class_alone(tmp_path: Path) -> None:
    slo = {"header": "x-slo", "classes": {"strict": {"ttft_seconds": 1, "shed": "Refuse"}}}
    async with running(tmp_path, settings={**LOCAL, "slo": slo}) as world:
        body = {"model": "chat", "prompt": LONG, "max_tokens": 1}
        url = f"{world.url}/v1/completions"
        pace(world, local=0.1)
        async with world.client.post(url, json=body, headers={"x-slo": "strict"}) as response:
            assert response.status == 200
        assert "x-slo" not in {name.lower() for name in world.engine.asked[-1].headers}
        pace(world, local=40)
        async with world.client.post(url, json=body, headers={"x-slo": "strict"}) as response:
            answer = await response.json()
            assert (response.status, answer["error"]["code"]) == (503, "SloUnreachable")
            assert int(response.headers["Retry-After"]) >= 4
        assert world.counted("refused_total", model="chat", slo_class="strict", code="SloUnreachable") == 1
        async with world.client.post(url, json=body) as response:
            assert response.status == 200
        assert len(world.engine.asked) == 2


async def test_a_queue_there_keeps_a_long_prompt_here_and_a_queue_here_sends_it(tmp_path: Path) -> None:
    async with running(tmp_path, model={"adaptive": True}) as world:
        pace(world, local=1, remote=1)
        (prefiller,) = world.services.fleet.prefillers
        async with world.complete() as response:
            assert response.headers["x-prfaas-reason"] == "OverThreshold"
        sent = world.engine.asked[-1].transfer
        assert sent is not None
        assert sent["first_kv_seconds"] == 0
        prefiller.told_tokens = 20_000
        tick(world)
        async with world.complete(prompt="x" + LONG) as response:
            assert response.headers["x-prfaas-reason"] == "PrefillBusy"
        prefiller.told_tokens = 0
        tick(world)
        world.services.fleet.decoders[0].prefill_tokens = 20_000
        async with world.complete(prompt=[7] * 90) as response:
            assert response.headers["x-prfaas-reason"] == "DecodeBusy"
        async with world.complete(prompt=[7] * 40) as response:
            assert response.headers["x-prfaas-reason"] == "UnderThreshold", "too short to be tokenised"


async def test_a_fixed_threshold_does_not_bend(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        pace(world, local=0.01, remote=1)
        world.services.fleet.prefillers[0].told_tokens = 20_000
        tick(world)
        async with world.complete() as response:
            assert response.headers["x-prfaas-route"] == "remote"


async def test_observe_decides_with_pools_that_are_only_assumed_and_sends_nothing(tmp_path: Path) -> None:
    model = {"mode": "Observe", "assumed_pools": ASSUMED, "route": "serving/chat"}
    async with running(tmp_path, prefillers=0, model=model) as world:
        (decoder,) = world.services.fleet.decoders
        decoder.config = decoder.config.model_copy(update={"control": None})
        pace(world, local=5)
        for prompt in (LONG, SHORT, "y" + LONG):
            async with world.complete(prompt=prompt, stream=True) as response:
                await response.read()
                assert response.headers["x-prfaas-route"] == "local"
                expected = "local" if prompt == SHORT else "remote"
                assert response.headers["x-prfaas-would-be"] == expected
        assert all(asked.transfer is None for asked in world.engine.asked)
        await world.settled()
        async with world.client.get(f"{world.health_url}/observations") as response:
            shown = await response.json()
        entry = shown["routes"]["serving/chat"]
        tally = entry["tally"]
        assert (tally["requests"], tally["worth_it"], tally["done_remotely"]) == (3, 2, 0)
        count, gained, _ = tally["gain"]
        assert count == 2
        assert gained > 2, "local takes two seconds more for each"
        assert entry["local"]["instances"] == 1
        assert LONG[:20] not in str(shown)


async def test_a_broken_objective_keeps_all_here_until_the_hold_is_over(tmp_path: Path) -> None:
    async with running(tmp_path, model={"ttft_seconds": 5}) as world:
        now = world.services.clock()
        ledger = world.services.scheduler.observations.of("chat", now)
        ledger.guard = Guard(at=now, fallen_until=now + 60, falls=1)
        async with world.complete() as response:
            assert response.headers["x-prfaas-reason"] == "SloFallback"
            assert response.headers["x-prfaas-would-be"] == "remote"
        async with world.client.get(f"{world.health_url}/metrics") as response:
            assert 'prfaas_gateway_fallen_back{route="chat"} 1.0' in await response.text()
        ledger.guard = Guard(at=now, fallen_until=now - 1, falls=1)
        async with world.complete(prompt="x" + LONG) as response:
            assert response.headers["x-prfaas-route"] == "remote"


async def test_late_remote_requests_break_the_objective_by_themselves(tmp_path: Path) -> None:
    async with running(tmp_path, model={"ttft_seconds": 0.000001}) as world:
        reasons = []
        for number in range(30):
            async with world.complete(prompt=f"{number:03}" + LONG, stream=True) as response:
                await response.read()
                reasons.append(response.headers["x-prfaas-reason"])
            if reasons[-1] == "SloFallback":
                break
        assert reasons[0] == "OverThreshold"
        assert reasons[-1] == "SloFallback"


async def test_paces_are_learned_from_what_had_an_engine_to_itself(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"limits": {"tokenizer_threads": 1}}) as world:
        for number in range(6):
            async with world.complete(prompt=f"{number:03}" + LONG, stream=True) as response:
                await response.read()
        await world.settled()
        points = world.services.scheduler.paces.points()
        assert points[prefill_identity()]
        async with world.client.get(f"{world.health_url}/observations") as response:
            shown = await response.json()
        (remote,) = shown["routes"]["chat"]["remote"]
        assert remote["instances"] == 1
        assert remote["points"]
