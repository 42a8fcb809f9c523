"""Clusters of a federation: an API server, an operator and stand-ins for kubelets each."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from prfaas.api import keys
from prfaas.api.snapshot import Snapshot
from prfaas.commands.federation.command import federation as federation_command
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import (
    CONFIG_MAPS,
    LEASES,
    NAMESPACES,
    PREFILL_POOLS,
    REGIONS,
    Object,
    Resource,
)
from prfaas_operator.config import OperatorConfig
from prfaas_operator.runtime.app import Operator
from tests.helpers import eventually_async
from tests.operator.runtime_world import SmallPlanner, client_of, config_for, kubelets, pool_body

OWN, SERVING = "prfaas-system", "serving"
STOP_SECONDS = 60.0


class Planner(SmallPlanner):
    """Tells gateways, and so the commands, which region and cluster this is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def snapshot(self, *_: Any, **__: Any) -> Snapshot:
        return Snapshot.sealed(region=self._name, cluster=self._name, trust_domain="example.org", models=())


@dataclass
class Cluster:
    """One cluster, seen by its administrator."""

    name: str
    admin: KubeClient
    kubeconfig: Path

    async def condition(self, region: str, type_: str) -> Object:
        """A condition of a Region; {} while there is none."""
        try:
            body = await self.admin.get(REGIONS, None, region)
        except errors.NotFound:
            return {}
        conditions = (body.get("status") or {}).get("conditions") or ()
        return next((each for each in conditions if each["type"] == type_), {})

    async def has_condition(self, region: str, type_: str, status: str, reason: str) -> bool:
        found = await self.condition(region, type_)
        return (found.get("status"), found.get("reason")) == (status, reason)

    async def await_condition(
        self, region: str, type_: str, status: str, reason: str, *, within_seconds: float = 40
    ) -> Object:
        await eventually_async(
            lambda: self.has_condition(region, type_, status, reason),
            within_seconds=within_seconds,
            what=f"Region {region} of cluster {self.name}: {type_}={status}/{reason}",
        )
        return await self.condition(region, type_)

    async def is_there(self, resource: Resource, namespace: str | None, name: str) -> bool:
        try:
            await self.admin.get(resource, namespace, name)
        except errors.NotFound:
            return False
        return True

    async def await_gone(self, resource: Resource, namespace: str | None, name: str) -> None:
        async def gone() -> bool:
            return not await self.is_there(resource, namespace, name)

        await eventually_async(gone, within_seconds=40, what=f"{resource} {name} is gone in {self.name}")

    async def await_there(self, resource: Resource, namespace: str | None, name: str) -> Object:
        await eventually_async(
            lambda: self.is_there(resource, namespace, name),
            within_seconds=40,
            what=f"{resource} {name} is there in {self.name}",
        )
        return await self.admin.get(resource, namespace, name)


@asynccontextmanager
async def cluster(name: str, server: Any) -> AsyncIterator[Cluster]:
    """Namespaces and kubelets, without an operator yet."""
    async with client_of(server.kubeconfig) as admin:
        for namespace in (OWN, SERVING):
            try:
                await admin.create(NAMESPACES, {"metadata": {"name": namespace}})
            except errors.AlreadyExists:
                continue
        async with kubelets(admin, SERVING):
            yield Cluster(name, admin, server.kubeconfig)


@asynccontextmanager
async def operator(of: Cluster, hub: Path | None = None, **federation: Any) -> AsyncIterator[None]:
    """The cluster's operator; with a hub's kubeconfig it mirrors that.

    Each has a thread and a loop of its own: kopf ends by cancelling what else runs in its loop.
    """
    values: dict[str, Any] = dict(federation)
    if hub is not None:
        values = {
            "source": "Hub",
            "hub_kubeconfig": str(hub),
            "hub_namespace": OWN,
            "allowed_namespaces": [SERVING],
            **federation,
        }
    config = config_for(
        of.kubeconfig,
        OWN,
        region=of.name,
        watch_namespaces=[SERVING],
        federation=values,
        # Several operators and servers share a machine here, and an operator begins anew under its old name.
        leader_election={
            "identity": "operator-0",
            "lease_seconds": 40,
            "renew_deadline_seconds": 30.0,
            "retry_seconds": 0.5,
        },
    )
    thread = _OperatorThread(config, of.name)
    try:
        yield
    finally:
        await asyncio.to_thread(thread.stop)


