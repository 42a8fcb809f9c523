"""The local API's server: a Unix socket that the engine's processes connect to, and the arena's descriptor
over it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from prfaas_connector.local_api.framing import Unpacker, pack
from prfaas_connector.local_api.messages import (
    OTHER_VERSION,
    SPOKEN,
    Abort,
    Consume,
    Facts,
    Hello,
    Message,
    MessageError,
    Produce,
    ProducerDone,
    Publish,
    Refused,
    Release,
    Welcome,
)
from prfaas_sidecar.consuming import Consuming
from prfaas_sidecar.engine import Connection, Engine, objection
from prfaas_sidecar.errors import TransferError
from prfaas_sidecar.logs import fields
from prfaas_sidecar.node import Node
from prfaas_sidecar.producing import Producing
from prfaas_sidecar.tasks import Tasks
from prfaas_sidecar.transfers.producer import LayoutError

_log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
MAX_CONNECTIONS = 256
ACCEPT_RETRY_SECONDS = 0.5
_ID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 256 << 10
_MAX_UNSENT_BYTES = 16 << 20


class EngineSocket:
    """Accepts the engine's connections and turns their messages into calls of the two sides."""

    def __init__(self, node: Node, producing: Producing, consuming: Consuming, tasks: Tasks) -> None:
        self._node = node
        self._producing = producing
        self._consuming = consuming
        self._tasks = tasks
        self._path = node.config.engine.socket
        self._open = 0
        self._socket = _listen(self._path, node.config.engine.socket_mode)

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                # For example no free descriptors: the backlog keeps what comes until some are.
                _log.warning("accepting failed", extra=fields(listener="engine", reason=error.strerror))
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            connection.setblocking(False)
            if self._open >= MAX_CONNECTIONS:
                connection.close()
                continue
            self._open += 1
            self._tasks.spawn(self._converse(connection), "engine-connection", essential=False)

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _converse(self, sock: socket.socket) -> None:
        unpacker = Unpacker()
        # Once it has a transport, the socket belongs to that.
        with contextlib.ExitStack() as owned:
            owned.callback(sock.close)
            await self._guarded(sock, unpacker, owned)

    async def _guarded(self, sock: socket.socket, unpacker: Unpacker, owned: contextlib.ExitStack) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                messages = await _first_messages(sock, unpacker)
            hello = _hello(messages.pop(0))
            await self._welcomed(sock, hello, messages, unpacker, owned)
        except (MessageError, LayoutError) as error:
            _log.error("the engine broke the local API", extra=fields(reason=str(error)))
        except TimeoutError:
            _log.warning("a local connection said no hello")
        except OSError as error:
            _log.warning("an engine connection broke", extra=fields(reason=error.strerror))
        finally:
            self._open -= 1

    async def _welcomed(
        self,
        sock: socket.socket,
        hello: Hello,
        messages: list[Message],
        unpacker: Unpacker,
        owned: contextlib.ExitStack,
    ) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        owned.pop_all()
        try:
            admitted = self._admit(sock, writer, hello)
        except OSError:
            writer.transport.abort()
            raise
        if admitted is None:
            writer.close()
            return
        engine, connection = admitted
        try:
            for message in messages:
                self._handle(engine, connection, message)
            while data := await reader.read(_READ_BYTES):
                for message in unpacker.feed(data):
                    self._handle(engine, connection, message)
        finally:
            self._node.metrics.engine_connections.dec()
            self._gone(engine, connection)
            writer.transport.abort()

    def _admit(
        self, sock: socket.socket, writer: asyncio.StreamWriter, hello: Hello
    ) -> tuple[Engine, Connection] | None:
        """Compare, welcome and register without an await in between: whoever is welcome is registered with an
        engine that is there, under a name that nobody else has."""
        node = self._node
        engine = None if node.engine is None or node.engine.gone else node.engine
        refusal = objection(engine, hello)
        if hello.protocol not in SPOKEN:
            known = f"this sidecar speaks {SPOKEN[0]} to {SPOKEN[-1]}"
            refusal = ("ProtocolError", f"{OTHER_VERSION} {hello.protocol}; {known}")
        if refusal is not None:
            _log.error("engine refused", extra=fields(side=hello.side, code=refusal[0], reason=refusal[1]))
            writer.write(pack(Refused("", *refusal)))
            return None
        if engine is None:
            engine = Engine(hello.fingerprint, dict(hello.fingerprint_fields), hello.world_size, hello.role)
        # Past the transport, which cannot pass descriptors and has nothing of its own to send yet.
        socket.send_fds(
            sock,
            [pack(Welcome(hello.protocol, node.arena.size_bytes, engine.incarnation))],
            [node.arena.descriptor],
        )
        connection = Connection(hello, _sender(writer), lambda: _half_close(writer))
        if node.engine is not engine and node.drain_asked:
            # What drained has ended, and this is what came in its place.
            node.drain_asked = False
            _log.info("a new run of the engine ends the drain")
        node.engine = engine
        engine.connections[connection.name] = connection
        node.metrics.engine_connections.inc()
        _log.info("engine connected", extra=fields(side=hello.side, rank=hello.rank, pid=hello.pid))
        return engine, connection

    def _gone(self, engine: Engine, connection: Connection) -> None:
        del engine.connections[connection.name]
        _log.info("engine disconnected", extra=fields(side=connection.hello.side, rank=connection.hello.rank))
        if not engine.gone:
            engine.gone = True
            if self._node.engine is engine:
                self._node.engine = None
            self._producing.engine_gone(engine)
            self._consuming.engine_gone(engine)
            # The other processes learn that nothing of this run is valid any more; each keeps its memory
            # until it closes its own side.
            for other in engine.connections.values():
                other.half_close()
        self._producing.connection_gone(engine, connection.name)
        self._consuming.connection_gone(engine, connection.name)

    def _handle(self, engine: Engine, connection: Connection, message: Message) -> None:
        if engine.gone and not isinstance(message, ProducerDone):
            return
        if connection.hello.side == "worker":
            self._from_worker(engine, connection, message)
        else:
            self._from_scheduler(engine, connection, message)

    def _from_worker(self, engine: Engine, connection: Connection, message: Message) -> None:
        match message:
            case Publish():
                self._producing.publish(engine, message)
            case ProducerDone() if message.rank == connection.hello.rank and _ID.fullmatch(
                message.transfer_id
            ):
                self._producing.rank_done(engine, message)
            case _:
                raise MessageError(f"rank {connection.hello.rank} may not say {message.TYPE} here")

    def _from_scheduler(self, engine: Engine, connection: Connection, message: Message) -> None:
        match message:
            case Abort() if _ID.fullmatch(message.transfer_id):
                self._producing.abort(message)
            case Release():
                self._consuming.release(message)
            case Facts():
                engine.learn(message)
            case Produce():
                self._start(
                    connection,
                    message.transfer_id,
                    message.prompt_digest,
                    "producer",
                    lambda: self._producing.produce(engine, message),
                    self._producing.produced,
                )
            case Consume():
                self._start(
                    connection,
                    message.transfer_id,
                    message.prompt_digest,
                    "consumer",
                    lambda: self._consuming.consume(engine, message),
                    self._consuming.start,
                )
            case _:
                raise MessageError(f"the scheduler side may not say {message.TYPE}")

    def _start(
        self,
        connection: Connection,
        transfer_id: str,
        digest: str,
        side: str,
        begin: Callable[[], Message],
        go: Callable[[str], None],
    ) -> None:
        try:
            if not (_ID.fullmatch(transfer_id) and _DIGEST.fullmatch(digest)):
                raise MessageError("a transfer id is 32, a prompt digest 64 lowercase hexadecimal digits")
            answer = begin()
        except TransferError as error:
            self._node.refused(transfer_id, side, error.code, error.message)
            connection.send(Refused(transfer_id, error.code, error.message))
            return
        connection.send(answer)
        go(transfer_id)


async def _first_messages(sock: socket.socket, unpacker: Unpacker) -> list[Message]:
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(sock, _READ_BYTES)
        if not data:
            raise MessageError("closed before a hello")
        if messages := unpacker.feed(data):
            return messages


def _hello(message: Message) -> Hello:
    if not isinstance(message, Hello):
        raise MessageError(f"the first message is a hello, not a {message.TYPE}")
    return message


def _sender(writer: asyncio.StreamWriter) -> Callable[[Message], None]:
    def send(message: Message) -> None:
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            _log.error("the engine does not read its messages; its connection is closed")
            writer.transport.abort()
        elif not writer.is_closing():
            writer.write(pack(message))

    return send


def _half_close(writer: asyncio.StreamWriter) -> None:
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()


def _listen(path: Path, mode: int) -> socket.socket:
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(f"engine.socket: {path} exists and is not a socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        else:
            raise OSError(f"engine.socket: another process listens on {path}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        # Nobody can connect before listen.
        path.chmod(mode)
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"engine.socket: cannot listen on {path}: {error.strerror or error}"
        ) from error
    listener.setblocking(False)
    return listener
