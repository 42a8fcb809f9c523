"""The region's own objects at a real API server: deleted by somebody, and while lists are made anew."""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, PREFILL_POOLS, SECRETS, Resource
from prfaas_operator.runtime.certificates import new_authority
from prfaas_operator.runtime.fleet import FLEET
from tests.helpers import eventually_async
from tests.kube.fault_proxy import fault_proxy, status, times
from tests.operator.runtime_world import SmallPlanner, client_of, config_for, pool_body, running

OWN = [(SECRETS, keys.GATEWAY_TLS_SECRET), (CONFIG_MAPS, keys.GATEWAY_POLICY_CONFIG_MAP)]


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    monkeypatch.setattr(logging.getLogger("prfaas.kube"), "propagate", False)


async def is_there(client: KubeClient, namespace: str, resource: Resource, name: str) -> bool:
    try:
        await client.get(resource, namespace, name)
    except errors.NotFound:
        return False
    return True


@pytest.mark.parametrize(("resource", "name"), OWN, ids=[name for _, name in OWN])
async def test_an_own_object_that_somebody_deleted_is_made_again(
    kubeconfig: Path, namespace: str, resource: Resource, name: str
) -> None:
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        for own in OWN:
            await eventually_async(functools.partial(is_there, client, namespace, *own))
        await world.quiet()
        await client.delete(resource, namespace, name)
        # As it comes by itself with the next pass.
        world.operator.enqueue(FLEET)
        await eventually_async(lambda: is_there(client, namespace, resource, name))
        await world.stop()


async def _authority_of(client: KubeClient, namespace: str) -> str:
    try:
        body = await client.get(SECRETS, namespace, keys.CA_SECRET)
    except errors.NotFound:
        return ""
    return str(body["data"]["tls.crt"])


async def _signed_by(client: KubeClient, namespace: str, name: str) -> str:
    return str((await client.get(SECRETS, namespace, name))["data"]["ca.crt"])


async def test_an_authority_that_somebody_deleted_is_put_back_as_it_was(
    kubeconfig: Path, namespace: str
) -> None:
    """A new one would be strange to every pod that runs."""
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await eventually_async(lambda: is_there(client, namespace, *OWN[0]))
        await world.quiet()
        before = await _authority_of(client, namespace)
        await client.delete(SECRETS, namespace, keys.CA_SECRET)
        world.operator.enqueue(FLEET)
        await eventually_async(lambda: is_there(client, namespace, SECRETS, keys.CA_SECRET))
        assert await _authority_of(client, namespace) == before
        await world.stop()


@pytest.mark.parametrize("years", [10, -10], ids=["good", "ended"])
async def test_an_authority_that_somebody_put_there_is_used_unless_it_has_ended(
    kubeconfig: Path, namespace: str, years: int
) -> None:
    planner = SmallPlanner()
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), planner) as world,
    ):
        await eventually_async(lambda: is_there(client, namespace, *OWN[0]))
        await world.quiet()
        before = await _authority_of(client, namespace)
        since = datetime.now(UTC) - (timedelta(days=20 * 365) if years < 0 else timedelta(0))
        other = new_authority("other", now=since)
        await client.patch(SECRETS, namespace, keys.CA_SECRET, {"data": other}, field_manager="somebody")
        world.operator.enqueue(FLEET)
        expected = before if years < 0 else other["tls.crt"]

        async def signed() -> bool:
            return await _signed_by(client, namespace, keys.GATEWAY_TLS_SECRET) == expected

        await world.quiet()
        await eventually_async(signed)
        # A pool that comes then is served by the same.
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(lambda: is_there(client, namespace, SECRETS, "long-prefill-tls"))
        assert await _signed_by(client, namespace, "long-prefill-tls") == expected
        await world.stop()


async def test_a_new_list_of_the_pools_secrets_leaves_the_gateways_certificate_known(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    """It bears no pool's label, so that list does not have it: passes over the fleet would fail for ever."""
    async with (
        client_of(kubeconfig) as client,
        fault_proxy(kubeconfig, tmp_path) as proxy,
        running(config_for(proxy.kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(lambda: is_there(client, namespace, *OWN[0]))
        await world.quiet()
        lists = proxy.asked("/secrets?labelSelector")
        proxy.answer = times(1, lambda: status(410, "Expired"), "/secrets?")
        proxy.cut_watches()
        await eventually_async(lambda: proxy.asked("/secrets?labelSelector") > lists + 1)
        await world.quiet()
        passes = world.operator.metrics.passes.labels("Fleet", "ok")
        before = passes._value.get()
        world.operator.enqueue(FLEET)
        await eventually_async(lambda: passes._value.get() > before, what="a pass over the fleet succeeds")
        await world.stop()
