"""The operator asks gateways over real sockets what they have counted, and plans thresholds from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from prfaas.capacity import KVSize
from prfaas.scheduling import Outcome, Tally
from prfaas_operator.planning.values import RouteKey
from prfaas_operator.runtime.federation.gateways import Address
from prfaas_operator.runtime.route_measurements import PLAN_EVERY_SECONDS, PLAN_PAUSE_SECONDS, RouteBook

KEY = RouteKey("serving", "chat")


def observed(requests: int = 200, **changes: Any) -> dict[str, Any]:
    tally = Tally(seconds=600)
    for number in range(requests):
        tally.count(Outcome(1000 + 200 * number, worth_it=False, remote=False))
    entry = {
        "tally": tally.to_document(),
        "local": {"instances": 2, "points": [[1000, 0.5], [50_000, 12.0]]},
        "remote": [{"name": "long", "instances": 2, "points": [[1000, 0.2], [50_000, 4.0]]}],
        **changes,
    }
    return {"version": 1, "routes": {"serving/chat": entry, "static": entry}}


@asynccontextmanager
async def gateway(answers: list[Any]) -> AsyncIterator[Address]:
    """Gives these answers in turn, and the last one from then on."""

    async def answer(_: web.Request) -> web.Response:
        body = answers.pop(0) if len(answers) > 1 else answers[0]
        return web.json_response(body) if body is not None else web.Response(status=500)

    app = web.Application()
    app.router.add_get("/observations", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Address("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()


class Now:
    """A clock that stands."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_it_counts_plans_and_tells_when_the_threshold_moves() -> None:
    told: list[tuple[RouteKey, bool]] = []
    clock = Now()
    book = RouteBook(
        None,  # type: ignore[arg-type]  # gateways are given here
        namespace="prfaas",
        clock=clock,
        kv_of=lambda _: None,
        changed=lambda key, moved: told.append((key, moved)),
    )
    answers = [observed(), observed(), observed(remote=[]), None]
    async with gateway(answers) as address, aiohttp.ClientSession() as session:
        await book.round(session, (address,))
        first = book.of(KEY)
        assert first.count is not None
        assert first.count.tally.requests == 200
        assert first.standing is not None
        assert 0 < first.standing.plan.threshold_tokens < 41_000
        assert told == [(KEY, True)]
        await book.round(session, (address,))
        assert told == [(KEY, True), (KEY, False)]
        clock.seconds = PLAN_EVERY_SECONDS
        await book.round(session, (address,))
        assert book.of(KEY).threshold_tokens == first.threshold_tokens, "without engines there is no new plan"
        await book.round(session, (address,))
        assert len(told) == 3, "a gateway that does not answer tells nothing"


async def test_a_link_that_falls_raises_the_threshold_before_the_next_plan_is_due() -> None:
    clock = Now()
    book = RouteBook(
        None,  # type: ignore[arg-type]
        namespace="prfaas",
        clock=clock,
        kv_of=lambda _: KVSize.per_token(1000, to_tokens=50_000),
        changed=lambda *_: None,
    )

    def over(bits_per_second: float) -> dict[str, Any]:
        (engine,) = observed()["routes"]["serving/chat"]["remote"]
        return observed(remote=[{**engine, "bits_per_second": bits_per_second, "rtt_seconds": 0.03}])

    answers = [over(1e9), over(9e8), over(1e7)]
    async with gateway(answers) as address, aiohttp.ClientSession() as session:
        await book.round(session, (address,))
        first = book.of(KEY)
        clock.seconds = PLAN_PAUSE_SECONDS
        await book.round(session, (address,))
        assert book.of(KEY).standing == first.standing, "a tenth less is no other link"
        await book.round(session, (address,))
        fallen = book.of(KEY)
    assert first.threshold_tokens is not None
    assert fallen.threshold_tokens is not None
    assert fallen.threshold_tokens > 2 * first.threshold_tokens


async def test_a_plan_that_fails_leaves_the_previous_one_in_force_and_says_why() -> None:
    clock = Now()
    book = RouteBook(
        None,  # type: ignore[arg-type]
        namespace="prfaas",
        clock=clock,
        kv_of=lambda _: None,
        changed=lambda *_: None,
    )
    none_runs = [{"name": "long", "instances": 0, "points": [[1000, 0.2], [50_000, 4.0]]}]
    async with (
        gateway([observed(), observed(remote=none_runs)]) as address,
        aiohttp.ClientSession() as session,
    ):
        await book.round(session, (address,))
        before = book.of(KEY)
        clock.seconds = PLAN_EVERY_SECONDS
        await book.round(session, (address,))
        after = book.of(KEY)
        assert after.threshold_tokens == before.threshold_tokens
        assert after.standing is not None
        assert "no prefill engine runs" in (after.standing.stale_because or "")


async def test_answers_of_another_version_and_other_nonsense_count_for_nothing() -> None:
    book = RouteBook(
        None,  # type: ignore[arg-type]
        namespace="prfaas",
        clock=lambda: 0.0,
        kv_of=lambda _: None,
        changed=lambda *_: None,
    )
    for body in ({"version": 2, "routes": {}}, [1, 2], "x", {"version": 1, "routes": {"serving/chat": 5}}):
        async with gateway([body]) as address, aiohttp.ClientSession() as session:
            await book.round(session, (address,))
    assert book.of(KEY).count is None
