"""The client's body: read as JSON, rid of control fields, sent on otherwise byte for byte.

A field of the engines' prefill/decode protocols in a client's request could make an engine fetch KV from an
address of the client's choice. Such fields are removed; everything else, known here or not, is passed on.
Numbers keep their exact text unless a field had to be removed, and integers of any size keep their value even
then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from prfaas_gateway.errors import GatewayError, bad_request

_CONTROL_FIELDS = frozenset(
    {
        "kv_transfer_params",
        "ec_transfer_params",
        "disaggregated_params",
        "disagg_prefill_dp_rank",
        "data_parallel_rank",
        "routed_dp_rank",
        "prfaas",
    }
)
_CONTROL_FIELD_PREFIXES = ("bootstrap_", "remote_prefill", "remote_decode")

_CONTROL_HEADERS = frozenset(
    {
        "x-kv-cache-source-host-port",
        "x-data-parallel-rank",
        "x-data-parallel-host-port",
    }
)
_CONTROL_HEADER_PREFIXES = ("x-prefiller-", "x-encoder-hosts", "x-prfaas-", "x-trtllm-disagg", "x-bootstrap-")

_CONNECTION_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body without control fields.

    Attributes:
        fields: the JSON object.
        raw: what to send on; ``fields`` in the client's own bytes where nothing had to be removed.
        removed: names of the control fields that were in it.
        empty: whether ``raw`` is an object without fields.
    """

    fields: dict[str, Any]
    raw: bytes
    removed: tuple[str, ...]
    empty: bool

    def without(self, *names: str) -> Body:
        """The same bytes with fewer parsed fields: a prompt need not be in memory twice."""
        fields = {name: value for name, value in self.fields.items() if name not in names}
        return replace(self, fields=fields)

    def with_transfer(self, kv_transfer_params: bytes) -> bytes:
        """The body with ``kv_transfer_params`` (JSON text) as its first field, the rest unchanged."""
        start = self.raw.index(b"{") + 1
        comma = b"" if self.empty else b","
        return b'{"kv_transfer_params":' + kv_transfer_params + comma + self.raw[start:]

    def with_token_ids(self, ids_json: bytes, kv_transfer_params: bytes) -> bytes:
        """The body with ``prompt`` given as token ids (a JSON array) and ``kv_transfer_params`` added.

        All other values are unchanged; their bytes may not be.
        """
        others = {name: value for name, value in self.fields.items() if name != "prompt"}
        comma = b"," if others else b""
        rest = json.dumps(others, separators=(",", ":")).encode("ascii")[1:]
        return b'{"kv_transfer_params":' + kv_transfer_params + b',"prompt":' + ids_json + comma + rest


def read_body(raw: bytes) -> Body:
    """Parse a client's body and take control fields out, also those hidden in ``vllm_xargs``.

    Raises:
        GatewayError: not UTF-8, not JSON, nested too deeply, or not an object; a 400.
    """
    try:
        fields = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_request("InvalidJson", "the request body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise bad_request(
            "InvalidJson", f"the request body is not JSON: {error.msg} at byte {error.pos}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise bad_request(
            "InvalidJson", "the request body is nested too deeply or has a number too long"
        ) from error
    if not isinstance(fields, dict):
        raise bad_request("InvalidJson", "the request body must be a JSON object")
    removed = [name for name in fields if is_control_field(name)]
    for name in removed:
        del fields[name]
    extra = fields.get("vllm_xargs")
    if isinstance(extra, dict):
        hidden = [name for name in extra if is_control_field(name)]
        for name in hidden:
            del extra[name]
        removed += [f"vllm_xargs.{name}" for name in hidden]
    if removed:
        raw = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return Body(fields, raw, tuple(removed), empty=not fields)


def is_control_field(name: str) -> bool:
    """Whether a body field belongs to an engine's prefill/decode protocol."""
    return name in _CONTROL_FIELDS or name.startswith(_CONTROL_FIELD_PREFIXES)


def is_control_header(name: str) -> bool:
    """Whether a header steers a prefill/decode router or engine."""
    lowered = name.lower()
    return lowered in _CONTROL_HEADERS or lowered.startswith(_CONTROL_HEADER_PREFIXES)


def forwarded_headers(
    headers: list[tuple[str, str]], drop: Iterable[str | None] = ()
) -> list[tuple[str, str]]:
    """Request headers that the decode leg gets: all but control, connection and the ``drop`` headers.

    Headers that ``Connection`` names belong to the client's hop and stay here too.
    """
    named = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == "connection"
        for name in value.split(",")
    }
    named |= {name.lower() for name in drop if name is not None}
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in _CONNECTION_HEADERS
        and name.lower() not in named
        and not is_control_header(name)
    ]


def answer_headers(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Response headers of the engine that the client gets."""
    hidden = _CONNECTION_HEADERS | {"server", "date"}
    return [
        (name, value) for name, value in headers if name.lower() not in hidden and not is_control_header(name)
    ]


def too_large(limit_bytes: int) -> GatewayError:
    """The client sent more than the gateway takes."""
    return GatewayError(
        413, "BodyTooLarge", f"the request body is over the limit of {limit_bytes} bytes", oversized=True
    )
