"""The gateway's side of the sidecars' control interface (docs/contracts.md): prefill, fail, cancel, look."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from yarl import URL

from prfaas.held_blocks import MAX_ANSWER_BYTES, Cursor, HeldBlocks, question, read_held_blocks
from prfaas_gateway.engine_report import EngineReport, ModelFile, read_report
from prfaas_gateway.sockets import socket_to_peer
from prfaas_gateway.streams import TooMuchError, read_all
from prfaas_gateway.tls import Credentials

_MAX_ANSWER_BYTES = 1 << 20
_FILE_PIECE_BYTES = 1 << 20
_CONNECT_ANEW = 401
_BLOCKS_SECONDS = 15.0
"""Beyond the wait: a sidecar that tells many gateways makes them wait for their turn."""
_PROBE_ID = "0" * 32
_CODES = frozenset(
    {
        "ArenaFull",
        "BadRequest",
        "BodyTooLarge",
        "Cancelled",
        "CertificateExpired",
        "ChecksumMismatch",
        "DeadlineExceeded",
        "Draining",
        "EngineGone",
        "FingerprintMismatch",
        "LayoutMismatch",
        "LinkLost",
        "NoEngine",
        "NotAuthorised",
        "NotSupported",
        "Overloaded",
        "PeerNotAllowed",
        "PeerSilent",
        "PeerUnreachable",
        "PrefillFailed",
        "PromptMismatch",
        "ProtocolError",
        "SidecarGone",
        "TransferExists",
        "UnknownPod",
        "UnknownRegion",
        "UnknownTransfer",
        "WrongRegion",
        "complete",
    }
)
"""What a sidecar or connector may call things; anything else is not let into metric labels."""

_RETRYABLE_REFUSALS = frozenset(
    {
        "ArenaFull",
        "ChecksumMismatch",
        "DeadlineExceeded",
        "Draining",
        "EngineGone",
        "LinkLost",
        "PeerSilent",
        "PeerUnreachable",
        "PrefillFailed",
        "SidecarGone",
    }
)
"""Codes of docs/contracts.md with which another prefill engine may do better."""

_REFUSALS_OF_THE_REQUEST = frozenset({"Cancelled", "PrefillFailed", "PromptMismatch", "TransferExists"})
"""Refusals that say nothing about the engine. Each of the others costs a whole prefill."""


def new_transfer_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


@dataclass(eq=False)
class ControlError(Exception):
    """A call to a sidecar did not do what it should.

    Attributes:
        code: the sidecar's code, or ``PeerUnreachable``, ``PeerSilent``, ``NotAuthorised`` from this side.
        retryable: whether another sidecar could do better with the same request.
        blames_peer: whether it speaks against this sidecar's health.
        blames_way: whether it speaks against the way to another region's gateways instead.
    """

    code: str
    retryable: bool
    blames_peer: bool
    blames_way: bool = False

    def __str__(self) -> str:
        return self.code


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """What a sidecar knows of a transfer, as far as the gateway needs it.

    Attributes:
        code: how it ended ("complete" or the reason), or None while it runs.
        ended: nothing more will land.
        taken_tokens: what the engine took from it, or None before it did.
    """

    code: str | None
    ended: bool
    units_landed: int
    taken_tokens: int | None


@dataclass(frozen=True, slots=True)
class ControlTarget:
    """A sidecar's control listener and the identity that must answer there.

    Attributes:
        region: of a sidecar in another region; `url` is then that region's peer port, and `prefix` the path
            under which its gateways pass on what is for the sidecar.
    """

    url: URL
    identity: str
    region: str | None = None
    prefix: str = ""


class Ways(Protocol):
    """What calls through another region's gateways need from whoever knows the regions."""

    @property
    def server_name(self) -> str:
        """The TLS server name that says which region this gateway is of."""

    def context(self, region: str) -> ssl.SSLContext | None:
        """For dialling a region's gateways; None when it is not trusted."""

    def until_lost(self, region: str) -> AbstractAsyncContextManager[object]:
        """Ends what runs within by TimeoutError as soon as the region falls silent."""


