"""An engine that publishes KV events as vLLM 0.32 does: PUB, and a ROUTER that repeats what it still has."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec
import zmq
import zmq.asyncio

BLOCK = 4


def stored(
    hashes: list[bytes],
    ids: list[int],
    parent: bytes | None = None,
    extra_keys: list[Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """A BlockStored event, as msgpack has it."""
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": ids,
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(hashes) if extra_keys is None else extra_keys,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        **others,
    }


def removed(*hashes: bytes, **others: Any) -> dict[str, Any]:
    """A BlockRemoved event."""
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", "group_idx": 0, **others}


CLEARED = {"type": "AllBlocksCleared"}


def batch(*events: dict[str, Any], rank: int | None = 0) -> bytes:
    """One step's events."""
    return msgspec.msgpack.encode([1.5, list(events), rank])


class Publisher:
    """One run of an engine's publisher. Close it and open another one for a restart.

    Args:
        endpoint, replay: as in `--kv-events-config`; no replay: it repeats nothing.
        buffer_steps: how much it can repeat.
    """

    def __init__(self, endpoint: str, replay: str | None, buffer_steps: int = 100) -> None:
        self._context = zmq.asyncio.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.bind(endpoint)
        self._next = 0
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self.replays: list[int] = []
        self._task: asyncio.Task[None] | None = None
        if replay is not None:
            router = self._context.socket(zmq.ROUTER)
            router.bind(replay)
            self._task = asyncio.create_task(self._answer(router))

    async def publish(self, *events: dict[str, Any], lost: bool = False) -> None:
        """A step of the engine; ``lost``: nobody hears it."""
        await self.send(batch(*events), lost=lost)

    async def send(self, payload: bytes, *, lost: bool = False) -> None:
        """A batch of any content."""
        number, self._next = self._next, self._next + 1
        self._buffer.append((number, payload))
        if not lost:
            await self._pub.send_multipart([b"", number.to_bytes(8, "big"), payload])

    async def close(self) -> None:
        """The engine is gone."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._context.destroy(linger=0)

    async def _answer(self, router: zmq.asyncio.Socket) -> None:
        while True:
            client, _, start = await router.recv_multipart()
            first = int.from_bytes(start, "big")
            self.replays.append(first)
            for number, payload in self._buffer:
                if number >= first:
                    await router.send_multipart([client, b"", b"", number.to_bytes(8, "big"), payload])
            await router.send_multipart([client, b"", b"", (-1).to_bytes(8, "big", signed=True), b""])
