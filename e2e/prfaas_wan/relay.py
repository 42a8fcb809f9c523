"""The relay: carries frames from one host's TUN device to the other's through a `Link` each way, and
answers control messages. One thread, one select, no other wait."""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from prfaas_wan.control import LineBuffer, may_control
from prfaas_wan.errors import WanError
from prfaas_wan.hosts import LINK_INTERFACE, HostDevices, raise_tcp_buffers
from prfaas_wan.kernel import inside_namespace
from prfaas_wan.link import Link
from prfaas_wan.packets import VNET_BYTES, Packet
from prfaas_wan.settings import DIRECTIONS, Direction, WanConfig, changed, tcp_buffer_bytes
from prfaas_wan.status import DirectionStats, DirectionStatus

_FRAME_LIMIT_BYTES = VNET_BYTES + 65535
# So many frames are taken from one device before everything else gets its turn.
_FRAMES_PER_TURN = 32
_CONNECTION_LIMIT = 32
_COLLECT_EVERY_OBJECTS = 100_000


@dataclass(slots=True)
class _Path:
    direction: Direction
    source: HostDevices
    target: HostDevices
    link: Link[Packet]
    unreadable_frames: int = 0
    undelivered_frames: int = 0


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    lines: LineBuffer = field(default_factory=LineBuffer)


class Relay:
    """`describe` adds what only the keeper knows to a status. `watched` are descriptors that become
    readable when the relay has to end."""

    def __init__(
        self,
        config: WanConfig,
        hosts: Mapping[str, HostDevices],
        listener: socket.socket,
        watched: tuple[int, ...],
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        seed = Random(config.random_seed)  # noqa: S311
        self._paths = [
            _Path(
                direction,
                source=hosts[direction[0]],
                target=hosts[direction[-1]],
                link=Link(config.link(direction), Random(seed.random())),  # noqa: S311
            )
            for direction in DIRECTIONS
        ]
        self._listener = listener
        self._watched = watched
        self._describe = describe
        self._connections: dict[int, _Connection] = {}
        self._stopping = False

    def run(self) -> None:
        """Until told to stop, or a watched descriptor becomes readable."""
        gc.freeze()
        gc.set_threshold(_COLLECT_EVERY_OBJECTS)
        by_tun = {path.source.tun: path for path in self._paths}
        fixed = [*by_tun, *self._watched, self._listener.fileno()]
        while not self._stopping:
            arrivals = [at for path in self._paths if (at := path.link.next_arrival()) is not None]
            wait = max(0.0, min(arrivals) - time.monotonic()) if arrivals else None
            # select, because its timeout counts microseconds where epoll's counts milliseconds.
            readable, _, _ = select.select([*fixed, *self._connections], [], [], wait)
            for descriptor in readable:
                path = by_tun.get(descriptor)
                if path is not None:
                    self._take(path)
                elif descriptor in self._watched:
                    self._stopping = True
                elif descriptor in self._connections:
                    self._hear(self._connections[descriptor])
                else:
                    self._accept()
            for path in self._paths:
                self._deliver(path)

    # ---- frames ----

    def _take(self, path: _Path) -> None:
        source = path.source.tun
        link = path.link
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = os.read(source, _FRAME_LIMIT_BYTES)
            except BlockingIOError:
                return
            try:
                packet = Packet(frame)
            except ValueError:
                path.unreadable_frames += 1
                continue
            link.offer(time.monotonic(), packet)

    def _deliver(self, path: _Path) -> None:
        for packet in path.link.deliver(time.monotonic()):
            try:
                os.write(path.target.tun, packet.frame)
            except OSError:
                path.undelivered_frames += 1

    # ---- control ----

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            return
        if len(self._connections) >= _CONNECTION_LIMIT or not may_control(accepted):
            accepted.close()
            return
        accepted.setblocking(False)
        self._connections[accepted.fileno()] = _Connection(accepted)

    def _hear(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(65536)
            lines = connection.lines.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            data, lines = b"", []
        if not data:
            self._forget(connection)
            return
        for line in lines:
            answer = json.dumps(self._answer(line)).encode() + b"\n"
            try:
                connection.socket.sendall(answer)
            except OSError:
                # Whoever does not read its answers does not get to stop the relay.
                self._forget(connection)
                return

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            return {"result": self._perform(request["operation"], request)}
        except WanError as error:
            return {"error": error.as_data()}
        except (ValueError, KeyError, TypeError) as error:
            return {"error": {"code": "BadRequest", "message": f"not a control message: {error!r}"}}

    def _perform(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == "status":
            return self._status()
        if operation == "set":
            self._set(request["changes"])
            return self._status()
        if operation == "stop":
            self._stopping = True
            return {}
        raise WanError("BadRequest", f"unknown operation {operation!r}")

    def _set(self, changes: dict[str, dict[str, Any]]) -> None:
        by_direction = {path.direction: path for path in self._paths}
        unknown = set(changes) - set(by_direction)
        if unknown:
            raise WanError("BadRequest", f"unknown direction {min(unknown)!r}; there are {DIRECTIONS}")
        # All are checked before any is applied.
        wanted = [
            (path, changed(path.link.settings, changes[direction]))  # type: ignore[arg-type]
            for direction, path in by_direction.items()
            if direction in changes
        ]
        now = time.monotonic()
        for path, settings in wanted:
            path.link.configure(now, settings)
        buffer_bytes = tcp_buffer_bytes(*(path.link.settings for path in self._paths))
        for path in self._paths:
            with inside_namespace(path.source.namespace):
                raise_tcp_buffers(buffer_bytes, [])

    def _status(self) -> dict[str, Any]:
        times = os.times()
        return {
            **self._describe(),
            "relay_pid": os.getpid(),
            "relay_cpu_seconds": times.user + times.system,
            "directions": {path.direction: _direction_status(path).model_dump() for path in self._paths},
        }


def _direction_status(path: _Path) -> DirectionStatus:
    return DirectionStatus(
        settings=path.link.settings,
        stats=DirectionStats(
            **path.link.stats.as_data(),
            queued_bytes=path.link.queued_bytes,
            held_bytes=path.link.held_bytes,
            unreadable_frames=path.unreadable_frames,
            undelivered_frames=path.undelivered_frames,
            device_dropped_packets=_device_drops(path.source.counters),
        ),
    )


def _device_drops(counters: int) -> int:
    """Packets that the device dropped because the relay did not take them in time."""
    for line in os.pread(counters, 65536, 0).decode().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == LINK_INTERFACE:
            return int(values.split()[11])
    return 0
