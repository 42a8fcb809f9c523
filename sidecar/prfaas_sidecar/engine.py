"""What the sidecar knows of its engine: the connections of all its processes, as one thing that is there or
gone."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from prfaas_connector.local_api.messages import Facts, Hello, Message, MessageError
from prfaas_sidecar.errors import TransferError

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
MAX_FIELDS = 256
MAX_FIELD_LENGTH = 2048
MAX_EARLY_DONES = 4096
MAX_SERVED_MODELS = 256
MAX_TEXT_LENGTH = 2048


@dataclass(eq=False, slots=True)
class Connection:
    """One process's side of the local API, after its hello."""

    hello: Hello
    send: Callable[[Message], None]
    half_close: Callable[[], None]

    @property
    def name(self) -> str:
        """For logs and for what holds memory."""
        return writer(self.hello.rank) if self.hello.side == "worker" else "scheduler"


def writer(rank: int) -> str:
    """Name under which a rank holds memory that it may still write or read."""
    return f"rank {rank}"


@dataclass(eq=False, slots=True)
class Engine:
    """One run of the engine. When any of its connections drops the whole engine counts as gone."""

    fingerprint: str
    fingerprint_fields: dict[str, str]
    world_size: int
    role: str = "both"
    facts: Facts | None = None
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))
    connections: dict[str, Connection] = field(default_factory=dict)
    gone: bool = False
    _early_dones: OrderedDict[tuple[str, int], bool] = field(default_factory=OrderedDict)

    @property
    def scheduler(self) -> Connection | None:
        """The scheduler side's connection."""
        return self.connections.get("scheduler")

    @property
    def ready(self) -> bool:
        """Whether the scheduler side and all ranks have said hello."""
        return not self.gone and self.scheduler is not None and len(self.connections) == self.world_size + 1

    def require_ready(self) -> None:
        """A transfer's memory waits for every rank, and one that is not there says nothing.

        Raises:
            TransferError: not all of them are.
        """
        if not self.ready:
            raise TransferError("EngineGone", "not all ranks of the engine are connected yet")

    def learn(self, facts: Facts) -> None:
        """What the engine says of itself.

        Raises:
            MessageError: more than can be passed on.
        """
        texts = (*facts.served_models, facts.model_files_error, *facts.kv_events)
        if len(facts.served_models) > MAX_SERVED_MODELS or any(len(text) > MAX_TEXT_LENGTH for text in texts):
            raise MessageError("facts with too many or too long texts")
        if len({file.name for file in facts.model_files}) != len(facts.model_files):
            raise MessageError("facts name a model file twice")
        self.facts = facts

    def remember_done(self, transfer_id: str, rank: int, *, complete: bool) -> None:
        """A rank was done with a transfer before the scheduler side announced it: their sockets are read in
        any order. The oldest is forgotten when there are too many."""
        self._early_dones[transfer_id, rank] = complete
        if len(self._early_dones) > MAX_EARLY_DONES:
            self._early_dones.popitem(last=False)

    def take_dones(self, transfer_id: str) -> list[tuple[int, bool]]:
        """Ranks that were done with a transfer before it was announced, and whether completely; forgets
        them."""
        found = [(rank, self._early_dones.pop((transfer_id, rank), None)) for rank in range(self.world_size)]
        return [(rank, complete) for rank, complete in found if complete is not None]

    def tell_scheduler(self, message: Message) -> None:
        """Send, if there is still somebody to send to."""
        if not self.gone and self.scheduler is not None:
            self.scheduler.send(message)


def objection(engine: Engine | None, hello: Hello) -> tuple[str, str] | None:
    """Code and message when a hello does not fit the engine that is already there."""
    if hello.side not in ("scheduler", "worker"):
        return "ProtocolError", f"side {hello.side!r} is neither scheduler nor worker"
    if not _FINGERPRINT.fullmatch(hello.fingerprint) or len(hello.fingerprint_fields) > MAX_FIELDS:
        return "ProtocolError", f"a fingerprint is 64 hexadecimal digits with at most {MAX_FIELDS} fields"
    if any(len(text) > MAX_FIELD_LENGTH for item in hello.fingerprint_fields.items() for text in item):
        return "ProtocolError", f"a fingerprint field is longer than {MAX_FIELD_LENGTH} characters"
    if hello.side == "worker" and not hello.rank < hello.world_size:
        return "ProtocolError", f"rank {hello.rank} of a world of {hello.world_size}"
    if engine is None:
        return None
    if hello.fingerprint != engine.fingerprint:
        return "FingerprintMismatch", differing(engine.fingerprint_fields, hello.fingerprint_fields)
    if hello.world_size != engine.world_size:
        return (
            "ProtocolError",
            f"world size {hello.world_size}, others of this engine said {engine.world_size}",
        )
    name = writer(hello.rank) if hello.side == "worker" else "scheduler"
    if name in engine.connections:
        return "ProtocolError", f"the engine's {name} is connected already"
    return None


def differing(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Text that names the fingerprint fields in which two engines differ."""
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if not names:
        return "the fingerprints differ although all their fields agree"
    shown = [
        f"{name}: {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')} there" for name in names[:8]
    ]
    return "the engines' KV is not interchangeable: " + "; ".join(shown)
