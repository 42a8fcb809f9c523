"""Rounds over the links of a region, with a real API server and sidecars' status over HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.api import keys
from prfaas.api.snapshot import LinkTarget
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, KV_LINKS
from prfaas_operator.runtime.federation.links import Links, LinkWindow, SourceCounters, read_links
from tests.operator.runtime_world import client_of

MEGABYTE = 1_000_000


class Sidecars:
    """Status of pods at 127.0.0.N; those that are not here do not answer in good order."""

    def __init__(self) -> None:
        self.received: dict[str, int] = {}
        self.complete = 0
        self.port = 0

    def pods(self) -> list[tuple[str, str]]:
        return [("uid-1", "127.0.0.1"), ("uid-2", "127.0.0.2")]

    async def show(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self.received:
            return web.Response(status=503)
        link = {
            "region": "us",
            "received_bytes": self.received[address],
            "busy_seconds": self.received[address] / (100 * MEGABYTE),
            "goodput_bits_per_second": 8e8,
            "rtt_seconds": 0.08,
            "retransmits_percent": 0.5,
            "streams": 4,
            "complete_transfers": self.complete,
            "failed_transfers": 0,
        }
        return web.json_response({"version": 1, "links": [link], "links_epoch": f"epoch-{address}"})


@contextlib.asynccontextmanager
async def serving(sidecars: Sidecars) -> AsyncIterator[Sidecars]:
    app = web.Application()
    app.router.add_get("/status", sidecars.show)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)  # noqa: S104  (several addresses of the loopback)
    await site.start()
    sidecars.port = runner.addresses[0][1]
    try:
        yield sidecars
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def link(client: KubeClient, destination: str, **spec: Any) -> AsyncIterator[str]:
    name = f"us-{destination}"
    ends = {"source": {"region": "us"}, "destination": {"region": destination}}
    body = {
        "apiVersion": "prfaas.io/v1alpha1",
        "kind": "KVLink",
        "metadata": {"name": name},
        "spec": {**ends, **spec},
    }
    await client.create(KV_LINKS, body)
    try:
        yield name
    finally:
        await client.delete(KV_LINKS, None, name)


async def ledger(client: KubeClient, namespace: str) -> dict[str, Any]:
    body = await client.get(CONFIG_MAPS, namespace, keys.EGRESS_CONFIG_MAP)
    stored: dict[str, Any] = json.loads(body["data"]["ledger.json"])["links"]["us"]
    return stored


async def test_what_comes_in_is_told_and_counted_over_a_restart(kubeconfig: Path, namespace: str) -> None:
    now = 1000.0
    region = namespace
    told: list[str] = []
    async with (
        client_of(kubeconfig) as client,
        link(client, region, capacityBitsPerSecond=10**9, budgetBytesPerMonth=5000 * MEGABYTE) as name,
        serving(Sidecars()) as sidecars,
        aiohttp.ClientSession() as session,
    ):

        def operator() -> Links:
            return Links(
                client,
                namespace=namespace,
                region=region,
                pods=sidecars.pods,
                clock=lambda: now,
                port=sidecars.port,
                changed=lambda: told.append("open" if not links.closed() else "spent"),
            )

        async def conditions() -> dict[str, str]:
            status = (await client.get(KV_LINKS, None, name))["status"]
            return {each["type"]: each["reason"] for each in status["conditions"]}

        links = operator()
        sidecars.received = {"127.0.0.1": 100 * MEGABYTE, "127.0.0.2": 0}
        await links.round(session)
        assert (await ledger(client, namespace))["spent_bytes"] == 100 * MEGABYTE
        assert await conditions() == {"Healthy": "Idle", "Congested": "Idle", "Down": "Idle"}

        # A minute later 3 GB have come through the two; the first status is a minute old.
        for _ in range(6):
            now += 10
            for address in sidecars.received:
                sidecars.received[address] += 250 * MEGABYTE
            sidecars.complete += 3
            await links.round(session)
        stored = (await client.get(KV_LINKS, None, name))["status"]
        assert await conditions() == {"Healthy": "Measured", "Congested": "NotSaturated", "Down": "Carries"}
        assert stored["goodputBitsPerSecond"] == 800_000_000
        assert stored["utilisationPercent"] == 40
        assert stored["spentBytes"] == 3100 * MEGABYTE
        assert links.budgets[0].left_bytes == 1900 * MEGABYTE
        assert links.targets == (LinkTarget(source="us", capacity_bits_per_second=10**9),)
        assert links.closed() == {}

        # The operator is away while 1 GB comes, and one pod does not answer at first.
        sidecars.received = {"127.0.0.1": sidecars.received["127.0.0.1"] + 1000 * MEGABYTE}
        before = {"127.0.0.2": 1500 * MEGABYTE}
        links = operator()
        # Nothing is said of links before they were looked at: what gateways were told before holds.
        assert links.targets is None
        told.clear()
        await links.round(session)
        assert (await ledger(client, namespace))["spent_bytes"] == 4100 * MEGABYTE
        sidecars.received |= {"127.0.0.2": before["127.0.0.2"] + 1000 * MEGABYTE}
        now += 61
        await links.round(session)
        counted = await ledger(client, namespace)
        assert (counted["spent_bytes"], counted["unknown_bytes"]) == (5100 * MEGABYTE, 0)
        assert (await conditions())["Congested"] == "BudgetSpent"
        assert links.budgets[0].is_spent
        assert links.closed() == {"us": "BudgetSpent"}
        assert told == ["open", "spent"]


async def test_a_ledger_that_cannot_be_read_is_not_written_over(kubeconfig: Path, namespace: str) -> None:
    async with (
        client_of(kubeconfig) as client,
        link(client, namespace),
        aiohttp.ClientSession() as session,
    ):
        body = {
            "metadata": {"namespace": namespace, "name": keys.EGRESS_CONFIG_MAP},
            "data": {"ledger.json": "precious"},
        }
        await client.create(CONFIG_MAPS, body)
        links = Links(client, namespace=namespace, region=namespace, pods=lambda: (), clock=lambda: 0.0)
        with pytest.raises(ValueError, match="restore it, or delete it"):
            await links.round(session)
        assert (await client.get(CONFIG_MAPS, namespace, keys.EGRESS_CONFIG_MAP))["data"] == body["data"]


async def test_a_budget_of_which_nobody_knows_what_is_left_counts_as_spent(
    kubeconfig: Path, namespace: str
) -> None:
    async with (
        client_of(kubeconfig) as client,
        link(client, namespace, budgetBytesPerMonth=1) as name,
        aiohttp.ClientSession() as session,
    ):
        body = {
            "metadata": {"namespace": namespace, "name": keys.EGRESS_CONFIG_MAP},
            "data": {"ledger.json": "precious"},
        }
        await client.create(CONFIG_MAPS, body)
        links = Links(client, namespace=namespace, region=namespace, pods=lambda: (), clock=lambda: 0.0)
        with pytest.raises(ValueError, match="restore it, or delete it"):
            await links.round(session)
        assert links.closed() == {"us": "BudgetUnknown"}
        (told,) = (await client.get(KV_LINKS, None, name))["status"]["conditions"]
        assert (told["type"], told["status"], told["reason"]) == ("Congested", "True", "BudgetUnknown")
        assert "delete it to count anew" in told["message"]
        await client.delete(CONFIG_MAPS, namespace, keys.EGRESS_CONFIG_MAP)
        await links.round(session)
        assert links.closed() == {}


async def test_clusters_of_a_region_share_its_budget(kubeconfig: Path, namespace: str) -> None:
    async with (
        client_of(kubeconfig) as client,
        link(client, namespace, budgetBytesPerMonth=100 * MEGABYTE) as name,
        serving(Sidecars()) as sidecars,
        aiohttp.ClientSession() as session,
    ):
        sidecars.received = {"127.0.0.1": 60 * MEGABYTE}
        links = Links(
            client,
            namespace=namespace,
            region=namespace,
            pods=sidecars.pods,
            clock=lambda: 0.0,
            port=sidecars.port,
            clusters=lambda: 2,
        )
        await links.round(session)
        assert links.closed() == {"us": "BudgetSpent"}
        stored = (await client.get(KV_LINKS, None, name))["status"]["conditions"]
        (told,) = [each for each in stored if each["type"] == "Congested"]
        assert told["reason"] == "BudgetSpent"
        assert f"{50 * MEGABYTE} bytes (this cluster's part of 2)" in told["message"]


async def test_links_that_end_elsewhere_are_left_alone(kubeconfig: Path, namespace: str) -> None:
    async with (
        client_of(kubeconfig) as client,
        link(client, f"{namespace}-other") as name,
        aiohttp.ClientSession() as session,
    ):
        links = Links(client, namespace=namespace, region=namespace, pods=lambda: (), clock=lambda: 0.0)
        await links.round(session)
        assert "status" not in await client.get(KV_LINKS, None, name)
        with pytest.raises(errors.NotFound):
            await ledger(client, namespace)


def counters(received: int, busy: float = 0.0) -> SourceCounters:
    return SourceCounters(received, busy, 0, 0, 0.05, None)


def test_sidecars_that_receive_together_share_the_link() -> None:
    window = LinkWindow()
    window.add({"a": counters(0), "b": counters(0)}, 0.0)
    window.add({"a": counters(500, 10.0), "b": counters(500, 10.0)}, 10.0)
    measured = window.measured(10.0)
    assert (measured.received_bytes, measured.goodput_bits_per_second) == (1000, 800.0)


def test_the_window_forgets_and_a_run_that_was_not_there_counts_whole() -> None:
    window = LinkWindow()
    window.add({"a": counters(10**6)}, 0.0)
    window.add({"a": counters(10**6), "new": counters(70)}, 10.0)
    assert window.measured(10.0).received_bytes == 70
    window.add({}, 71.0)
    assert window.measured(71.0).received_bytes == 0
    assert window.measured(71.0).idle_seconds == 61.0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"version": 2}', b'{"version": 1, "links": [{"region": "us"}]}']
)
def test_what_is_no_status_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_links(body)


def test_sidecars_of_before_the_federation_tell_of_no_links() -> None:
    assert read_links(b'{"version": 1}').sources == {}
