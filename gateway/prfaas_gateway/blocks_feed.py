"""Asks sidecars what their engines hold (`GET /v1/held-blocks`), and keeps the prefix index to it.

One call to each engine is always under way: it is answered as soon as something changes. Engines that do not
tell stay with what was sent to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from prfaas.held_blocks import HeldBlocks
from prfaas_gateway.control import ControlClient, ControlError
from prfaas_gateway.fleet import Decoder, Prefiller
from prfaas_gateway.services import Services

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
WAIT_SECONDS = 20.0
GAP_SECONDS = 0.25
"""Between two answers of one engine: what happens meanwhile comes together."""
RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
NOT_TOLD_SECONDS = 60.0
"""Until a sidecar that does not tell is asked again: it may have been replaced."""
ENGINES_MAX = 2048
"""Of which this gateway hears; the others stay with what was sent to them."""

Engine = Decoder | Prefiller


async def follow_forever(services: Services, control: ControlClient) -> None:
    """Keep a call to each engine under way. Ends by being cancelled."""
    feeds: dict[Engine, asyncio.Task[None]] = {}
    try:
        while True:
            wanted = [engine for engine in services.fleet.engines() if _asked(engine)][:ENGINES_MAX]
            for engine in set(feeds) - set(wanted):
                feeds.pop(engine).cancel()
            for engine in wanted:
                feed = feeds.get(engine)
                if feed is None or feed.done():
                    _report(engine, feed)
                    name = f"blocks of {engine.name}"
                    sizes = partial(_block_sizes, services, engine)
                    feeds[engine] = asyncio.create_task(follow(control, engine, sizes), name=name)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        for task in feeds.values():
            task.cancel()
        await asyncio.gather(*feeds.values(), return_exceptions=True)


async def follow(control: ControlClient, engine: Engine, block_sizes: Callable[[], set[int]]) -> None:
    """One engine, for as long as it is there.

    Args:
        block_sizes: in tokens, by which this gateway names the blocks of prompts for the engine.
    """
    failures = 0
    while True:
        target = engine.target
        if target is None:
            return
        try:
            news = await control.held_blocks(target, engine.index.cursor, WAIT_SECONDS)
        except ControlError as error:
            engine.index.unheard()
            pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            failures += 1
            _log.debug("held blocks are not told", extra={"engine": engine.name, "code": error.code})
            await asyncio.sleep(pause)
            continue
        failures = 0
        if news is None or not _named_alike(engine, news, block_sizes()):
            engine.index.untold()
            await asyncio.sleep(NOT_TOLD_SECONDS)
            continue
        await take(engine, news)
        await asyncio.sleep(GAP_SECONDS)


async def take(engine: Engine, news: HeldBlocks) -> None:
    """Bring the engine's index up to date, without keeping requests from their turn."""
    for _ in engine.index.take(news):
        await asyncio.sleep(0)


def _block_sizes(services: Services, engine: Engine) -> set[int]:
    return {model.block_tokens for model in services.runtimes() if engine.serves(model.name)}


def _named_alike(engine: Engine, news: HeldBlocks, block_sizes: set[int]) -> bool:
    """Whether names of the engine's blocks mean anything here."""
    if not news.block_tokens or block_sizes <= {news.block_tokens}:
        return True
    _log.warning(
        "the engine's cache has blocks of another size than its model here (block_tokens), so what it holds "
        "is guessed from what was sent",
        extra={"engine": engine.name, "block_tokens": news.block_tokens, "here": sorted(block_sizes)},
    )
    return False


def _asked(engine: Engine) -> bool:
    # Those of other regions through the gateways there.
    return engine.target is not None and engine.open


def _report(engine: Engine, ended: asyncio.Task[None] | None) -> None:
    """A feed ends only by a bug, or as its engine leaves."""
    if ended is None or ended.cancelled():
        return
    if (error := ended.exception()) is not None:
        engine.index.untold()
        _log.error("held blocks cannot be followed", exc_info=error, extra={"engine": engine.name})
