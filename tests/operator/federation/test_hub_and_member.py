"""A hub and a member with their real operators, before two real API servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube.resources import DEPLOYMENTS, PREFILL_POOLS, REGIONS
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import (
    OWN,
    SERVING,
    federation,
    pinned_uid,
    placed_of,
    placed_pool,
)

pytestmark = pytest.mark.timeout(180)


async def test_a_pool_of_the_hub_runs_in_the_member_and_its_state_comes_back(
    hub_server: Any, member_server: Any, tmp_path: Path
) -> None:
    async with federation(hub_server, member_server, tmp_path) as world:
        hub, member = world.hub, world.member
        await world.start_member()
        await hub.admin.create(PREFILL_POOLS, placed_pool("long", "eu", "us"))

        copy = await member.await_there(PREFILL_POOLS, SERVING, "long")
        assert copy["metadata"]["labels"] == {keys.LABEL_MIRRORED: "true"}
        assert copy["metadata"]["annotations"][keys.ANNOTATION_MIRRORED_FROM].endswith("/serving/long/1")

        async def both_serve() -> bool:
            return (await placed_of(hub, "long")).get("placed") == "eu 1/1, us 1/1"

        await eventually_async(both_serve, within_seconds=60, what="the hub shows both clusters")
        clusters = {each["name"]: each for each in (await placed_of(hub, "long"))["clusters"]}
        assert clusters["us"]["region"] == "us"
        assert clusters["us"]["ready"] == "True"
        await member.await_condition("us", "MirrorReady", "True", "Mirrored")
        await member.await_condition("us", "HubReachable", "True", "HubAnswers")
        await hub.await_condition("us", "ReportFresh", "True", "Reported")
        await hub.await_condition("eu", "HubReachable", "True", "NoHub")

        # A change in the hub is followed.
        await hub.admin.patch(
            PREFILL_POOLS, SERVING, "long", {"spec": {"replicas": 2}}, field_manager="a-person"
        )

        async def grown() -> bool:
            return (await placed_of(hub, "long")).get("placed") == "eu 2/2, us 2/2"

        await eventually_async(grown, within_seconds=60, what="the hub shows the change")

        # And so is the delete.
        await hub.admin.delete(PREFILL_POOLS, SERVING, "long")
        await member.await_gone(PREFILL_POOLS, SERVING, "long")
        assert await member.is_there(REGIONS, None, "eu")
        assert len(await pinned_uid(member)) == 36
        assert not await member.is_there(DEPLOYMENTS, OWN, "long-r1")