class ControlClient:
    """Calls to all sidecars over one pool of connections, kept warm because a WAN round trip costs."""

    def __init__(self, credentials: Credentials, connect_seconds: float, call_seconds: float) -> None:
        self._credentials = credentials
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, socket_factory=socket_to_peer)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=call_seconds, sock_connect=connect_seconds),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._connect_seconds = connect_seconds
        self.ways: Ways | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def prefill(
        self, target: ControlTarget, body: bytes, headers: dict[str, str], deadline_seconds: float
    ) -> None:
        """Run a prefill leg to its end; what the engine generated is thrown away.

        Raises:
            ControlError: the leg failed, or it was answered but its connector produced no KV.
        """
        timeout = aiohttp.ClientTimeout(total=deadline_seconds, sock_connect=self._connect_seconds)
        sent = {"content-type": "application/json", **headers}
        async with self._call(
            "POST", target, "/v1/prefill", data=body, headers=sent, timeout=timeout
        ) as response:
            if response.status != 200:
                raise await _refusal(response)
            refused = _no_kv(await _read(response))
        if refused is not None:
            raise refused

    async def fail(self, target: ControlTarget, transfer_id: str, reason: str) -> None:
        """Tell the consumer's sidecar that nothing more will come.

        Raises:
            ControlError: the sidecar did not take it.
        """
        await self._post(target, f"/v1/transfers/{transfer_id}/fail", {"reason": reason})

    async def cancel(self, target: ControlTarget, transfer_id: str) -> None:
        """Tell a sidecar that nobody wants the transfer any more.

        Raises:
            ControlError: the sidecar did not take it.
        """
        await self._post(target, f"/v1/transfers/{transfer_id}/cancel", {})

    async def transfer(self, target: ControlTarget, transfer_id: str) -> TransferRecord | None:
        """What the sidecar knows of a transfer; None when it knows nothing.

        Raises:
            ControlError: the sidecar did not answer sensibly.
        """
        async with self._call("GET", target, f"/v1/transfers/{transfer_id}") as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise await _refusal(response)
            return _record(await _read(response))

    async def engine(self, target: ControlTarget) -> EngineReport:
        """What the sidecar tells of its engine.

        Raises:
            ControlError: the sidecar did not answer sensibly.
        """
        async with self._call("GET", target, "/v1/engine") as response:
            if response.status != 200:
                raise await _refusal(response)
            answer = await _read(response)
        try:
            return read_report(answer)
        except (ValueError, RecursionError) as error:
            raise ControlError("ProtocolError", retryable=False, blames_peer=True) from error

    async def model_file(
        self, target: ControlTarget, file: ModelFile, sink: Callable[[bytes], object], deadline_seconds: float
    ) -> None:
        """One of the engine's tokenizer files, given to ``sink`` (in threads) piece by piece, and compared.

        Raises:
            ControlError: it did not come, or not as announced (`ChecksumMismatch`).
            OSError: from ``sink``.
        """
        timeout = aiohttp.ClientTimeout(total=deadline_seconds, sock_connect=self._connect_seconds)
        digest, size = hashlib.sha256(), 0
        path = f"/v1/model-files/{file.name}"
        async with self._call("GET", target, path, timeout=timeout) as response:
            if response.status != 200:
                raise await _refusal(response)
            async for piece in response.content.iter_chunked(_FILE_PIECE_BYTES):
                size += len(piece)
                if size > file.size_bytes:
                    break
                digest.update(piece)
                await asyncio.to_thread(sink, piece)
        if size != file.size_bytes or digest.hexdigest() != file.sha256:
            raise ControlError("ChecksumMismatch", retryable=True, blames_peer=True)

    async def held_blocks(
        self, target: ControlTarget, cursor: Cursor | None, wait_seconds: float
    ) -> HeldBlocks | None:
        """What the engine holds, or what changed after the cursor: as soon as there is something, at the
        latest after ``wait_seconds``. None: this sidecar, or its engine, does not tell.

        Raises:
            ControlError: the sidecar did not answer sensibly.
        """
        timeout = aiohttp.ClientTimeout(
            total=wait_seconds + _BLOCKS_SECONDS, sock_connect=self._connect_seconds
        )
        asked = question(cursor, wait_seconds)
        async with self._call("GET", target, "/v1/held-blocks", params=asked, timeout=timeout) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise await _refusal(response)
            answer = await _read(response, MAX_ANSWER_BYTES)
        try:
            return read_held_blocks(answer)
        except ValueError as error:
            raise ControlError("ProtocolError", retryable=False, blames_peer=True) from error

    async def probe(self, target: ControlTarget) -> None:
        """See that the sidecar answers and accepts this gateway. Asks for a transfer that cannot exist.

        Raises:
            ControlError: it does not.
        """
        await self.transfer(target, _PROBE_ID)

    async def pass_on(
        self,
        method: str,
        target: ControlTarget,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        deadline_seconds: float,
    ) -> tuple[int, bytes]:
        """A call for somebody else: status and body of the sidecar's answer, whatever they are.

        Raises:
            ControlError: there is no answer.
        """
        timeout = aiohttp.ClientTimeout(total=deadline_seconds, sock_connect=self._connect_seconds)
        async with self._call(method, target, path, data=body, headers=headers, timeout=timeout) as response:
            return response.status, await _read(response)

    async def _post(self, target: ControlTarget, path: str, body: dict[str, Any]) -> None:
        async with self._call("POST", target, path, json=body) as response:
            if response.status not in (200, 204):
                raise await _refusal(response)

    @asynccontextmanager
    async def _call(
        self, method: str, target: ControlTarget, path: str, **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if target.region is not None:
            async with self._call_far(method, target, target.region, path, **arguments) as response:
                yield response
            return
        context = self._credentials.context(target.identity)
        if context is None:
            # Its pool was taken out of the fleet after this request had chosen it.
            raise ControlError("NotAuthorised", retryable=True, blames_peer=False)
        url = target.url.with_path(path)
        async with self._request(method, url, context, None, **arguments) as response:
            yield response

    @asynccontextmanager
    async def _call_far(
        self, method: str, target: ControlTarget, region: str, path: str, **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Through a gateway of the sidecar's region; where that cannot be reached, no sidecar is to blame."""
        context = self.ways.context(region) if self.ways is not None else None
        if self.ways is None or context is None:
            raise ControlError("NotAuthorised", retryable=True, blames_peer=False)
        url = target.url.with_path(target.prefix + path.removeprefix("/v1"))
        try:
            async with self.ways.until_lost(region):
                for again in (True, False):
                    async with self._request(
                        method, url, context, self.ways.server_name, **arguments
                    ) as response:
                        # It was verified by an authority that has been replaced: the next one will not be.
                        if not again or response.status != _CONNECT_ANEW:
                            yield response
                            return
        except TimeoutError as error:
            raise ControlError("PeerSilent", retryable=True, blames_peer=False, blames_way=True) from error

    @asynccontextmanager
    async def _request(
        self, method: str, url: URL, context: ssl.SSLContext, server_name: str | None, **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # With a server name it is a gateway that answers, or does not, and not the sidecar that is meant.
        far = server_name is not None
        try:
            async with self._session.request(
                method,
                url,
                ssl=context,
                server_hostname=server_name,
                allow_redirects=False,
                **arguments,
            ) as response:
                yield response
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise _broken("NotAuthorised", far) from error
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise _broken("PeerUnreachable", far) from error
            raise ControlError("PeerSilent", retryable=True, blames_peer=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _broken("PeerUnreachable", far) from error


def _broken(code: str, far: bool) -> ControlError:
    return ControlError(code, retryable=True, blames_peer=not far, blames_way=far)


async def _read(response: aiohttp.ClientResponse, most: int = _MAX_ANSWER_BYTES) -> bytes:
    try:
        return await read_all(response.content, most)
    except TooMuchError as error:
        raise ControlError("ProtocolError", retryable=True, blames_peer=True) from error


async def _refusal(response: aiohttp.ClientResponse) -> ControlError:
    code, retryable = f"Http{response.status}", response.status >= 429
    try:
        error = json.loads(await _read(response))["error"]
        if error["code"] in _CODES:
            code, retryable = error["code"], error["retryable"] is True
    except (ValueError, KeyError, TypeError, RecursionError, ControlError):
        # An engine's own error comes without our shape; its status says enough.
        pass
    return ControlError(
        code, retryable=retryable, blames_peer=response.status >= 500 or response.status == 403
    )


def _no_kv(answer: bytes) -> ControlError | None:
    """What the engine's connector says of a prefill leg that ran without producing KV, or None."""
    try:
        refused = json.loads(answer)["kv_transfer_params"]["prfaas"]["refused"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    code = _code(refused)
    if code is None:
        return None
    return ControlError(
        code, retryable=code in _RETRYABLE_REFUSALS, blames_peer=code not in _REFUSALS_OF_THE_REQUEST
    )


def _record(body: bytes) -> TransferRecord:
    try:
        fields = json.loads(body)
        taken = fields.get("taken_tokens")
        return TransferRecord(
            code=_code(fields.get("code")),
            ended=fields.get("ended_at") is not None,
            units_landed=int(fields["units_landed"]),
            taken_tokens=None if taken is None else int(taken),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ControlError("ProtocolError", retryable=False, blames_peer=True) from error


def _code(code: object) -> str | None:
    if code is None:
        return None
    return code if isinstance(code, str) and code in _CODES else "Other"
