"""What the commands that speak to a cluster share: options, connection, namespace, errors with a remedy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, list_kube_config_contexts

from prfaas.commands.plain import plain
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.client import connect
from prfaas.kube.connect import NoCluster, own_namespace

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
USER_AGENT = "prfaas-cli"
REACHED_WITHIN_SECONDS = 4.0
INSTALL_CRDS = "helm install prfaas …, or: prfaas crds | kubectl apply --server-side -f -"


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster, and which namespace of it; None is what the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None

    def namespace_or_default(self) -> str:
        """The namespace that is meant, as kubectl would choose it."""
        return self.namespace or self._namespace_of_context() or own_namespace() or "default"

    def check(self) -> None:
        """Say so when KUBECONFIG names no file: the client's own words for that lead astray.

        Raises:
            NoCluster: it names none.
        """
        named = os.environ.get("KUBECONFIG")
        if self.kubeconfig is None and named and not _files(named):
            raise NoCluster(f"KUBECONFIG is {named}, and no such file is there")

    def _namespace_of_context(self) -> str | None:
        places = self.kubeconfig or os.environ.get("KUBECONFIG") or KUBE_CONFIG_DEFAULT_LOCATION
        files = _files(places)
        if not files:
            return None
        try:
            untyped: Any = list_kube_config_contexts
            contexts, current = untyped(os.pathsep.join(files))
        except (ConfigException, OSError):
            # Connecting will say what is wrong with it.
            return None
        named = [each for each in contexts if each["name"] == self.context] if self.context else [current]
        return (named[0] or {}).get("context", {}).get("namespace") if named else None


def _files(places: str) -> list[str]:
    """Those of several paths, separated as in PATH, that are there."""
    paths = [Path(place).expanduser() for place in places.split(os.pathsep) if place]
    return [str(path) for path in paths if path.is_file()]


def cluster_options(command: F) -> F:
    """The options that name cluster and namespace."""
    for option in (
        click.option("-n", "--namespace", help="Namespace; default: that of the kubeconfig's context."),
        click.option("--context", help="Context of the kubeconfig."),
        click.option("--kubeconfig", type=click.Path(), help="Path of the kubeconfig; default: as kubectl."),
    ):
        command = option(command)
    return command


def run(work: Callable[[KubeApi], Awaitable[T]], target: Target) -> T:
    """Connect, do the work, and turn what goes wrong into an error of the command line."""

    async def connected() -> T:
        target.check()
        async with await connect(target.kubeconfig, target.context, user_agent=USER_AGENT) as api:
            # The client tries a call again for as long as its deadline lasts; nobody waits that long to learn
            # that the address is wrong. What may not be read here is for the work itself to tell.
            with suppress(errors.Forbidden, errors.Unauthorized):
                await api.version(deadline_seconds=REACHED_WITHIN_SECONDS)
            return await work(api)

    with explained():
        return asyncio.run(connected())


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the client as errors of the command line, with what to do about them."""
    try:
        yield
    except NoCluster as error:
        raise click.ClickException(f"{error}. Name a cluster with --kubeconfig or KUBECONFIG.") from error
    except errors.KubeError as error:
        raise click.ClickException(explain(error)) from error


def explain(error: errors.KubeError) -> str:
    """What went wrong and what to do. The server's words may quote what others wrote."""
    return plain(_explain(error))


def _explain(error: errors.KubeError) -> str:
    if isinstance(error, errors.NotFound) and not error.kind_is_served:
        return f"This cluster does not know prfaas: its CRDs are not installed. Install them: {INSTALL_CRDS}"
    if isinstance(error, errors.Forbidden):
        return (
            f"Not allowed: {error}. The chart's ClusterRoles for viewers and editors of prfaas aggregate to "
            "view and edit: ask for one of those."
        )
    if isinstance(error, errors.Unauthorized):
        return (
            f"The cluster does not accept these credentials: {error}. Log in again, or try another --context."
        )
    if isinstance(error, errors.Unreachable | errors.DeadlineExceeded):
        return f"The API server cannot be reached: {error}. Is it up, and is this the right --context?"
    return str(error)
