"""Whom a gateway trusts while certificates cannot be read, or the API server says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prfaas.kube.reflect import Contact, Synced
from prfaas_gateway.cluster import controller as controller_module
from prfaas_gateway.cluster.controller import Controller
from prfaas_gateway.cluster.store import Store
from prfaas_gateway.command import close_services
from prfaas_gateway.config import Cluster
from tests.gateway.cluster_values import identity, pod, report, snapshot
from tests.gateway.test_living_fleet import bare_services
from tests.helpers import eventually_async


class BrokenCredentials:
    """In the middle of a renewal that takes long."""

    def __init__(self) -> None:
        self.tries = 0
        self.broken = True
        self.allowed: frozenset[str] = frozenset()

    def allow(self, identities: Iterable[str], more_trust: str = "") -> None:
        self.tries += 1
        if self.broken:
            raise FileNotFoundError("tls.key")
        self.allowed = frozenset(identities)


@asynccontextmanager
async def following(
    folder: Path, pause_seconds: float
) -> AsyncIterator[tuple[Controller, BrokenCredentials]]:
    """What follows a cluster, with credentials that fail, and the pause between two tries."""
    services = bare_services(folder)
    credentials: Any = BrokenCredentials()
    services.credentials = credentials
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller_module, "_ALLOW_AGAIN_SECONDS", pause_seconds)
        controller = Controller(services, Cluster(namespace="prfaas", state_dir=folder / "state"))
        await controller.restore()
        task = asyncio.create_task(controller._reconcile_forever())
        controller.take_snapshot(snapshot().to_json())
        yield controller, credentials
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    services.credentials = None
    await close_services(services)


async def test_a_fleet_that_changes_does_not_have_broken_certificates_read_more_often(tmp_path: Path) -> None:
    async with following(tmp_path, 1000) as (controller, credentials):
        await eventually_async(lambda: credentials.tries == 1)
        for number in range(50):
            controller.take_pods(None, Synced((pod(f"a-{number}"),)))
            await eventually_async(lambda: not controller._changed.is_set())
        assert credentials.tries == 1


async def test_certificates_that_can_be_read_again_are_used(tmp_path: Path) -> None:
    async with following(tmp_path, 0.02) as (_, credentials):
        await eventually_async(lambda: credentials.tries >= 3)
        credentials.broken = False
        await eventually_async(lambda: identity("DecodePool", "chat") in credentials.allowed)


def decoder_is_open(controller: Controller) -> bool:
    """Whether the one decode pod gets requests."""
    (decoder,) = controller._services.fleet.decoders
    return decoder.open


def lose(controller: Controller, uid: str) -> None:
    """As many probes in a row without an answer as it takes."""
    for _ in range(controller_module._LOSSES):
        controller.lost(uid)


async def test_a_pod_from_the_disk_whose_sidecar_is_gone_again_gets_no_more_requests(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    await asyncio.to_thread(store.prepare)
    await asyncio.to_thread(store.save_pods, [pod("a")], 1.0)
    async with following(tmp_path, 1000) as (controller, _):
        await eventually_async(lambda: len(controller._services.fleet.decoders) == 1)
        assert not decoder_is_open(controller)
        controller.heard("uid-a", report())
        await eventually_async(lambda: decoder_is_open(controller))
        # Another pod may have the address by now, and engines are spoken to without TLS.
        for late in (True, True, False):
            assert decoder_is_open(controller)
            controller.lost("uid-a")
            if late:
                controller.heard("uid-a", report())
        lose(controller, "uid-a")
        await eventually_async(lambda: not decoder_is_open(controller))
        controller.take_pods(None, Synced((pod("a"),)))
        await eventually_async(lambda: decoder_is_open(controller))


@pytest.mark.parametrize("silent", [True, False])
async def test_a_sidecar_that_is_gone_closes_its_pod_while_the_api_server_says_nothing_only(
    tmp_path: Path, silent: bool
) -> None:
    async with following(tmp_path, 1000) as (controller, _):
        contact = controller._contacts["pods"] = Contact()
        contact.heard(asyncio.get_running_loop().time() - (1000 if silent else 0))
        controller.take_pods(None, Synced((pod("a"), pod("b", "long", "PrefillPool"))))
        # Without a sidecar that ever answered, prompts are served locally.
        await eventually_async(lambda: len(controller._services.fleet.decoders) == 1)
        assert decoder_is_open(controller)
        controller.heard("uid-a", report())
        lose(controller, "uid-a")
        controller.heard("uid-b", report())
        await eventually_async(lambda: controller._services.fleet.prefillers[0].fingerprint is not None)
        assert decoder_is_open(controller) is not silent
        contact.heard(asyncio.get_running_loop().time())
        controller.heard("uid-b", report(block_tokens=32))
        await eventually_async(lambda: decoder_is_open(controller))
