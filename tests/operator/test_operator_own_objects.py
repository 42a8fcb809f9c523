"""The region's own objects at a real API server: deleted by somebody, and while lists are made anew."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import pytest

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, PREFILL_POOLS, SECRETS, Resource
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
