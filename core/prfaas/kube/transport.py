"""Requests to one API server: attempts, deadlines, credentials that change.

The official client's `ApiClient` brings the connection pool, TLS, and tokens that are read again as they
change.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.config.config_exception import ConfigException

from prfaas import __version__
from prfaas.kube import errors
from prfaas.kube.api import Call, WriteGuard
from prfaas.kube.connect import LoadConfiguration, NoCluster
from prfaas.kube.resources import Object
from prfaas.kube.retry import retry_in_seconds

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
RELOAD_PAUSE_SECONDS = 10.0
ANSWER_BYTES = 64 * 1024 * 1024
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `doing` says in words what it is for; `write` is set when it changes something."""

    method: str
    path: str
    doing: str
    query: dict[str, str] = field(default_factory=dict)
    accept: str = JSON
    body: Object | None = None
    content_type: str | None = None
    write: Call | None = None


class Transport:
    """Sends requests, tries again where that is safe, and asks the guard before each attempt to write.

    Args:
        load: gives address and credentials; called again when the server answers 401.
        guard: asked before every attempt to write.
        user_agent: what the server's audit log shows.
    """

    def __init__(
        self, load: LoadConfiguration, *, guard: WriteGuard | None = None, user_agent: str = "prfaas"
    ) -> None:
        self._load = load
        self._guard = guard
        self._user_agent = f"{user_agent}/{__version__}"
        self._api: ApiClient | None = None
        self._opening = asyncio.Lock()
        self._loaded_at_seconds = float("-inf")
        self._told: tuple[str, float] | None = None

    async def close(self) -> None:
        """Close all connections. A later request opens new ones."""
        api, self._api = self._api, None
        if api is not None:
            await _close(api)

    def server_now(self) -> datetime:
        """The time as the server's last answer told it, to the second; this machine's before the first."""
        if self._told is not None:
            date, at_seconds = self._told
            try:
                passed = timedelta(seconds=asyncio.get_running_loop().time() - at_seconds)
                return parsedate_to_datetime(date).astimezone(UTC) + passed
            except ValueError:
                logger.debug("the server's answer has a Date that cannot be read")
        return datetime.now(UTC)

    async def json(self, request: Request, deadline_seconds: float) -> Object:
        """The answer as an object.

        Raises:
            KubeError: of any kind.
        """
        raw = await self.read(request, deadline_seconds)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise errors.MalformedAnswer(f"{request.doing}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise errors.MalformedAnswer(f"{request.doing}: the answer is not an object")
        return cast("Object", answer)

    async def read(self, request: Request, deadline_seconds: float) -> bytes:
        """Attempts until one succeeds, an error is final, or the deadline is too near for another."""
        loop = asyncio.get_running_loop()
        ends_at_seconds = loop.time() + deadline_seconds
        failures = 0
        before: errors.KubeError | None = None
        reloaded = False
        while True:
            try:
                return await self._attempt(request, ends_at_seconds - loop.time())
            except errors.Unauthorized:
                if reloaded or not await self._reload(ends_at_seconds):
                    raise
                reloaded = True
            except errors.KubeError as error:
                if before is not None and isinstance(error, errors.DeadlineExceeded) and not request.write:
                    # There was no time left for this attempt; why there had to be another is worth telling.
                    raise before from error
                failures += 1
                before = error
                wait_seconds = retry_in_seconds(
                    error,
                    failures,
                    random.random(),  # noqa: S311 - spreads retries, guards nothing
                    ends_at_seconds - loop.time(),
                    is_write=request.write is not None,
                )
                if wait_seconds is None:
                    raise
                logger.debug("%s: %s, again in %.2f s", request.doing, error.reason, wait_seconds)
                await asyncio.sleep(wait_seconds)

    async def send(self, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """One attempt, no guard: the answer's head. The caller releases it, and minds aiohttp's errors."""
        api = await self.open()
        headers = {"Accept": request.accept, "User-Agent": self._user_agent}
        if request.content_type is not None:
            headers["Content-Type"] = request.content_type
        try:
            await api.update_params_for_auth(
                headers, [], ["BearerToken"], request.path, request.method, request.body
            )
        except (NoCluster, ConfigException) as error:
            raise errors.Unauthorized(
                f"{request.doing}: the credentials cannot be loaded: {error}"
            ) from error
        query = f"?{urlencode(request.query)}" if request.query else ""
        url = f"{api.configuration.host}{request.path}{query}"
        rest: Any = api.rest_client
        try:
            answer = await rest.request(request.method, url, headers, request.body, _request_timeout=limits)
        except RuntimeError as error:
            # Credentials were loaded anew meanwhile, and the connections of the old ones are closed.
            raise aiohttp.ClientConnectionError(describe(error)) from error
        return cast("aiohttp.ClientResponse", answer.response)

    async def open(self) -> ApiClient:
        """The official client, made at the first use.

        Raises:
            prfaas.kube.connect.NoCluster: no credentials.
        """
        if self._api is not None:
            return self._api
        async with self._opening:
            if self._api is None:
                configuration = await self._load()
                # Reads certificates, hence the thread.
                self._api = await asyncio.to_thread(ApiClient, configuration)
                self._loaded_at_seconds = asyncio.get_running_loop().time()
            return self._api

    async def _attempt(self, request: Request, left_seconds: float) -> bytes:
        """One exchange, watched over by the guard when it writes."""
        if request.write is None or self._guard is None:
            return await self._exchange(request, left_seconds)
        allowed_seconds = await self._guard.before(request.write)
        failed: BaseException | None = None
        try:
            return await self._exchange(request, min(left_seconds, allowed_seconds))
        except BaseException as error:
            failed = error
            raise
        finally:
            await self._guard.after(request.write, failed)

    async def _exchange(self, request: Request, left_seconds: float) -> bytes:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(max(left_seconds, 0.0)):
                response = await self.send(request, limits)
                try:
                    answer = await _read(response, request.doing)
                finally:
                    # Gives a connection back whose answer was read, and closes any other.
                    response.release()
        except TimeoutError as error:
            raise errors.DeadlineExceeded(
                f"{request.doing}: no answer within {left_seconds:.1f} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.Unreachable(f"{request.doing}: {describe(error)}") from error
        self._told = response.headers.get("Date", ""), asyncio.get_running_loop().time()
        if response.status >= 400:
            wait = response.headers.get("Retry-After")
            raise errors.from_answer(response.status, answer, wait, doing=request.doing)
        return answer

    async def _reload(self, ends_at_seconds: float) -> bool:
        """Load credentials anew; False when that cannot be done, or was a moment ago and cannot help."""
        loop = asyncio.get_running_loop()
        asked_at_seconds = loop.time()
        if asked_at_seconds - self._loaded_at_seconds < RELOAD_PAUSE_SECONDS:
            return False
        async with self._opening:
            if self._loaded_at_seconds > asked_at_seconds:
                return True
            try:
                async with asyncio.timeout_at(ends_at_seconds):
                    configuration = await self._load()
                    old, self._api = self._api, await asyncio.to_thread(ApiClient, configuration)
            except (NoCluster, ConfigException, OSError) as error:
                logger.warning(
                    "the API server does not know our credentials, and there are no new ones: %s",
                    describe(error),
                )
                return False
            self._loaded_at_seconds = loop.time()
        logger.info("the API server did not know our credentials any more; they were loaded anew")
        if old is not None:
            await _close(old)
        return True


async def _read(response: aiohttp.ClientResponse, doing: str) -> bytes:
    parts: list[bytes] = []
    length_bytes = 0
    async for part in response.content.iter_any():
        parts.append(part)
        length_bytes += len(part)
        if length_bytes > ANSWER_BYTES:
            raise errors.MalformedAnswer(f"{doing}: the answer is longer than {ANSWER_BYTES} bytes")
    return b"".join(parts)


def describe(error: BaseException) -> str:
    """What an error of the network says; some say nothing but their name."""
    return str(error) or type(error).__name__


async def _close(api: ApiClient) -> None:
    untyped: Any = api
    await untyped.close()
