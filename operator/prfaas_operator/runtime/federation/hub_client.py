"""The way to the hub: a kubeconfig that comes, changes and goes while the operator runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.client.configuration import Configuration

from prfaas.kube import errors
from prfaas.kube.api import WriteGuard
from prfaas.kube.client import KubeClient
from prfaas.kube.connect import LoadConfiguration, NoCluster, configuration_loader
from prfaas.kube.transport import Transport
from prfaas_operator.federation.hub import token_ends_at


@dataclass(frozen=True, slots=True)
class WayToHub:
    """What the file says. `stamp` changes with the file; "" while there is none."""

    stamp: str = ""
    namespace: str | None = None
    token_ends_at: datetime | None = None


def hub_client(path: str, guard: WriteGuard, user_agent: str) -> KubeClient:
    """A client that reads the file at its first use, and again when the hub refuses the token."""
    return KubeClient(Transport(_loader(path), guard=guard, user_agent=user_agent))


def _loader(path: str) -> LoadConfiguration:
    load = configuration_loader(path)

    async def loaded() -> Configuration:
        try:
            return await load()
        except NoCluster as error:
            # Joining may come after the start: it is for the condition to say, not for the process to end.
            raise errors.Unauthorized(f"no way to the hub: {error} (prfaas federation join)") from error

    return loaded


async def read_way(path: str) -> WayToHub:
    """Read the file; what cannot be read in it is left out, the client says what is wrong with it."""
    return await asyncio.to_thread(_read, Path(path))


def _read(path: Path) -> WayToHub:
    try:
        text = path.read_text()
        about = path.stat()
        document = yaml.safe_load(text)
    except (OSError, yaml.YAMLError):
        return WayToHub()
    stamp = f"{about.st_mtime_ns}-{about.st_ino}-{len(text)}"
    if not isinstance(document, dict):
        return WayToHub(stamp)
    current = document.get("current-context")
    context = _named(document.get("contexts"), current).get("context") or {}
    user = _named(document.get("users"), context.get("user")).get("user") or {}
    token = user.get("token")
    return WayToHub(stamp, context.get("namespace"), token_ends_at(token if isinstance(token, str) else None))


def _named(entries: Any, name: Any) -> dict[str, Any]:
    found = (each for each in (entries or ()) if isinstance(each, dict) and each.get("name") == name)
    return next(found, {})
