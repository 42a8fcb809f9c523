"""Certificates that cannot be read for a while, while the fleet goes on changing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prfaas.kube.reflect import Synced
from prfaas_gateway.cluster import controller as controller_module
from prfaas_gateway.cluster.controller import Controller
from prfaas_gateway.command import close_services
from prfaas_gateway.config import Cluster
from tests.gateway.cluster_values import identity, pod, snapshot
from tests.gateway.test_living_fleet import bare_services
from tests.helpers import eventually_async


class BrokenCredentials:
    """In the middle of a renewal that takes long."""

    def __init__(self) -> None:
        self.tries = 0
        self.broken = True
        self.allowed: frozenset[str] = frozenset()

    def allow(self, identities: Iterable[str]) -> None:
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
