"""A producer's side of a link: the streams of one consumer process and the pulls that share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prfaas_sidecar.identity import Identity
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.pulls import PullNumbers
from prfaas_sidecar.transfers.producer import Chunk, Pull


@dataclass(eq=False, slots=True)
class OutPull:
    """One pull being served."""

    transfer_id: str
    channel: Channel
    pull: Pull
    deadline: float
    frames_taken: int = 0
    end_sent: bool = False


@dataclass(eq=False, slots=True)
class Channel:
    """Streams of one consumer process; a frame goes to whichever of them can take one."""

    identity: Identity
    name: str
    fingerprint: str
    fingerprint_fields: dict[str, str]
    streams: list[PeerStream] = field(default_factory=list)
    pulls: dict[int, OutPull] = field(default_factory=dict)
    numbers: PullNumbers = field(default_factory=PullNumbers)
    _turn: int = 0

    def wake(self) -> None:
        """There is something to send."""
        for stream in self.streams:
            stream.wake()

    def send(self, body: bodies.Body, preferred: PeerStream | None = None) -> None:
        """A control frame over any ready stream."""
        for stream in [preferred, *self.streams]:
            if stream is not None and stream.ready:
                stream.send(body)
                return

    def next_chunk(self, payload_bytes: int) -> tuple[OutPull, Chunk] | None:
        """Units of the pull whose turn it is.

        Every other frame goes to the earliest deadline, the rest to whoever has had the fewest: urgent
        transfers go ahead and none starves.
        """
        waiting = [out for out in self.pulls.values() if out.pull.waiting]
        if not waiting:
            return None
        self._turn ^= 1
        by: Callable[[OutPull], float] = _deadline if self._turn else _frames_taken
        chosen = min(waiting, key=by)
        chunk = chosen.pull.next_chunk(payload_bytes)
        if chunk is None:
            return None
        chosen.frames_taken += 1
        return chosen, chunk


def _deadline(out: OutPull) -> float:
    return out.deadline


def _frames_taken(out: OutPull) -> float:
    return out.frames_taken


@dataclass(frozen=True, slots=True)
class PendingOpen:
    """An OPEN whose transfer the engine has not announced yet."""

    channel: Channel
    request: bodies.Open
    expires_at: float
