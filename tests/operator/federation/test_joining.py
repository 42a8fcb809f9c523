"""`prfaas federation init`, `join` and `check` with two clusters, and what a member may do in its hub."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.resources import (
    CONFIG_MAPS,
    KV_LINKS,
    LEASES,
    NAMESPACES,
    PODS,
    PREFILL_POOLS,
    REGIONS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import (
    OWN,
    SERVING,
    Federation,
    federation,
    operator,
    placed_of,
    placed_pool,
)
from tests.operator.runtime_world import client_of

pytestmark = pytest.mark.timeout(240)


async def bundle(world: Federation, at: Any, name: str) -> str:
    body = await at.admin.get(REGIONS, None, name)
    return str(body["spec"]["trustBundle"])


async def authority(at: Any) -> str:
    body = await at.admin.get(SECRETS, OWN, keys.CA_SECRET)
    return base64.b64decode(body["data"]["ca.crt"]).decode()


async def test_without_a_hub_only_regions_are_exchanged(
    hub_server: Any, member_server: Any, tmp_path: Path
) -> None:
    async with federation(hub_server, member_server, tmp_path, joined=False) as world:
        eu, us = world.hub, world.member
        other = ("--hub-kubeconfig", str(eu.kubeconfig), "--hub-namespace", OWN, "--no-hub")
        async with operator(us):
            for each in (eu, us):
                await each.await_there(CONFIG_MAPS, OWN, keys.GATEWAY_POLICY_CONFIG_MAP)
            await world.works("init", "--peer", "gw.eu.example.org:7410", of=eu)
            await world.works("init", "--peer", "gw.us.example.org:7410")
            accounts = {each["metadata"]["name"] for each in await eu.admin.list(SERVICE_ACCOUNTS, OWN)}
            printed = await world.works("join", *other, "--print")
            assert "ClusterRole" not in printed
            assert not await eu.is_there(REGIONS, None, "us")
            told = await world.works("join", *other)
            assert "hub" not in told.lower().replace("--hub", "").replace("--no-hub", "")
            for at in (eu, us):
                for name, of in (("eu", eu), ("us", us)):
                    assert await bundle(world, at, name) == await authority(of)
                    body = await at.admin.get(REGIONS, None, name)
                    # They are the user's, as Git would bring them: no mirror may take them away.
                    assert keys.LABEL_MIRRORED not in (body["metadata"].get("labels") or {})
                    await at.await_condition(name, "TrustBundleValid", "True", "BundleValid")
            # Nobody gets an account, a token or a Lease of the other.
            now = {each["metadata"]["name"] for each in await eu.admin.list(SERVICE_ACCOUNTS, OWN)}
            assert now == accounts
            assert not await us.is_there(SECRETS, OWN, keys.HUB_KUBECONFIG_SECRET)
            assert not await eu.is_there(LEASES, OWN, keys.cluster_lease("us"))
            # What is wanted in one is not brought to the other.
            await eu.admin.create(PREFILL_POOLS, placed_pool("long", "us"))
            # Again: what was given since is taken over, the rest stays.
            await world.works("init", "--label", "provider=metal")
            await world.works("join", *other)
            assert (await eu.admin.get(REGIONS, None, "us"))["spec"]["labels"] == {"provider": "metal"}
            summary = json.loads(await world.works("join", *other, "-o", "json"))
            assert (summary["with"]["region"], summary.get("tokenEndsAt")) == ("eu", None)
            assert not await us.is_there(PREFILL_POOLS, SERVING, "long")


async def test_two_clusters_join_and_a_member_may_do_what_it_needs_and_nothing_else(
    hub_server: Any, member_server: Any, tmp_path: Path
) -> None:
    async with federation(hub_server, member_server, tmp_path, joined=False) as world:
        hub, member = world.hub, world.member
        to_hub = ("--hub-kubeconfig", str(hub.kubeconfig), "--hub-namespace", OWN)
        async with operator(member):
            for each in (hub, member):
                await each.await_there(CONFIG_MAPS, OWN, keys.GATEWAY_POLICY_CONFIG_MAP)
            refused = await world.command("join", *to_hub)
            assert refused.exit_code == 1
            assert "has no Region us of its own yet: run prfaas federation init there" in refused.output
            await world.works("init", "--peer", "gw.eu.example.org:7410", "--jurisdiction", "EU", of=hub)
            await world.works("init", "--peer", "gw.us.example.org:7410")
            # Again, and what is not given stays.
            await world.works("init", "--label", "provider=metal")
            spec = (await member.admin.get(REGIONS, None, "us"))["spec"]
            assert spec["peer"] == {"address": "gw.us.example.org:7410"}
            assert spec["labels"] == {"provider": "metal"}
            printed = await world.works("join", *to_hub, "--print")
            assert "kind: ClusterRole" in printed
            assert not await hub.is_there(REGIONS, None, "us")
            await world.works("join", *to_hub)
            summary = json.loads(await world.works("join", *to_hub, "-o", "json"))
            assert summary["with"]["region"] == "eu"

        # Each knows the other's authority, and no key is among that.
        for at in (hub, member):
            for name, of in (("eu", hub), ("us", member)):
                assert await bundle(world, at, name) == await authority(of)
        secret = await member.admin.get(SECRETS, OWN, keys.HUB_KUBECONFIG_SECRET)
        world.way.write_bytes(base64.b64decode(secret["data"]["kubeconfig"]))

        # The operator needs no more than that account.
        await world.start_member()
        await hub.admin.create(PREFILL_POOLS, placed_pool("long", "us"))
        await member.await_there(PREFILL_POOLS, SERVING, "long")

        async def reported() -> bool:
            return (await placed_of(hub, "long")).get("placed") == "us 1/1"

        await eventually_async(reported, within_seconds=60, what="the member's report")
        await member.await_condition("us", "TokenValid", "True", "TokenTaken")
        await member.await_condition("us", "MirrorReady", "True", "Mirrored")
        await member.await_condition("us", "TrustBundleValid", "True", "BundleValid")
        await hub.await_condition("us", "TrustBundleValid", "True", "BundleValid")
        checked = json.loads((await world.command("check", "-o", "json")).output)
        # There are no gateways here that could tell of the other region.
        assert [(each["region"], [p["reason"] for p in each["problems"]]) for each in checked] == [
            ("us", []),
            ("eu", ["NotLookedYet"]),
        ]

        async with client_of(world.way) as account:
            pool = await account.get(PREFILL_POOLS, SERVING, "long")
            other = {"metadata": {"name": "eu"}, "status": {"clusters": [{"name": "us"}]}}
            lease = keys.cluster_lease("eu")
            for what in (
                account.get(SECRETS, OWN, keys.CA_SECRET),
                account.list(PODS, SERVING),
                account.get(NAMESPACES, None, SERVING),
                account.delete(PREFILL_POOLS, SERVING, "long"),
                account.apply(
                    PREFILL_POOLS,
                    {**pool, "metadata": {"name": "x", "namespace": SERVING}},
                    field_manager="x",
                ),
                account.apply_status(REGIONS, other, field_manager="x"),
                account.patch(REGIONS, None, "us", {"spec": {"labels": {"a": "b"}}}, field_manager="x"),
                account.patch(LEASES, OWN, lease, {"spec": {"holderIdentity": "x"}}, field_manager="x"),
                account.get(LEASES, OWN, keys.OPERATOR_LEASE),
                account.create(KV_LINKS, {"metadata": {"name": "eu-us"}}),
            ):
                with pytest.raises(errors.Forbidden):
                    await what
