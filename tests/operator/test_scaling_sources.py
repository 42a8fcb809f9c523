"""Where the autoscaler's numbers come from: sidecars, gateways, price signals, KVLinks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.api.v1alpha1 import KVLink
from prfaas.autoscaling import LinkState
from prfaas.kube import errors
from prfaas_operator.config import SignalsSource
from prfaas_operator.planning.values import ObservedPod
from prfaas_operator.runtime.facts import Fact, PodValue
from prfaas_operator.runtime.gateway_demand import GatewayDemand, add_lengths, turned_away
from prfaas_operator.runtime.link_measurements import LinkMeasurements
from prfaas_operator.runtime.price_signals import PriceSignals
from prfaas_operator.runtime.sidecar_loads import SidecarLoads

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(**answers: Any) -> AsyncIterator[tuple[dict[str, Any], int, aiohttp.ClientSession]]:
    """Texts by path, `_` for `/`; None: 500."""

    async def answer(request: web.Request) -> web.Response:
        text = answers.get(request.path.strip("/"))
        return web.Response(status=500) if text is None else web.Response(text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            yield answers, runner.addresses[0][1], session
    finally:
        await runner.cleanup()


def ready_pod(name: str = "a", *, incarnation: str = "1") -> Fact[PodValue]:
    observed = ObservedPod(name, f"uid-{name}", "r", NOW, ready=True)
    value = PodValue(observed, "127.0.0.1", (), (), incarnation)
    return Fact("s", name, f"uid-{name}", "1", None, "", value)


def told(running: float = 1) -> str:
    return json.dumps({"version": 1, "incarnation": "x", "running": running, "waiting": 0})


async def test_loads_are_compared_with_the_answer_before_of_the_same_containers() -> None:
    clock, counts = Clock(), []
    async with serving(load=told()) as (answers, port, session):
        loads = SidecarLoads(clock=clock, count=counts.append, port=port)
        first = await loads.ask(session, [ready_pod()])
        assert first["uid-a"][1] is None
        clock.now += 10
        second = (await loads.ask(session, [ready_pod()]))["uid-a"][1]
        assert second is not None
        assert second.seconds == 10
        clock.now += 10
        assert (await loads.ask(session, [ready_pod(incarnation="2")]))["uid-a"][1] is None
        answers["load"] = json.dumps({"version": 1, "running": None, "waiting": None})
        assert not await loads.ask(session, [ready_pod()])
        answers["load"] = None
        assert not await loads.ask(session, [ready_pod()])
    assert counts == ["ok", "ok", "ok", "unknown", "failed"]


PAGE = """# TYPE prfaas_gateway_requests_total counter
prfaas_gateway_requests_total{model="chat",route="Local",reason="x",code="OK"} 100
prfaas_gateway_requests_total{model="chat",route="Local",reason="x",code="NoDecodeEngine"} %d
"""


class Pods:
    """An API server that knows one gateway."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.broken = False

    async def list(self, *_: Any, **__: Any) -> list[Any]:
        if self.broken:
            raise errors.ServerFailed("away", reason="Away")
        ports = [{"name": "health", "containerPort": self.port}]
        return [
            {"status": {"phase": "Running", "podIP": "127.0.0.1"}, "spec": {"containers": [{"ports": ports}]}}
        ]


async def test_gateways_tell_lengths_and_what_they_had_to_turn_away() -> None:
    clock = Clock()
    lengths = json.dumps({"version": 1, "routes": {"s/chat": {"tally": {"lengths": {"160": 3}}}}})
    async with serving(observations=lengths, metrics=PAGE % 5) as (answers, port, session):
        pods: Any = Pods(port)
        demand = GatewayDemand(pods, namespace="own", clock=clock)
        first = await demand.ask(session)
        assert (first.answered, first.lengths) == (1, {"s/chat": {160: 3.0}})
        assert not first.turned_away_per_second
        clock.now += 10
        answers["metrics"] = PAGE % 25
        assert (await demand.ask(session)).turned_away_per_second == {"chat": 2.0}
        answers["observations"] = "{}"
        assert (await demand.ask(session)).answered == 0
        pods.broken = True
        clock.now += 100
        assert (await demand.ask(session)).answered == 0


