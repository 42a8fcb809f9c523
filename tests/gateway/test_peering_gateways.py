"""Gateways of two regions: pods become known, legs are passed on, and what is lost is left at once."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path

from prfaas.api.snapshot import LinkTarget
from prfaas.held_blocks import Cursor, HeldBlocks
from prfaas_bench.fake_engine import Script
from prfaas_gateway.blocks_feed import follow
from prfaas_gateway.cluster.membership import PEER_PORT
from prfaas_gateway.paces import LinkReport
from prfaas_gateway.prefix_index import PromptBlocks
from tests.gateway.fake_sidecar import PrefillScript, transfer_id_of
from tests.gateway.peering_world import (
    RegionWorld,
    call,
    decoding,
    offering,
    pool_of,
    region_world,
    target,
    two_regions,
)
from tests.helpers import eventually_async


async def test_a_request_is_prefilled_in_the_other_region(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        far, near = us.pods["long-0"].sidecar, eu.pods["chat-0"].engine
        assert near is not None
        leg = await far.wait_for_prefill()
        assert leg.body["kv_transfer_params"]["prfaas"]["consumer"] == pool_of("eu", "DecodePool", "chat")
        headers = {name.lower(): value for name, value in leg.headers.items()}
        assert headers["x-request-id"] == f"prfaas-{transfer_id_of(leg)}"
        decode = next(asked for asked in near.asked if asked.transfer is not None)
        assert decode.transfer is not None
        ip = us.pods["long-0"].pod.ip
        assert decode.transfer["producer"] == {
            "address": f"{ip}:{PEER_PORT}",
            "identity": pool_of("us", "PrefillPool", "long"),
            "server_name": f"{ip.replace('.', '-')}.kv.test",
        }
        await eventually_async(lambda: us.counted("passed_legs_total", region="eu", code="OK") >= 1)
        await eventually_async(lambda: eu.counted("peer_legs_total", region="us", code="OK") >= 1)


async def test_what_engines_of_another_region_hold_is_known_here(tmp_path: Path) -> None:
    """A gateway of an earlier version there passes nothing on, and then what was sent counts."""
    told = HeldBlocks(Cursor("0" * 16, 3), True, True, 16, array("Q", [1, 2, 3]), array("Q"))
    async with two_regions(tmp_path) as (eu, us, _):
        us.pods["long-0"].sidecar.held_blocks = told
        await eventually_async(lambda: eu.prefiller("us/llm/long-0") is not None)
        engine = eu.prefiller("us/llm/long-0")
        assert engine is not None
        assert eu.services.control is not None
        feed = asyncio.create_task(follow(eu.services.control, engine, lambda: {16}))
        try:
            await eventually_async(lambda: engine.index.tells == "Told")
            assert engine.index.matched_blocks(PromptBlocks((7, 8, 9), (1, 2, 9))) == 2
            us.pods["long-0"].sidecar.held_blocks = None
            assert await eu.services.control.held_blocks(engine.target, None, 0) is None
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)


async def test_a_region_is_shown_hop_by_hop(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_hop("us", None)
        await eventually_async(lambda: eu.prefiller("us/llm/long-0") is not None)
        seen = await eu.seen("us")
        names = ["DNS", "TCP", "TLS", "Identity", "Authorisation", "Clock"]
        assert [hop["name"] for hop in seen["hops"]] == names
        assert seen["exchange"]["source"] == "peer"
        assert seen["age_seconds"] < 5
        assert (seen["cluster"], seen["code"]) == ("us", None)
        (pool,) = seen["pools"]
        assert (pool["namespace"], pool["name"], pool["pods"], pool["ready"]) == ("llm", "long", 1, 1)
        # What nothing is offered of is known as a region all the same.
        back = await us.seen("eu")
        assert back["pools"] == []
        await us.eventually_hop("eu", None)

        async def reported() -> bool:
            report = (await us.seen("eu"))["report"]
            return report is not None and [
                (pool["kind"], pool["name"], pool["readyReplicas"]) for pool in report["pools"]
            ] == [("DecodePool", "chat", 1)]

        await eventually_async(reported, within_seconds=20)


async def test_a_drain_is_known_at_once_and_a_new_pod_too(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        us.set_pod("long-0", draining=True)
        engine = eu.prefiller("us/llm/long-0")
        assert engine is not None
        await eventually_async(lambda: not engine.open)
        assert await eu.routed() == ("local", "NoPrefillEngine")
        await us.add_pod("long-1")
        await eu.eventually_routed("remote", "OverThreshold")
        del us.pods["long-0"]
        us.show_pods()
        await eventually_async(lambda: eu.prefiller("us/llm/long-0") is None)


async def test_a_region_that_is_gone_costs_no_request(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, _, cable):
        await eu.eventually_routed("remote", "OverThreshold")
        await cable.cut()
        routes = [await eu.routed() for _ in range(5)]
        # One was tried in vain at most; then nobody asks there any more.
        assert routes[0] in (("local", "PrefillFailed"), ("local", "NoPrefillEngine"))
        assert routes[1:] == [("local", "NoPrefillEngine")] * 4
        await eu.eventually_hop("us", "TCP")
        seen = await eu.seen("us")
        assert not seen["usable"]
        # What was known is shown with its age.
        assert seen["pools"][0]["ready"] == 1
        await cable.plug_in()
        await eu.eventually_routed("remote", "OverThreshold")
        await eu.eventually_hop("us", None)


async def test_a_leg_that_waits_for_a_silent_region_goes_on_here(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, cable):
        await eu.eventually_routed("remote", "OverThreshold")
        engine, sidecar = eu.pods["chat-0"].engine, us.pods["long-0"].sidecar
        assert engine is not None
        await legs_have_ended(eu)
        begin, legs = asyncio.Event(), len(sidecar.prefills)
        engine.default = Script(begin=begin)
        sidecar.prefill_default = PrefillScript(finish=asyncio.Event())
        asking = asyncio.create_task(eu.routed())
        await sidecar.wait_for_prefill(legs + 1)
        # A cut that no packet tells of.
        cable.swallow()
        await eventually_async(lambda: eu.counted("peer_legs_total", region="us", code="PeerSilent") == 1)
        begin.set()
        assert await asking == ("local", "PrefillFailed")
        assert await eu.routed() == ("local", "NoPrefillEngine")
        sidecar.prefill_default = PrefillScript()
        cable.deliver()
        await eu.eventually_routed("remote", "OverThreshold")


async def legs_have_ended(eu: RegionWorld) -> None:
    """Wait until no leg is under way: an answer may come before its leg has."""
    engine = eu.prefiller("us/llm/long-0")
    assert engine is not None
    await eventually_async(lambda: engine.in_flight == 0 and not len(eu.services.supervisor))


async def test_a_caller_that_goes_away_ends_its_leg_in_the_other_region(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        engine, sidecar = eu.pods["chat-0"].engine, us.pods["long-0"].sidecar
        assert engine is not None
        await legs_have_ended(eu)
        legs = len(sidecar.prefills)
        engine.default = Script(begin=asyncio.Event())
        sidecar.prefill_default = PrefillScript(finish=asyncio.Event())
        asking = asyncio.create_task(eu.routed())
        leg = await sidecar.wait_for_prefill(legs + 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(leg.aborted.wait(), 10)
        assert await sidecar.wait_for_call("cancel", transfer_id_of(leg)) == {}


async def test_a_restart_goes_on_with_what_the_disk_has_until_the_region_speaks(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, cable):
        await eu.eventually_routed("remote", "OverThreshold")
        await eventually_async(lambda: (tmp_path / "eu" / "state" / "peers.json").exists())
        await cable.cut()
        async with region_world(tmp_path / "eu", "eu", authority=eu.authority) as again:
            again.controller.take_snapshot(decoding("eu", target(us, peer_address=cable.address)).to_json())
            seen = await again.seen("us")
            assert seen["exchange"]["source"] == "disk"
            assert seen["age_seconds"] > 0
            await eventually_async(lambda: again.prefiller("us/llm/long-0") is not None)
            engine = again.prefiller("us/llm/long-0")
            assert engine is not None
            assert engine.open
            # It had its chance to speak and did not.
            await eventually_async(lambda: not engine.healthy(again.services.clock()))
            await cable.plug_in()
            await eventually_async(lambda: engine.healthy(again.services.clock()))
            assert (await again.seen("us"))["exchange"]["source"] == "peer"


async def test_pods_that_are_not_offered_are_neither_told_nor_reached(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        us.controller.take_snapshot(offering("us", target(eu), to=("asia",)).to_json())
        await eventually_async(lambda: eu.prefiller("us/llm/long-0") is None)
        assert (await eu.routed())[0] == "local"
        for uid, code in (("uid-us-long-0", "NotAuthorised"), ("uid-nobody", "UnknownPod")):
            assert await call(eu, us, uid) == code
        assert us.counted("passed_legs_total", region="eu", code="NotAuthorised") >= 1


async def test_errors_keep_the_sidecars_codes(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        sidecar = us.pods["long-0"].sidecar
        sidecar.prefill_default = PrefillScript(status=503, code="ArenaFull")
        assert await call(eu, us, "uid-us-long-0") == "ArenaFull"
        sidecar.prefill_default = PrefillScript(die=True)
        assert await call(eu, us, "uid-us-long-0") == "PeerUnreachable"
        sidecar.prefill_default = PrefillScript()
        us.set_pod("long-0", draining=True)
        await eventually_async(lambda: not us.services.fleet.prefillers[0].open)
        assert await call(eu, us, "uid-us-long-0") == "Draining"


async def test_a_link_whose_budget_is_spent_carries_nothing_new_until_it_may_again(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        here = decoding("eu", target(us))
        spent = here.with_links((LinkTarget(source="us", closed="BudgetSpent"),))
        eu.controller.take_snapshot(spent.to_json())
        assert await eu.routed() == ("local", "BudgetSpent")
        # What is closed is the link, and not the region: its pods are known as before.
        assert eu.prefiller("us/llm/long-0") is not None
        elsewhere = here.with_links((LinkTarget(source="asia", closed="BudgetSpent"),))
        eu.controller.take_snapshot(elsewhere.to_json())
        await eu.eventually_routed("remote", "OverThreshold")


async def test_a_declared_capacity_is_what_a_link_carries(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        book = eu.services.scheduler.links
        declared = decoding("eu", target(us)).with_links(
            (LinkTarget(source="us", capacity_bits_per_second=2_000_000_000),)
        )
        eu.controller.take_snapshot(declared.to_json())
        book.tick(eu.services.clock())
        assert book.links["us"].free_bits_per_second == 2e9
        # What is measured says how much of it is in use.
        book.report("us", LinkReport(8e9, used_bits_per_second=5e8, measured_at=eu.services.clock()))
        book.tick(eu.services.clock())
        assert book.links["us"].free_bits_per_second == 1.5e9


async def test_what_sidecars_measure_of_links_is_added_up_and_told(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        report = eu.pods["chat-0"].sidecar.report
        assert report is not None
        report["links"] = [
            {
                "region": "us",
                "received_bytes": 10,
                "busy_seconds": 2.0,
                "goodput_bits_per_second": 8e9,
                "rtt_seconds": 0.1,
                "retransmits_percent": 0.5,
                "streams": 4,
            }
        ]
        us.controller.take_snapshot(offering("us", target(eu)).to_json())

        async def told() -> bool:
            there = (await us.seen("eu"))["links_there"]
            return [
                (link["source"], link["destination"], link["goodput_bits_per_second"]) for link in there
            ] == [("us", "eu", 8e9)]

        await eventually_async(told, within_seconds=30)
        (link,) = [link for link in us.peers.links() if link.destination == "eu"]
        assert (link.source, link.rtt_seconds, link.streams) == ("us", 0.1, 4)
        assert (await eu.seen("us"))["links"][0]["received_bytes"] == 10
        scheduler = eu.services.scheduler
        await eventually_async(lambda: "us" in scheduler.links._reports)
        scheduler.tick(eu.services.fleet.prefillers, eu.services.clock())
        way = scheduler.links.links["us"]
        assert (way.planned_bits_per_second, way.rtt_seconds) == (8e9, 0.1)
