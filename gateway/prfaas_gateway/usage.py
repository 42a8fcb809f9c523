"""Usage as the client should see it: transferred tokens were computed for this request, not cached."""

from __future__ import annotations

import json
from typing import Any

from prfaas_gateway.sse import data_of, split_events

_MARK = b'"cached_tokens"'
_INTERNAL = b'"kv_transfer_params"'


def mentions_cached_tokens(data: bytes) -> bool:
    """A quick look, so that nearly all events pass without being parsed."""
    return _MARK in data


def needs_rewrite(data: bytes) -> bool:
    """Whether an answer can hold something that `rewrite_body` or `rewrite_events` changes."""
    return _MARK in data or _INTERNAL in data


def rewrite_body(body: bytes, taken_tokens: int) -> bytes:
    """An answer that is no stream, with transferred tokens taken out of ``cached_tokens``.

    The engine's transfer parameters are taken out as well: they name addresses inside the regions. Anything
    that is not understood is returned as it came.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(answer, dict) or not _correct(answer, taken_tokens):
        return body
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def rewrite_events(whole: bytes, taken_tokens: int) -> bytes:
    """Whole events, with the same correction; events that need none keep their exact bytes."""
    return b"".join(_rewrite_event(event, taken_tokens) for event in split_events(whole))


def _rewrite_event(event: bytes, taken_tokens: int) -> bytes:
    data = data_of(event) if needs_rewrite(event) else None
    if data is None:
        return event
    rewritten = rewrite_body(data, taken_tokens)
    return event if rewritten is data else b"data: " + rewritten + b"\n\n"


def _correct(answer: dict[str, Any], taken_tokens: int) -> bool:
    changed = False
    if answer.get("kv_transfer_params") is not None:
        answer["kv_transfer_params"] = None
        changed = True
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    if not isinstance(details, dict):
        return changed
    cached = details.get("cached_tokens")
    if type(cached) is int and cached > 0 and taken_tokens > 0:
        details["cached_tokens"] = max(0, cached - taken_tokens)
        changed = True
    return changed
