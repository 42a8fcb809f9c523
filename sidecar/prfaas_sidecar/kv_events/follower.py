"""Hears an engine's KV events over ZeroMQ for as long as that engine lives, and then the next one's.

Every connection is one run of the engine: it is never taken up again, so that numbers of two runs cannot be
mistaken for one another. At its beginning, after what got lost, and after silence the engine is asked to
repeat what it still has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from prfaas_sidecar.kv_events.endpoints import Endpoints, OutOfReachError, endpoints_of
from prfaas_sidecar.kv_events.events import UnreadableError
from prfaas_sidecar.kv_events.ledger import Ledger
from prfaas_sidecar.kv_events.reader import END_OF_REPLAY, Reader, sequence_of
from prfaas_sidecar.logs import fields
from prfaas_sidecar.node import Node

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
CONNECT_SECONDS = 5.0
REPLAY_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""After that the engine is asked whether anything got lost on the way."""
FIRST_SILENCE_SECONDS = 1.0
"""The same at the beginning: the engine may have answered before it knew that somebody listens."""
MESSAGE_BYTES_MAX = 32 << 20
_QUEUED_MAX = 4096
_REPLAYS_MAX = 64
_RUNNING = zmq.EVENT_HANDSHAKE_SUCCEEDED
_OVER = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class EngineGoneError(Exception):
    """The connection to the engine's publisher has ended, or never began."""


