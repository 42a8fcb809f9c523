"""What a request carries for the connector: the ``prfaas`` part of ``kv_transfer_params``
(docs/contracts.md)."""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PARAMETERS_VERSION = 1

_TRANSFER_ID = re.compile(r"[0-9a-f]{32}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class ParametersError(ValueError):
    """The parameters are not ones that this connector understands. The caller's fault; the request stays
    local."""


@dataclass(frozen=True, slots=True)
class PrefillLeg:
    """This engine computes the prompt; ``consumer`` is the identity of the pool that may pull the KV."""

    transfer_id: str
    prompt_digest: str
    deadline_seconds: float
    consumer: str


@dataclass(frozen=True, slots=True)
class DecodeLeg:
    """This engine decodes; the KV comes from the sidecar at ``producer_address`` with identity ``producer``,
    which a proxy there may know by ``server_name``. ``first_kv_seconds``: how long the queue there may keep
    this engine without any KV, as the gateway expects it."""

    transfer_id: str
    prompt_digest: str
    deadline_seconds: float
    producer_address: str
    producer: str
    server_name: str | None = None
    first_kv_seconds: float | None = None


def parse(kv_transfer_params: Mapping[str, Any] | None) -> PrefillLeg | DecodeLeg | None:
    """The leg that a request belongs to, or None for an ordinary request.

    Raises:
        ParametersError: there is a ``prfaas`` part, and it is not valid; the text names the field.
    """
    part = (kv_transfer_params or {}).get("prfaas")
    if part is None:
        return None
    if not isinstance(part, Mapping):
        raise ParametersError("prfaas: not an object")
    if part.get("version") != PARAMETERS_VERSION:
        raise ParametersError(f"prfaas.version: this connector speaks version {PARAMETERS_VERSION}")
    transfer_id = _text(part, "transfer_id", _TRANSFER_ID)
    digest = _text(part, "prompt_digest", _DIGEST)
    deadline = part.get("deadline_seconds")
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline <= 3600:
        raise ParametersError("prfaas.deadline_seconds: a number of seconds up to 3600")
    leg = part.get("leg")
    if leg == "prefill":
        return PrefillLeg(transfer_id, digest, float(deadline), _text(part, "consumer"))
    if leg == "decode":
        producer = part.get("producer")
        if not isinstance(producer, Mapping):
            raise ParametersError("prfaas.producer: not an object")
        return DecodeLeg(
            transfer_id,
            digest,
            float(deadline),
            _text(producer, "address"),
            _text(producer, "identity"),
            None if producer.get("server_name") is None else _text(producer, "server_name"),
            _seconds(part, "first_kv_seconds"),
        )
    raise ParametersError("prfaas.leg: neither prefill nor decode")


def prompt_digest(token_ids: Sequence[int], cache_salt: str | None) -> str:
    """SHA-256, in hexadecimal, of the prompt's token ids and cache salt (docs/contracts.md, "Words")."""
    ids = array("I", token_ids)
    if ids.itemsize != 4:  # pragma: no cover - no supported platform
        raise RuntimeError("unsigned int is not 32 bits wide on this platform")
    if sys.byteorder == "big":
        ids.byteswap()
    digest = hashlib.sha256(b"prfaas-prompt-v1\0")
    digest.update((cache_salt or "").encode())
    digest.update(b"\0")
    digest.update(ids.tobytes())
    return digest.hexdigest()


def _seconds(part: Mapping[str, Any], name: str) -> float | None:
    value = part.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:
        raise ParametersError(f"prfaas.{name}: a number of seconds up to 3600")
    return float(value)


def _text(part: Mapping[str, Any], name: str, pattern: re.Pattern[str] | None = None) -> str:
    value = part.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 512:
        raise ParametersError(f"prfaas.{name}: a text of 1 to 512 characters")
    if pattern is not None and not pattern.match(value):
        raise ParametersError(f"prfaas.{name}: not of the form {pattern.pattern}")
    return value
