"""A running engine behind OpenAI's API, as far as measuring needs it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ANSWER_SECONDS = 10.0
"""For everything that generates nothing."""
WIDEST_TOKEN_ID = 32_000
NARROWEST_TOKEN_ID = 128
LOWEST_TOKEN_ID = 16
"""Below it the special tokens of many tokenizers lie."""
ERROR_CHARACTERS = 300
BODY_BYTES_MAX = 8 * 1024 * 1024


class EngineError(Exception):
    """The engine cannot be measured. The text says what it answered and what to do."""


@dataclass(slots=True)
class Answer:
    """One stream of generated tokens.

    Attributes:
        at_seconds: when each event with a choice came, by the monotonic clock.
        tokens: that were generated, as the engine counts them; 0 when it does not say.
        cached_tokens: of the prompt, that were not computed.
    """

    asked_seconds: float
    at_seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    cached_tokens: int = 0

    @property
    def first_seconds(self) -> float:
        """Time to the first token."""
        return self.at_seconds[0] - self.asked_seconds


@dataclass(frozen=True, slots=True)
class Served:
    """A model that the engine serves. `longest_tokens` None: it does not say."""

    name: str
    longest_tokens: int | None


class Engine:
    """Speaks to the engine.

    Args:
        chance: makes prompts that no cache can hold.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, chance: random.Random) -> None:
        self._session = session
        self._url = url.rstrip("/").removesuffix("/v1")
        self._chance = chance
        self._token_ids = WIDEST_TOKEN_ID

    async def served(self, wanted: str | None) -> Served:
        """The model of that name, or the only one.

        Raises:
            EngineError: the engine does not answer, or there is no such model.
        """
        document = json.loads(await self._text(f"{self._url}/v1/models"))
        entries = [each for each in document.get("data") or () if isinstance(each, dict) and "id" in each]
        names = [str(each["id"]) for each in entries]
        if not names:
            raise EngineError(f"{self._url}/v1/models names no model: is this an engine?")
        if wanted is None and len(names) > 1:
            raise EngineError(f"the engine serves {', '.join(names)}: say which with --model")
        entry = next((each for each in entries if wanted in (None, each["id"])), None)
        if entry is None:
            raise EngineError(f"the engine serves {', '.join(names)}, not {wanted}")
        longest = entry.get("max_model_len")
        return Served(str(entry["id"]), int(longest) if isinstance(longest, int) else None)

    async def requests_running(self) -> float | None:
        """Of others, by vLLM's metrics; None when the engine has none."""
        metrics = await self.metrics()
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", metrics, re.MULTILINE)
        return sum(map(float, found)) if found else None

    async def metrics(self) -> str:
        """`/metrics`, or "" when there are none."""
        try:
            return await self._text(f"{self._url}/metrics")
        except EngineError:
            return ""

    async def kv_samples(self, sidecar_url: str) -> list[tuple[int, int]]:
        """Tokens and bytes of the last transfers, as the engine's sidecar tells."""
        document = json.loads(await self._text(f"{sidecar_url.rstrip('/')}/load"))
        samples = document.get("kv_samples") or ()
        return [(int(tokens), int(size)) for tokens, size, *_ in samples if tokens > 0 and size > 0]

    async def learn_token_ids(self, model: str, deadline_seconds: float) -> None:
        """Find a range of token ids that the model has; small ones have few.

        Raises:
            EngineError: it takes no prompt of token ids.
        """
        while True:
            try:
                prompt = [self._token_ids - 1] * 2
                await self.generate(model, prompt, 1, deadline_seconds)
            except _RefusedError as error:
                if self._token_ids <= NARROWEST_TOKEN_ID:
                    raise EngineError(f"the engine takes no prompt of token ids: {error}") from error
                self._token_ids //= 2
            else:
                return

    def prompt(self, tokens: int) -> list[int]:
        """A prompt that was never sent before."""
        return self._chance.choices(range(LOWEST_TOKEN_ID, self._token_ids), k=tokens)

    async def generate(
        self, model: str, prompt: list[int], max_tokens: int, deadline_seconds: float
    ) -> Answer:
        """Generate exactly `max_tokens`.

        Raises:
            EngineError: refused, broken off, or nothing came.
            TimeoutError: not done in time.
        """
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "min_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        payload = json.dumps(body).encode()
        async with asyncio.timeout(deadline_seconds):
            try:
                answer = Answer(time.perf_counter())
                async with self._session.post(
                    f"{self._url}/v1/completions", data=payload, headers={"Content-Type": "application/json"}
                ) as response:
                    if response.status != 200:
                        raise _refusal(response.status, await response.content.read(4096))
                    async for event in _events(response):
                        _take(answer, event)
            except aiohttp.ClientError as error:
                raise EngineError(f"the engine broke off: {error}") from error
        if not answer.at_seconds:
            raise EngineError("the engine ended its answer without any token")
        return answer

    async def _text(self, url: str) -> str:
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._session.get(url) as response,
            ):
                body = await response.content.read(BODY_BYTES_MAX)
                while not response.content.at_eof() and len(body) < BODY_BYTES_MAX:
                    body += await response.content.read(BODY_BYTES_MAX - len(body))
                if response.status != 200:
                    raise EngineError(f"{url} answered {response.status}: is it the engine's own address?")
                return body.decode(errors="replace")
        except TimeoutError as error:
            raise EngineError(f"{url} gave no answer in {ANSWER_SECONDS:g} s: is the engine up?") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{url} cannot be reached: {error}") from error


class _RefusedError(EngineError):
    """The engine does not take this request; another one it may."""


def _refusal(status: int, body: bytes) -> EngineError:
    """The engine's words without what it quotes of the request: a prompt may be long."""
    try:
        document = json.loads(body)
        words = (document.get("error") or document).get("message", "")
    except (ValueError, AttributeError):
        words = body.decode(errors="replace")
    text = f"the engine answered {status}: {str(words)[:ERROR_CHARACTERS]}"
    return _RefusedError(text) if status in (400, 422) else EngineError(text)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        text = line.strip()
        if not text.startswith(b"data:"):
            continue
        data = text.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineError("the engine sent an event that is not JSON") from error
        if "error" in event:
            raise _refusal(int(event["error"].get("code") or 500), data)
        yield event


def _take(answer: Answer, event: dict[str, Any]) -> None:
    if event.get("choices"):
        answer.at_seconds.append(time.perf_counter())
    usage = event.get("usage")
    if usage:
        answer.tokens = int(usage.get("completion_tokens") or 0)
        details = usage.get("prompt_tokens_details") or {}
        answer.cached_tokens = int(details.get("cached_tokens") or 0)
