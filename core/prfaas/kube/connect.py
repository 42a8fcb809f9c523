"""Where the API server is and how to authenticate: in a pod, or by a kubeconfig and a context of it.

The official client's loaders do the work: tokens, client certificates, exec plug-ins, OIDC.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import (
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    load_incluster_config,
)
from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, load_kube_config

LOAD_SECONDS = 60.0
NAMESPACE_FILE = Path(SERVICE_TOKEN_FILENAME).with_name("namespace")

LoadConfiguration = Callable[[], Awaitable[Configuration]]


class NoCluster(Exception):  # noqa: N818 - says what is missing
    """No API server to talk to could be found; the message says what was looked at and what to set."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What another HTTP client needs to talk to the same API server. Not to be logged."""

    server: str
    ca_file: str | None
    client_certificate_file: str | None
    client_key_file: str | None
    token: str | None
    verify: bool
    proxy: str | None


def configuration_loader(
    kubeconfig: str | Path | None = None, context: str | None = None
) -> LoadConfiguration:
    """A function that loads address and credentials, anew at each call (exec plug-ins run again).

    With no argument: KUBECONFIG when set, then the pod's service account, then ~/.kube/config.

    Raises:
        NoCluster: by the function that is returned.
    """

    async def load() -> Configuration:
        configuration = Configuration()
        source = await asyncio.to_thread(_source, kubeconfig, context)
        try:
            if source is None:
                await asyncio.to_thread(load_incluster_config, configuration)
            else:
                await asyncio.to_thread(_load_file, source, context, configuration)
        except TimeoutError as error:
            raise NoCluster(
                f"{source}: its credentials were not ready within {LOAD_SECONDS:.0f} s (exec plug-in?)"
            ) from error
        except (ConfigException, OSError, ValueError) as error:
            raise NoCluster(f"{source or 'service account of this pod'}: {error}") from error
        # aiohttp would look into the environment and read ~/.netrc in threads, at every request.
        configuration.client_session_kwargs = {"trust_env": False}
        if not configuration.proxy:
            configuration.proxy = proxy_of_environment(str(configuration.host))
        return configuration

    return load


def proxy_of_environment(url: str) -> str | None:
    """What HTTPS_PROXY and NO_PROXY (or HTTP_PROXY, for http) say of this address."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    return None if proxy is None or proxy_bypass(parts.hostname or "") else proxy


def _load_file(source: str, context: str | None, configuration: Configuration) -> None:
    """Reads files and may run a plug-in, so it has a thread and a loop of its own."""

    async def load() -> None:
        async with asyncio.timeout(LOAD_SECONDS):
            untyped: Any = load_kube_config
            await untyped(
                config_file=source, context=context, client_configuration=configuration, persist_config=False
            )

    asyncio.run(load())


def _source(kubeconfig: str | Path | None, context: str | None) -> str | None:
    """The kubeconfig to read, or None for the pod's own service account."""
    if kubeconfig is not None:
        if not Path(kubeconfig).is_file():
            raise NoCluster(f"{kubeconfig}: no such kubeconfig")
        return str(kubeconfig)
    named = os.environ.get("KUBECONFIG")
    if named:
        return named
    if context is None and os.environ.get(SERVICE_HOST_ENV_NAME):
        return None
    usual = Path(KUBE_CONFIG_DEFAULT_LOCATION).expanduser()
    if usual.is_file():
        return str(usual)
    raise NoCluster(f"no cluster: KUBECONFIG is not set, {usual} is not there, and this is not a pod")


async def credentials_of(configuration: Configuration) -> Credentials:
    """The same credentials for another client, with the token as it is now."""
    settings: Any = await configuration.auth_settings()
    token = settings.get("BearerToken", {}).get("value") or ""
    scheme, _, value = token.partition(" ")
    return Credentials(
        server=str(configuration.host),
        ca_file=configuration.ssl_ca_cert,
        client_certificate_file=configuration.cert_file,
        client_key_file=configuration.key_file,
        token=value.strip() if scheme.lower() == "bearer" else None,
        verify=bool(configuration.verify_ssl),
        proxy=configuration.proxy,
    )


def own_namespace() -> str | None:
    """The namespace of the pod that this runs in, None elsewhere."""
    try:
        return NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None