def test_what_gateways_tell_is_added_up_and_nonsense_refused() -> None:
    known: dict[str, dict[int, float]] = {}
    for _ in range(2):
        add_lengths(known, {"version": 1, "routes": {"s/chat": {"tally": {"lengths": {"7": 2}}}}})
    assert known == {"s/chat": {7: 4.0}}
    for document in ([], {"version": 2}, {"version": 1, "routes": {"x": {"tally": {"lengths": {"?": 1}}}}}):
        with pytest.raises(ValueError):  # noqa: PT011 (the caller takes any)
            add_lengths({}, document)
    assert turned_away("") == {}


SIGNALS = """version: 1
asOf: 2026-03-01T12:00:00Z
entries:
- {region: eu, pricePerHour: %s}
"""


async def test_signals_of_a_file_are_read_when_due_and_the_last_good_ones_stay(tmp_path: Path) -> None:
    clock, counts, file = Clock(), [], tmp_path / "prices.yaml"
    file.write_text(SIGNALS % "2.5")
    signals = PriceSignals(SignalsSource(file=str(file), seconds=60), clock=clock, count=counts.append)
    async with serving() as (_, _, session):
        await signals.refresh(session)
        assert signals.current is not None
        good = signals.current
        file.write_text(SIGNALS % "-1")
        await signals.refresh(session)
        assert signals.problem == ""
        clock.now += 60
        await signals.refresh(session)
        assert signals.current is good
        assert "pricePerHour" in signals.problem
        file.unlink()
        clock.now += 60
        await signals.refresh(session)
        assert "No such file" in signals.problem
        assert signals.current is good
    assert counts == ["ok", "failed", "failed"]


async def test_signals_of_an_endpoint() -> None:
    clock, counts = Clock(), []
    async with serving(prices=SIGNALS % "3") as (answers, port, session):
        source = SignalsSource(url=f"http://127.0.0.1:{port}/prices", seconds=60)
        signals = PriceSignals(source, clock=clock, count=counts.append)
        await signals.refresh(session)
        assert signals.current is not None
        assert signals.current.price_per_hour("eu", None, 0.0) == 3.0
        answers["prices"] = None
        clock.now += 60
        await signals.refresh(session)
        assert "500" in signals.problem
    assert counts == ["ok", "failed"]


@pytest.mark.parametrize("given", [{}, {"file": "a", "url": "http://x"}, {"url": "ftp://x"}])
def test_signals_come_from_a_file_or_an_endpoint(given: dict[str, str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's)
        SignalsSource(**given)  # type: ignore[arg-type]


class Links:
    def __init__(self, *links: dict[str, Any]) -> None:
        self.links = list(links)
        self.broken = False

    async def list(self, *_: Any, **__: Any) -> list[Any]:
        if self.broken:
            raise errors.ServerFailed("away", reason="Away")
        return self.links


def kv_link(name: str = "us-eu", source: str = "us", **status: Any) -> dict[str, Any]:
    body = {
        "apiVersion": "prfaas.io/v1alpha1",
        "kind": "KVLink",
        "metadata": {"name": name},
        "spec": {
            "source": {"region": source},
            "destination": {"region": "eu"},
            "capacityBitsPerSecond": 10**10,
        },
        "status": status,
    }
    KVLink.model_validate(body)
    return body


async def test_links_that_cannot_be_listed_grow_old() -> None:
    clock = Clock()
    healthy = {
        "type": "Healthy",
        "status": "True",
        "reason": "Carries",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    api: Any = Links(
        kv_link(utilisationPercent=95, conditions=[healthy]), kv_link("second"), {"metadata": {"name": "x"}}
    )
    links = LinkMeasurements(api, clock=clock)
    (link,) = await links.ask()
    assert (link.name, link.state, link.used_share) == ("us-eu", LinkState.HEALTHY, 0.95)
    api.broken = True
    clock.now += 100
    (old,) = await links.ask()
    assert old.age_seconds == 100
    clock.now += 100
    assert (await links.ask())[0].age_seconds == 200
