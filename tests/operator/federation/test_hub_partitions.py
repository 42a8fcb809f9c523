"""The hub is lost, comes back, is another one; a member goes on, and says what it sees."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube.resources import DEPLOYMENTS, PREFILL_POOLS, REGIONS
from prfaas_operator.federation import hub as hub_rules
from prfaas_operator.federation import liveness
from prfaas_operator.runtime.federation import hub as hub_runtime
from prfaas_operator.runtime.federation import mirror as mirror_runtime
from prfaas_operator.runtime.federation import presence, region_status
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import (
    SERVING,
    cluster,
    federation,
    make_lease,
    operator,
    pinned_uid,
    placed_of,
    placed_pool,
    region,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and patience of a tenth; that they are what they are, tests of values show."""
    monkeypatch.setattr(hub_runtime, "BEAT_SECONDS", 1.0)
    monkeypatch.setattr(presence, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(hub_rules, "SILENT_SECONDS", 4.0)
    monkeypatch.setattr(liveness, "STALE_SECONDS", 6.0)
    monkeypatch.setattr(mirror_runtime, "BACK_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(mirror_runtime, "FROZEN_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(region_status, "LOOK_SECONDS", 1.0)


@pytest.mark.usefixtures("hurried")
async def test_a_member_outlives_its_hub(hub_server: Any, member_server: Any, tmp_path: Path) -> None:
    async with federation(hub_server, member_server, tmp_path) as world:
        hub, member = world.hub, world.member
        async with operator(member, world.way):
            await hub.admin.create(PREFILL_POOLS, placed_pool("long", "us"))
            await member.await_there(DEPLOYMENTS, SERVING, "long-r1")
            await member.await_condition("us", "HubReachable", "True", "HubAnswers")
            await asyncio.to_thread(hub_server.pause)
            lost = await member.await_condition("us", "HubReachable", "False", "HubSilent")
            assert "Everything goes on" in lost["message"]
        # Its operator begins anew meanwhile: what is wanted is here.
        async with operator(member, world.way):
            await member.admin.delete(DEPLOYMENTS, SERVING, "long-r1")
            await member.await_there(DEPLOYMENTS, SERVING, "long-r1")
            await asyncio.to_thread(hub_server.resume)
            await member.await_condition("us", "HubReachable", "True", "HubAnswers")
            await hub.admin.patch(
                PREFILL_POOLS, SERVING, "long", {"spec": {"replicas": 3}}, field_manager="a-person"
            )

            async def grown() -> bool:
                return (await placed_of(hub, "long")).get("placed") == "us 3/3"

            await eventually_async(
                grown, within_seconds=60, what="what was wanted since has come, and is told"
            )
        # The region is lost: the hub says so, and keeps what it last heard.
        await hub.await_condition("us", "ReportFresh", "False", "LeaseStale")

        async def stale() -> bool:
            return (await placed_of(hub, "long")).get("placed") == "us 3/3 (stale)"

        await eventually_async(stale, within_seconds=30, what="the pool shows the lost cluster")


@pytest.mark.usefixtures("hurried")
async def test_another_hub_changes_nothing_until_somebody_accepts_it(
    hub_server: Any, member_server: Any, start_server: Any, tmp_path: Path
) -> None:
    async with federation(hub_server, member_server, tmp_path) as world:
        member = world.member
        await world.start_member()
        await world.hub.admin.create(PREFILL_POOLS, placed_pool("long", "us"))
        await member.await_there(PREFILL_POOLS, SERVING, "long")
        first = await pinned_uid(member)

        other_server = await asyncio.to_thread(start_server, "another-hub")
        async with cluster("eu", other_server) as other:
            for name in ("eu", "us"):
                await other.admin.create(REGIONS, region(name))
            await make_lease(other, "us")
            await other.admin.create(PREFILL_POOLS, placed_pool("short", "us"))
            await asyncio.to_thread(shutil.copyfile, other_server.kubeconfig, world.way)
            frozen = await member.await_condition("us", "MirrorReady", "False", "Frozen")
            assert first in frozen["message"]
            assert await member.is_there(PREFILL_POOLS, SERVING, "long")
            assert not await member.is_there(PREFILL_POOLS, SERVING, "short")

            assert "Accepted" in await world.works("accept-deletes", "--yes")
            await member.await_gone(PREFILL_POOLS, SERVING, "long")
            await member.await_there(PREFILL_POOLS, SERVING, "short")
            await member.await_condition("us", "MirrorReady", "True", "Mirrored")
            assert await pinned_uid(member) != first
            assert "not frozen" in await world.works("accept-deletes", "--yes")
            body = await member.admin.get(PREFILL_POOLS, SERVING, "short")
            assert body["metadata"]["labels"] == {keys.LABEL_MIRRORED: "true"}
