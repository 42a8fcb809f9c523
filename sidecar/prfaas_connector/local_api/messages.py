"""The words of the local API. Each message is a frozen dataclass; ``type`` on the socket is its ``TYPE``.

Who says what, and when: docs/contracts.md, "Connector and sidecar".
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from prfaas_connector.local_api.model_files import ModelFile
from prfaas_connector.local_api.units import Lane, Ranges, normalise

PROTOCOL = 4
"""Version of the local API. Version 2 adds `Facts`, version 3 `Consume.server_name`, version 4
`Facts.kv_events`; nothing else changes."""

SPOKEN = (1, 2, 3, 4)
"""Versions that both ends can speak. A connector offers the highest; a sidecar that does not know it refuses
it by name (`OTHER_VERSION`), and the connector greets again with a lower one."""

OTHER_VERSION = "local API version"
"""How the text of such a refusal begins, in every version."""


class MessageError(ValueError):
    """The other side sent something that is not a message of this protocol. Not retryable on this
    connection."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of every connection. The answer is `Welcome` (with the arena's descriptor) or `Refused`.

    ``fingerprint`` is the SHA-256 of ``fingerprint_fields`` (see prfaas_connector.fingerprint): two engines
    exchange KV only when theirs are equal; the fields are there so that a refusal can say which one differs.
    """

    TYPE: ClassVar[str] = "hello"
    protocol: int
    side: str  # "scheduler" or "worker"
    role: str  # "producer", "consumer" or "both"
    rank: int
    world_size: int
    pid: int
    fingerprint: str
    fingerprint_fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Welcome:
    """The connection is accepted. One file descriptor, the arena, travels with it (SCM_RIGHTS).

    ``incarnation`` names this run of the engine as the sidecar sees it: equal for all its processes, another
    one after any of them has reconnected. Extents given to one incarnation mean nothing to the next.
    """

    TYPE: ClassVar[str] = "welcome"
    protocol: int
    arena_bytes: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Scheduler side, after `Welcome`, from version 2 on: what others may know of this engine. The last one
    counts. ``model_files`` lie in `model_files.folder_beside` the socket; ``model_files_error`` says why some
    are missing, and is empty when none is. ``kv_events``, from version 4 on and left out when empty:
    endpoint, replay endpoint (or an empty text) and topic of the engine's KV events, as it was told to
    publish them."""

    TYPE: ClassVar[str] = "facts"
    block_tokens: int
    max_model_tokens: int
    served_models: tuple[str, ...]
    model_files: tuple[ModelFile, ...]
    model_files_error: str
    kv_events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A hello, a produce or a consume is refused. ``transfer_id`` is empty for a hello, which also closes."""

    TYPE: ClassVar[str] = "refused"
    transfer_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Produce:
    """Scheduler side of a producer: KV of this prompt is about to be computed. Answered by `Accepted` or
    `Refused`."""

    TYPE: ClassVar[str] = "produce"
    transfer_id: str
    prompt_digest: str
    consumer: str  # identity (SPIFFE URI) of the only pool that may pull this transfer
    lanes: tuple[Lane, ...]
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Consume:
    """Scheduler side of a consumer: pull ``want`` from a peer. Answered by `Accepted` or `Refused`.

    ``want`` has one entry per KV cache group; it holds for each lane of that group. ``server_name`` is what
    to ask for in TLS where a proxy goes by it; from version 3 on, and left out when it is None.
    """

    TYPE: ClassVar[str] = "consume"
    transfer_id: str
    prompt_digest: str
    producer_address: str  # host:port of the producer's sidecar
    producer: str  # identity (SPIFFE URI) that must answer there
    lanes: tuple[Lane, ...]
    want: tuple[Ranges, ...]
    deadline_seconds: float
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Memory is reserved: ``offsets[i]`` is the first arena byte of ``lanes[i]``.

    A producer's lane holds all its units; a consumer's only the wanted ones, packed (`units.position`).
    """

    TYPE: ClassVar[str] = "accepted"
    transfer_id: str
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Sidecar to the producer's scheduler: the consumer asked; only these units will be pulled."""

    TYPE: ClassVar[str] = "wanted"
    transfer_id: str
    want: tuple[Ranges, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Worker side: ``count`` units of a lane from ``first`` on are complete in the arena and will not change.

    ``tokens`` is the prompt position of a state snapshot (then ``count`` is 1); None for attention groups.
    """

    TYPE: ClassVar[str] = "publish"
    transfer_id: str
    lane: int
    first: int
    count: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ProducerDone:
    """Worker side, once per rank: this rank will never write to the transfer's memory again.

    ``complete`` says that everything wanted was published, as opposed to an abort.
    """

    TYPE: ClassVar[str] = "producer_done"
    transfer_id: str
    rank: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Scheduler side of a producer: the request ended before its KV was complete, or will produce none (no
    `Produce` came before it)."""

    TYPE: ClassVar[str] = "abort"
    transfer_id: str
    code: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Sidecar to the consumer's scheduler: units that have landed and passed their check, in *all* lanes of a
    group.

    ``positions[g]`` maps landed snapshot numbers of a state group to prompt positions; empty for attention
    groups. ``landed_bytes`` counts every unit of every lane: the sign of life while a chunk is still short of
    its last layer.
    """

    TYPE: ClassVar[str] = "progress"
    transfer_id: str
    landed: tuple[Ranges, ...]
    positions: tuple[dict[int, int], ...]
    landed_bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Sidecar to the consumer's scheduler: nothing more will land. ``code`` is "complete" or the reason.

    What landed stays valid and in place until `Release`.
    """

    TYPE: ClassVar[str] = "ended"
    transfer_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Release:
    """Scheduler side of a consumer: no worker reads the transfer's memory any more; also cancels what still
    runs.

    ``taken_tokens`` is how many prompt tokens the engine took from it, for the record.
    """

    TYPE: ClassVar[str] = "release"
    transfer_id: str
    taken_tokens: int


Message = (
    Hello
    | Welcome
    | Facts
    | Refused
    | Produce
    | Consume
    | Accepted
    | Wanted
    | Publish
    | ProducerDone
    | Abort
    | Progress
    | Ended
    | Release
)

_TYPES: dict[str, type[Any]] = {
    kind.TYPE: kind
    for kind in (
        Hello, Welcome, Facts, Refused, Produce, Consume, Accepted, Wanted, Publish, ProducerDone, Abort,
        Progress, Ended, Release,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """One message as UTF-8 JSON."""
    body: dict[str, Any] = {"type": message.TYPE}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if (field.name == "server_name" and value is None) or (field.name == "kv_events" and not value):
            continue
        if field.name == "lanes":
            value = [[lane.group, lane.layer, lane.shard, lane.units, lane.unit_bytes] for lane in value]
        elif field.name == "model_files":
            value = [[file.name, file.size_bytes, file.sha256] for file in value]
        body[field.name] = value
    return json.dumps(body, separators=(",", ":")).encode()


def decode(body: bytes | bytearray | memoryview) -> Message:
    """The inverse of `encode`.

    Raises:
        MessageError: not JSON, an unknown type, a missing or unknown field, or a value of the wrong kind.
    """
    try:
        fields = json.loads(bytes(body).decode())
    except (ValueError, RecursionError) as error:
        # Among the value errors: bytes that are not UTF-8, and numbers of thousands of digits.
        raise MessageError("a message is a JSON object in UTF-8") from error
    if not isinstance(fields, dict):
        raise MessageError("a message is a JSON object")
    kind = _TYPES.get(str(fields.pop("type", None)))
    if kind is None:
        raise MessageError("unknown message type")
    try:
        decoded = {name: _DECODERS[_annotation(kind, name)](value) for name, value in fields.items()}
        message: Message = kind(**decoded)
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError(f"{kind.TYPE}: {error}") from error
    return message


def _annotation(kind: type[Any], name: str) -> str:
    annotation = kind.__annotations__.get(name)
    if annotation is None or name == "TYPE":
        raise ValueError(f"unknown field {name!r}")
    return str(annotation)


T = TypeVar("T")


def _exactly(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value


def _non_negative(value: Any) -> int:
    number = _exactly(int, value)
    if not 0 <= number < 1 << 62:
        raise ValueError(f"{number} is out of range")
    return number


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 86_400:
        raise ValueError("seconds must be a number between 0 and 86400")
    return float(value)


def _text(value: Any) -> str:
    text = _exactly(str, value)
    text.encode()  # JSON can escape what no text can be written with: half of a surrogate pair
    return text


def _sequence(value: Any) -> list[Any]:
    return _exactly(list, value)


def _lane(value: Any) -> Lane:
    fields = [_non_negative(part) for part in _sequence(value)]
    if len(fields) != 5 or fields[4] == 0:
        raise ValueError("a lane is [group, layer, shard, units, unit_bytes]")
    return Lane(*fields)


def _model_file(value: Any) -> ModelFile:
    fields = _sequence(value)
    if len(fields) != 3:
        raise ValueError("a model file is [name, bytes, sha256]")
    return ModelFile(_text(fields[0]), _non_negative(fields[1]), _text(fields[2]))


def _ranges(value: Any) -> Ranges:
    ranges = normalise(_sequence(value))
    if ranges:
        _non_negative(ranges[-1][1])
    return ranges


def _group_ranges(value: Any) -> tuple[Ranges, ...]:
    return tuple(_ranges(group) for group in _sequence(value))


def _key(value: str) -> int:
    """JSON has no numbers as keys; one unit must not be written in two ways."""
    number = _non_negative(int(value))
    if str(number) != value:
        raise ValueError("a unit is a decimal number")
    return number


def _positions(value: Any) -> tuple[dict[int, int], ...]:
    return tuple(
        {_key(unit): _non_negative(tokens) for unit, tokens in _exactly(dict, group).items()}
        for group in _sequence(value)
    )


_DECODERS: dict[str, Any] = {
    "int": _non_negative,
    "int | None": lambda value: None if value is None else _non_negative(value),
    "str": _text,
    "str | None": lambda value: None if value is None else _text(value),
    "bool": lambda value: _exactly(bool, value),
    "float": _seconds,
    "dict[str, str]": lambda value: {_text(key): _text(item) for key, item in _exactly(dict, value).items()},
    "tuple[Lane, ...]": lambda value: tuple(_lane(lane) for lane in _sequence(value)),
    "tuple[Ranges, ...]": _group_ranges,
    "tuple[dict[int, int], ...]": _positions,
    "tuple[ModelFile, ...]": lambda value: tuple(_model_file(file) for file in _sequence(value)),
    "tuple[str, ...]": lambda value: tuple(_text(item) for item in _sequence(value)),
    "tuple[int, ...]": lambda value: tuple(_non_negative(item) for item in _sequence(value)),
}
