"""What a member does not take from its hub, by its own API server: other people's objects, unknown fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prfaas.kube import errors
from prfaas.kube.resources import DEFINITIONS, PREFILL_POOLS
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import (
    SERVING,
    Federation,
    federation,
    placed_of,
    placed_pool,
)
from tests.operator.runtime_world import pool_body

pytestmark = pytest.mark.timeout(240)


async def say_novel(world: Federation) -> None:
    """The hub's definitions get a field that the member's do not have."""
    name = "prefillpools.prfaas.io"
    definition = await world.hub.admin.get(DEFINITIONS, None, name)
    spec = definition["spec"]
    properties = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["novel"] = {"type": "integer"}
    await world.hub.admin.patch(
        DEFINITIONS, None, name, {"spec": {"versions": spec["versions"]}}, field_manager="a-newer-release"
    )


async def test_names_that_are_taken_and_fields_that_would_be_lost(
    hub_server: Any, member_server: Any, tmp_path: Path
) -> None:
    async with federation(hub_server, member_server, tmp_path) as world:
        hub, member = world.hub, world.member
        await member.admin.create(PREFILL_POOLS, pool_body(SERVING, "mine"))
        # Before the member watches: a watch that is older than a definition still leaves new fields out.
        await say_novel(world)
        await world.start_member()
        await hub.admin.create(PREFILL_POOLS, placed_pool("mine", "us", replicas=5))
        clash = await member.await_condition("us", "MirrorReady", "False", "NameClash")
        assert "PrefillPool serving/mine: an object of this name is here" in clash["message"]
        stored = await member.admin.get(PREFILL_POOLS, SERVING, "mine")
        assert stored["spec"]["replicas"] == 1
        assert "labels" not in stored["metadata"]

        async def told() -> bool:
            clusters = (await placed_of(hub, "mine")).get("clusters") or [{}]
            return clusters[0].get("reason") == "NameClash"

        await eventually_async(told, within_seconds=60, what="the hub is told of the clash")

        await hub.admin.delete(PREFILL_POOLS, SERVING, "mine")
        await member.await_condition("us", "MirrorReady", "True", "Mirrored")
        assert await member.is_there(PREFILL_POOLS, SERVING, "mine")

        novel = placed_pool("new", "us", novel=3)

        async def taken() -> bool:
            try:
                body = await hub.admin.apply(PREFILL_POOLS, novel, field_manager="a-person", dry_run=True)
            except errors.ServerFailed:
                return False
            return bool(body["spec"].get("novel") == 3)

        await eventually_async(taken, within_seconds=60, what="the hub takes the new field")
        await hub.admin.apply(PREFILL_POOLS, novel, field_manager="a-person")
        refused = await member.await_condition("us", "MirrorReady", "False", "MirrorRefused")
        assert ".spec.novel: field not declared in schema" in refused["message"]
        assert "upgrade prfaas here" in refused["message"]
        assert not await member.is_there(PREFILL_POOLS, SERVING, "new")
