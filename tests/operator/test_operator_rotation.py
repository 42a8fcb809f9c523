"""A rotation of the authority by a whole operator at a real API server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.commands.federation import rotate
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import SECRETS
from prfaas_operator.runtime.fleet import FLEET
from tests.helpers import eventually_async
from tests.operator.runtime_world import SmallPlanner, client_of, config_for, running


async def data_of(client: KubeClient, namespace: str, name: str) -> dict[str, str]:
    try:
        data: dict[str, str] = (await client.get(SECRETS, namespace, name)).get("data") or {}
    except errors.NotFound:
        return {}
    return data


def authorities(data: dict[str, str]) -> int:
    return base64.b64decode(data.get("ca.crt", "")).count(b"BEGIN CERTIFICATE")


@pytest.mark.timeout(150)
async def test_the_command_and_the_operator_replace_the_authority(kubeconfig: Path, namespace: str) -> None:
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace, rotation_seconds=2), SmallPlanner()) as world,
    ):
        seen: list[tuple[str, int]] = []

        async def leaf() -> dict[str, str]:
            return await data_of(client, namespace, keys.GATEWAY_TLS_SECRET)

        await eventually_async(leaf, within_seconds=30)
        old = await data_of(client, namespace, keys.CA_SECRET)
        work: Any = rotate._begin
        assert "is being replaced" in await work(client, namespace)
        # As it comes by itself within a minute.
        world.operator.enqueue(FLEET)

        async def done() -> bool:
            now, shown = await data_of(client, namespace, keys.CA_SECRET), await leaf()
            signer = "new" if now["tls.crt"] != old["tls.crt"] else "old"
            if (signer, authorities(shown)) not in seen:
                seen.append((signer, authorities(shown)))
            text = await rotate._status(client, namespace)
            return text == "No rotation is under way." and authorities(shown) == 1

        await eventually_async(done, within_seconds=60)
        now = await data_of(client, namespace, keys.CA_SECRET)
        assert now["tls.crt"] != old["tls.crt"]
        assert set(now) == {"tls.crt", "tls.key", "ca.crt"}
        assert (await leaf())["ca.crt"] == now["ca.crt"] == now["tls.crt"]
        # Whoever read its certificate at any time trusted both before the new one signed.
        assert seen.index(("old", 2)) < seen.index(("new", 2)) < seen.index(("new", 1))
        await world.stop()
