"""A region that is lost as a whole is made again from its CRs and its authority, as a backup has them."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import BY_KIND, DEPLOYMENTS, PREFILL_POOLS, REGIONS, SECRETS, Object
from prfaas_operator.runtime.certificates import authority_id, describe, new_authority
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import OWN, SERVING, Cluster, cluster, operator, placed_pool
from tests.operator.federation.test_joining import authority

pytestmark = pytest.mark.timeout(240)
# What the server gives an object anew.
_OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


async def backup(api: KubeClient) -> list[Object]:
    """CRs with their status, and the authority: as velero keeps them."""
    kept = [await api.get(SECRETS, OWN, keys.CA_SECRET)]
    for kind in (keys.REGION, keys.PREFILL_POOL, keys.DECODE_POOL, keys.PREFILL_ROUTE):
        kept += await api.list(BY_KIND[kind])
    return kept


async def restore(api: KubeClient, kept: list[Object]) -> None:
    for body in kept:
        metadata = {name: value for name, value in body["metadata"].items() if name not in _OF_THE_SERVER}
        await api.create(BY_KIND[body["kind"]], {**body, "metadata": metadata})


async def test_a_region_is_restored_from_its_objects_and_its_authority(
    hub_server: Any, start_server: Any
) -> None:
    async with cluster("eu", hub_server) as before, operator(before):
        await before.await_there(SECRETS, OWN, keys.CA_SECRET)
        bundle = await authority(before)
        about = {"apiVersion": keys.API_VERSION, "kind": keys.REGION, "metadata": {"name": "eu"}}
        await before.admin.create(REGIONS, {**about, "spec": {"trustBundle": bundle}})
        await before.admin.create(PREFILL_POOLS, placed_pool("long", "eu", replicas=2))
        await before.await_condition("eu", "TrustBundleValid", "True", "BundleValid")
        await _serves(before, 2)
        kept = await backup(before.admin)

    other = await asyncio.to_thread(start_server, "rebuilt")
    async with cluster("eu", other) as after:
        await restore(after.admin, kept)
        async with operator(after):
            await _serves(after, 2)
            await after.await_there(DEPLOYMENTS, SERVING, "long-r1")
            # Others believe it as before: what it signs comes from the same authority.
            assert await authority(after) == bundle
            await after.await_condition("eu", "TrustBundleValid", "True", "BundleValid")
            tls = await after.admin.get(SECRETS, SERVING, keys.tls_secret("PrefillPool", "long"))
            assert authority_id(_decoded(tls, "ca.crt")) == authority_id(bundle.encode())
            assert "/pool/PrefillPool/long" in describe(_decoded(tls, "tls.crt")).identity
            await after.await_condition("eu", "Ready", "True", "OwnRegion")


async def test_a_restore_without_the_authority_is_said(hub_server: Any) -> None:
    async with cluster("eu", hub_server) as at:
        old = _decoded({"data": new_authority("eu", now=datetime.now(UTC))}, "ca.crt").decode()
        about = {"apiVersion": keys.API_VERSION, "kind": keys.REGION, "metadata": {"name": "eu"}}
        await at.admin.create(REGIONS, {**about, "spec": {"trustBundle": old}})
        async with operator(at):
            found = await at.await_condition("eu", "TrustBundleValid", "False", "AuthorityNotInBundle")
            assert "prfaas federation init" in found["message"]


def _decoded(secret: Object, name: str) -> bytes:
    return base64.b64decode(secret["data"][name])


async def _serves(at: Cluster, ready: int) -> None:
    async def serves() -> bool:
        body = await at.admin.get(PREFILL_POOLS, SERVING, "long")
        return (body.get("status") or {}).get("placed") == f"eu {ready}/{ready}"

    await eventually_async(serves, within_seconds=60, what=f"{ready} instances are ready")