class _OperatorThread:
    def __init__(self, config: OperatorConfig, name: str) -> None:
        self._config, self._name = config, name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_event = asyncio.Event()
        self._begun = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"operator-of-{name}")
        self._ended = self._pool.submit(lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        operator = Operator(self._config, Planner(self._name))
        self._begun.set()
        await operator.run(self._stop_event)
        # Sockets of cancelled watches end in a turn of their own.
        await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Let it end in good order, and raise what it ended by."""
        if self._begun.wait(STOP_SECONDS) and self._loop is not None and not self._ended.done():
            self._loop.call_soon_threadsafe(self._stop_event.set)
        self._ended.result(STOP_SECONDS)
        self._pool.shutdown()


def region(name: str, **spec: Any) -> Object:
    about = {"apiVersion": keys.API_VERSION, "kind": keys.REGION}
    return {**about, "metadata": {"name": name}, "spec": spec}


async def make_lease(hub: Cluster, name: str) -> None:
    """What joining makes in the hub."""
    about = {"namespace": OWN, "name": keys.cluster_lease(name), "labels": {keys.LABEL_CLUSTER: name}}
    await hub.admin.create(LEASES, {"metadata": about, "spec": {}})


def placed_pool(name: str, *clusters: str, replicas: int = 1, **spec: Any) -> Object:
    places = [{"name": each} for each in clusters]
    return pool_body(SERVING, name, replicas, placement={"clusters": places}, **spec)


async def pinned_uid(of: Cluster) -> str:
    body = await of.admin.get(CONFIG_MAPS, OWN, keys.HUB_CONFIG_MAP)
    return str(body["data"]["uid"])


@dataclass
class Federation:
    """A hub `eu` and a member `us`, both with their operators."""

    hub: Cluster
    member: Cluster
    way: Path
    stack: AsyncExitStack

    async def start_member(self, **federation: Any) -> None:
        await self.stack.enter_async_context(operator(self.member, self.way, **federation))

    async def command(self, *arguments: str, of: Cluster | None = None) -> Result:
        """`prfaas federation …` for the member, or another cluster."""
        where = ["--kubeconfig", str((of or self.member).kubeconfig), "--namespace", OWN]
        # It has a loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, federation_command, [*arguments, *where])

    async def works(self, *arguments: str, of: Cluster | None = None) -> str:
        result = await self.command(*arguments, of=of)
        assert result.exit_code == 0, result.output
        return result.output


@asynccontextmanager
async def federation(
    hub_server: Any, member_server: Any, folder: Path, *, joined: bool = True
) -> AsyncIterator[Federation]:
    """The hub's operator runs; the member's does after `start_member`.

    Args:
        joined: the hub has both Regions and the member's Lease, and the member an administrator's way to it.
    """
    way = folder / "hub.kubeconfig"
    if joined:
        await asyncio.to_thread(shutil.copyfile, hub_server.kubeconfig, way)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(cluster("eu", hub_server))
        member = await stack.enter_async_context(cluster("us", member_server))
        if joined:
            for name in ("eu", "us"):
                await hub.admin.create(REGIONS, region(name))
            await make_lease(hub, "us")
        await stack.enter_async_context(operator(hub))
        yield Federation(hub, member, way, stack)


async def placed_of(of: Cluster, name: str) -> Object:
    body = await of.admin.get(PREFILL_POOLS, SERVING, name)
    return body.get("status") or {}
