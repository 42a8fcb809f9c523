"""Price and carbon signals from a file or an endpoint. The last good ones stay, and their age tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import aiohttp
import yaml

from prfaas.autoscaling import Signals, parse_signals
from prfaas.autoscaling.signals import DOCUMENT_CHARACTERS_MAX
from prfaas.capacity import InvalidInputError
from prfaas_operator.config import SignalsSource

logger = logging.getLogger(__name__)


class PriceSignals:
    """Reads them when they are due.

    Args:
        clock: seconds, monotonic.
        count: told of each reading: `ok` or `failed`.

    Attributes:
        current: the last good ones.
        problem: why the last reading failed, or "".
    """

    def __init__(
        self, source: SignalsSource | None, *, clock: Callable[[], float], count: Callable[[str], None]
    ) -> None:
        self._source = source
        self._clock = clock
        self._count = count
        self._read_at = float("-inf")
        self.current: Signals | None = None
        self.problem = ""

    async def refresh(self, session: aiohttp.ClientSession) -> None:
        """Read them, unless that was done lately."""
        source = self._source
        if source is None or self._clock() - self._read_at < source.seconds:
            return
        self._read_at = self._clock()
        try:
            text = (
                await asyncio.to_thread(_file, Path(source.file))
                if source.file is not None
                else await _answer(session, str(source.url))
            )
            self.current = parse_signals(yaml.safe_load(text))
        except (OSError, TimeoutError, aiohttp.ClientError, yaml.YAMLError, InvalidInputError) as error:
            problem = f"price and carbon signals of {source.file or source.url}: {error!s:.300}"
            if problem != self.problem:
                logger.warning("%s; the last good ones stay in force", problem)
            self.problem = problem
            self._count("failed")
            return
        self.problem = ""
        self._count("ok")


def _file(path: Path) -> str:
    with path.open(encoding="utf-8") as opened:
        text = opened.read(DOCUMENT_CHARACTERS_MAX + 1)
    if len(text) > DOCUMENT_CHARACTERS_MAX:
        raise OSError(f"{path} has more than {DOCUMENT_CHARACTERS_MAX} characters")
    return text


async def _answer(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        answer.raise_for_status()
        body = bytearray()
        async for part in answer.content.iter_any():
            body += part
            if len(body) > DOCUMENT_CHARACTERS_MAX:
                raise aiohttp.ClientPayloadError(f"more than {DOCUMENT_CHARACTERS_MAX} bytes")
    return body.decode(errors="replace")
