"""Asks as an OpenAI client would, and measures what such a client sees."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from prfaas_demo import names
from prfaas_demo.errors import DemoError

REQUEST_SECONDS = 180.0


@dataclass(frozen=True)
class Answer:
    """A streamed chat completion. Times are in seconds, from sending the request.

    Attributes:
        token_ids: what the engine generated, id by id.
        cached_tokens: of the prompt, found in the decode engine's own cache.
        headers: the gateway's `x-prfaas-*`, in lower case.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    first_token_seconds: float
    total_seconds: float
    headers: Mapping[str, str]


async def ask(session: aiohttp.ClientSession, url: str, prompt: str, max_tokens: int) -> Answer:
    """POST /v1/chat/completions, greedy and streaming.

    Args:
        session: whose connections are used.
        url: base URL of a gateway or an engine.

    Raises:
        DemoError: no complete answer came.
    """
    body = {
        "model": names.MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # vLLM's own field: the comparison is of token ids, since different tokens can read alike.
        "return_token_ids": True,
    }
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    began = time.monotonic()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, timeout=timeout) as response:
            if response.status != 200:
                raise DemoError(f"{url} answered {response.status}: {(await response.text())[:300]}")
            return await _read(response, began)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(f"no answer from {url}: {str(error) or type(error).__name__}") from error


async def _read(response: aiohttp.ClientResponse, began: float) -> Answer:
    text: list[str] = []
    token_ids: list[int] = []
    usage: dict[str, Any] = {}
    first_token: float | None = None
    async for event in _events(response):
        if "error" in event:
            raise DemoError(f"the answer broke off: {event['error'].get('message', event['error'])}")
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            ids = choice.get("token_ids") or ()
            content = (choice.get("delta") or {}).get("content")
            if first_token is None and (ids or content):
                first_token = time.monotonic()
            token_ids += ids
            text.append(content or "")
    if first_token is None or not usage:
        raise DemoError("the answer ended without a token or without its usage")
    return Answer(
        text="".join(text),
        token_ids=tuple(token_ids),
        prompt_tokens=int(usage["prompt_tokens"]),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        first_token_seconds=first_token - began,
        total_seconds=time.monotonic() - began,
        headers={key.lower(): value for key, value in response.headers.items()},
    )


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        data = line.strip().removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield json.loads(data)


async def reset_prefix_cache(session: aiohttp.ClientSession, engine_url: str) -> None:
    """Make an engine forget all KV.

    Raises:
        DemoError: it does not.
    """
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with session.post(f"{engine_url}/reset_prefix_cache", timeout=timeout) as response:
            if response.status != 200:
                raise DemoError(f"the engine did not reset its prefix cache: status {response.status}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(f"the engine did not reset its prefix cache: {error}") from error
