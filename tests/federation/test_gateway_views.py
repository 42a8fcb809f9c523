"""What gateways tell the operator of other regions: read over HTTP, whatever they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from prfaas.api.v1alpha1 import HopName
from prfaas.kube.resources import Object
from prfaas_operator.runtime.federation import gateways
from prfaas_operator.runtime.federation.gateways import GatewayViews, address_of, read_views
from tests.helpers import eventually_async

ENTRY: dict[str, Any] = {
    "name": "us",
    "cluster": "us-1",
    "age_seconds": 0.4,
    "code": None,
    "hops": [
        {"name": "DNS", "ok": True, "message": "", "remedy": ""},
        {"name": "TCP", "ok": False, "message": "it does not answer", "remedy": "open the firewall"},
        {"name": "Teleport", "ok": True},
        {"name": "TLS"},
        "nonsense",
    ],
    "report": {"name": "us-1", "pools": []},
    "novel": 1,
}


def document(*entries: Any) -> bytes:
    return json.dumps({"version": 1, "region": "eu", "regions": list(entries)}).encode()


def pod(port: int, address: str = "127.0.0.1", phase: str = "Running") -> Object:
    ports = [{"name": "http", "containerPort": 1}, {"name": "health", "containerPort": port}]
    return {"spec": {"containers": [{"ports": ports}]}, "status": {"phase": phase, "podIP": address}}


def test_an_entry_is_read_and_what_is_not_known_is_left_out() -> None:
    view = read_views(document(ENTRY, {"no": "name"}, 7))["us"]
    assert (view.cluster, view.age_seconds, view.hears) == ("us-1", 0.4, True)
    assert [(hop.name, hop.ok, hop.message) for hop in view.hops] == [
        (HopName.DNS, True, None),
        (HopName.TCP, False, "it does not answer: open the firewall"),
    ]
    strange = read_views(document({"name": "us", "age_seconds": "soon", "hops": {}, "report": [], "code": 5}))
    assert (strange["us"].age_seconds, strange["us"].hops, strange["us"].report) == (None, (), None)
    for bad in (b"", b"[]", b'{"version": 2}'):
        with pytest.raises(ValueError, match=r".*"):
            read_views(bad)


def test_only_a_gateway_that_runs_is_asked() -> None:
    assert address_of(pod(8002)) == gateways.Address("127.0.0.1", 8002)
    assert address_of(pod(8002, phase="Pending")) is None
    assert address_of(pod(8002, address="")) is None
    assert address_of({"spec": {"containers": [{}]}, "status": {"phase": "Running", "podIP": "::1"}}) is None


@asynccontextmanager
async def gateway(body: bytes) -> AsyncIterator[int]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/v1/regions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class _Pods:
    def __init__(self, *pods: Object) -> None:
        self.pods = list(pods)

    async def list(self, *_: Any, **__: Any) -> list[Object]:
        return self.pods


async def test_several_gateways_are_asked_and_one_that_fails_harms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateways, "ASK_EVERY_SECONDS", 0.05)
    async with gateway(document(ENTRY)) as one, gateway(b"not JSON") as other:
        api: Any = _Pods(pod(one), pod(other), pod(1))
        views = GatewayViews(
            api, namespace="own", clock=asyncio.get_running_loop().time, changed=lambda: None
        )
        asking = asyncio.create_task(views.run())

        async def told() -> bool:
            return len(views.views.get("us", ())) == 1

        await eventually_async(told, within_seconds=20, what="a gateway has told")
        age = views.heard_seconds("us-1")
        assert age is not None
        assert age >= 0.4
        assert views.heard_seconds("asia") is None
        assert views.reports("us") == {"us-1": {"name": "us-1", "pools": []}}
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