class Follower:
    """Keeps a ledger up to date with the node's engine.

    Args:
        changed: called after each change of the ledger.
    """

    def __init__(self, node: Node, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._node = node
        self._ledger = ledger
        self._changed = changed
        self._said = ""
        self.state = "NoEngine"
        """NoEngine, Off (the engine publishes nothing), OutOfReach, Unreadable, Connecting or Following."""
        self.text = ""

    async def run(self) -> None:
        """Until cancelled."""
        context = zmq.asyncio.Context()
        try:
            while True:
                run = self._run_of_engine()
                if run is None:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                incarnation, endpoints = run
                following = asyncio.create_task(self._follow(context, endpoints), name="kv-events-engine")
                try:
                    while not following.done() and self._incarnation() == incarnation:
                        await asyncio.wait({following}, timeout=LOOK_SECONDS)
                    if following.done():
                        following.result()
                finally:
                    following.cancel()
                    with suppress(asyncio.CancelledError):
                        await following
                    self._lose()
        finally:
            context.destroy(linger=0)

    def _incarnation(self) -> str | None:
        engine = self._node.engine
        return engine.incarnation if engine is not None and engine.facts is not None else None

    def _run_of_engine(self) -> tuple[str, Endpoints] | None:
        engine = self._node.engine
        if engine is None or engine.facts is None:
            self._say("NoEngine")
            return None
        try:
            endpoints = endpoints_of(engine.facts.kv_events)
        except OutOfReachError as error:
            self._say("OutOfReach", str(error))
            return None
        if endpoints is None:
            self._say("Off")
            return None
        return engine.incarnation, endpoints

    async def _follow(self, context: zmq.asyncio.Context, endpoints: Endpoints) -> None:
        """One engine, from connection to connection, until it is cancelled."""
        while True:
            try:
                await self._connection(context, endpoints)
            except EngineGoneError:
                self._say("Connecting")
            except UnreadableError as error:
                self._say("Unreadable", str(error))
                self._changed()
                # The engine will say nothing else until it is another one.
                await asyncio.Event().wait()
            except zmq.ZMQError as error:
                self._say("OutOfReach", f"the engine's KV events cannot be connected to: {error.strerror}")
            self._lose()
            await asyncio.sleep(LOOK_SECONDS)

    async def _connection(self, context: zmq.asyncio.Context, endpoints: Endpoints) -> None:
        """Raises EngineGoneError, UnreadableError or zmq.ZMQError."""
        events, replay = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        monitor = events.get_monitor_socket(_RUNNING | _OVER)
        try:
            for socket in (events, replay):
                socket.set(zmq.IPV6, 1)
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.RCVHWM, _QUEUED_MAX)
                socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
            # A connection that ends stays ended.
            events.set(zmq.RECONNECT_IVL, -1)
            events.set(zmq.SUBSCRIBE, endpoints.topic.encode())
            events.connect(endpoints.events)
            await _connected(monitor)
            if endpoints.replay is not None:
                replay.connect(endpoints.replay)
            await self._until_gone(events, replay if endpoints.replay is not None else None, monitor)
        finally:
            events.disable_monitor()
            monitor.close(linger=0)
            events.close(linger=0)
            replay.close(linger=0)

    async def _until_gone(
        self, events: zmq.asyncio.Socket, replay: zmq.asyncio.Socket | None, monitor: zmq.asyncio.Socket
    ) -> None:
        gone = asyncio.create_task(_over(monitor), name="kv-events-gone")
        reading = asyncio.create_task(self._read(events, replay), name="kv-events-read")
        try:
            await asyncio.wait({gone, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            raise EngineGoneError
        finally:
            for task in (gone, reading):
                task.cancel()
            await asyncio.gather(gone, reading, return_exceptions=True)

    async def _read(self, events: zmq.asyncio.Socket, replay: zmq.asyncio.Socket | None) -> None:
        reader = Reader(self._ledger)
        if replay is not None:
            await self._catch_up(reader, replay)
        self._say("Following")
        self._changed()
        silence = FIRST_SILENCE_SECONDS
        while True:
            try:
                async with asyncio.timeout(silence):
                    frames = await events.recv_multipart()
            except TimeoutError:
                silence = SILENCE_SECONDS
                if replay is not None:
                    await self._catch_up(reader, replay)
                continue
            if len(frames) != 3:
                raise UnreadableError("a KV event batch of another shape")
            sequence = sequence_of(frames[1])
            if reader.first_missing(sequence) and replay is not None:
                await self._catch_up(reader, replay)
            self._take(reader, sequence, frames[2])
            # A prompt of a million tokens is one batch; others have to get their turn.
            await asyncio.sleep(0)

    async def _catch_up(self, reader: Reader, replay: zmq.asyncio.Socket) -> None:
        """Take what the engine still has of all that has not come.

        A replay is cut short where the engine sends faster than this side reads: it is asked for again.
        """
        for _ in range(_REPLAYS_MAX):
            asked_for = reader.expected
            await replay.send_multipart([b"", asked_for.to_bytes(8, "big")])
            if await self._replayed(reader, replay):
                reader.caught_up()
                return
            if reader.expected == asked_for:
                return

    async def _replayed(self, reader: Reader, replay: zmq.asyncio.Socket) -> bool:
        """Whether the end of a replay was reached with nothing missing in its middle."""
        first = whole = True
        while True:
            try:
                async with asyncio.timeout(REPLAY_SECONDS):
                    frames = await replay.recv_multipart()
            except TimeoutError:
                return False
            if len(frames) != 4:
                raise UnreadableError("a KV event replay of another shape")
            if frames[2] == END_OF_REPLAY:
                return whole
            sequence = sequence_of(frames[2])
            whole = whole and (first or not reader.first_missing(sequence))
            if whole:
                self._take(reader, sequence, frames[3])
            first = False
            await asyncio.sleep(0)

    def _take(self, reader: Reader, sequence: int, payload: bytes) -> None:
        missed = reader.missed
        reader.take(sequence, payload)
        self._node.metrics.kv_event_batches.inc()
        if reader.missed > missed:
            self._node.metrics.kv_event_gaps.inc()
            _log.warning("KV events got lost; what the engine holds is known in part", extra=fields())
        self._changed()

    def _lose(self) -> None:
        self._ledger.lose()
        self._changed()

    def _say(self, state: str, text: str = "") -> None:
        self.state, self.text = state, text
        if (said := f"{state} {text}") != self._said:
            self._said = said
            level = logging.WARNING if text else logging.INFO
            _log.log(level, "KV events", extra=fields(state=state, reason=text))


async def _connected(monitor: zmq.asyncio.Socket) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            event = await recv_monitor_message(monitor)
            if event["event"] == _RUNNING:
                return
    raise EngineGoneError


async def _over(monitor: zmq.asyncio.Socket) -> None:
    while True:
        event = await recv_monitor_message(monitor)
        if event["event"] & _OVER:
            return
