"""Bodies of control frames: what they say, and the bounds of each field."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prfaas_connector.local_api.units import Lane, Ranges, count, normalise, subtract
from prfaas_sidecar.protocol.frames import FrameType, WireError, limit, pack_header

MAX_LANES = 1 << 16
MAX_UNITS = 1 << 24
MAX_UNIT_BYTES = 64 << 20

TransferId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=2048)]
Code = Annotated[str, Field(pattern=r"^[A-Za-z]{1,64}$")]
Number = Annotated[int, Field(ge=0, lt=1 << 32)]
_Unit = Annotated[int, Field(ge=0, le=MAX_UNITS)]
UnitRanges = Annotated[
    tuple[tuple[_Unit, _Unit], ...], Field(max_length=MAX_UNITS), AfterValidator(normalise)
]
LaneFields = tuple[
    Annotated[int, Field(ge=0, lt=MAX_LANES)],
    Annotated[int, Field(ge=0, lt=MAX_LANES)],
    Annotated[int, Field(ge=0, lt=MAX_LANES)],
    _Unit,
    Annotated[int, Field(ge=1, le=MAX_UNIT_BYTES)],
]


class Body(BaseModel):
    """A JSON object with exactly the declared fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    FRAME: ClassVar[FrameType]


class Hello(Body):
    """First frame of a stream, from the consumer. ``channel`` groups the streams of one consumer process."""

    FRAME: ClassVar[FrameType] = FrameType.HELLO
    versions: tuple[Number, Number]
    channel: TransferId
    identity: Text
    fingerprint: Digest
    fingerprint_fields: Annotated[dict[Text, Text], Field(max_length=256)]


class HelloAck(Body):
    """The producer takes the stream. ``fingerprint`` is empty while its engine is not there yet."""

    FRAME: ClassVar[FrameType] = FrameType.HELLO_ACK
    version: Number
    identity: Text
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Open(Body):
    """The consumer asks for units and, by asking, says that it has memory for them.

    ``want`` is per group and the same in every OPEN of a transfer; ``missing`` says for single lanes what
    is still lacking of it, for a pull that resumes an earlier one. ``pull`` numbers grow within a channel.
    """

    FRAME: ClassVar[FrameType] = FrameType.OPEN
    pull: Number
    transfer_id: TransferId
    prompt_digest: Digest
    lanes: Annotated[tuple[LaneFields, ...], Field(max_length=MAX_LANES)]
    want: Annotated[tuple[UnitRanges, ...], Field(max_length=1024)]
    missing: dict[Annotated[int, Field(ge=0, lt=MAX_LANES)], UnitRanges] = {}
    deadline_seconds: Annotated[float, Field(gt=0, lt=86_400)]

    @model_validator(mode="after")
    def _consistent(self) -> Open:
        check_lanes(self.shapes(), self.want)
        for lane, ranges in self.missing.items():
            if lane >= len(self.lanes) or subtract(ranges, self.want[self.lanes[lane][0]]):
                raise ValueError(f"lane {lane} lacks units that were never wanted")
        return self

    def shapes(self) -> tuple[Lane, ...]:
        """Lanes as values of the local API."""
        return tuple(Lane(*fields) for fields in self.lanes)

    def missing_of(self, lane: int) -> Ranges:
        """Units that the consumer lacks in one lane."""
        return self.missing.get(lane, self.want[self.lanes[lane][0]])


def check_lanes(lanes: tuple[Lane, ...], want: tuple[Ranges, ...]) -> None:
    """Whether lanes and wanted ranges fit together.

    Raises:
        ValueError: a group without an entry in ``want``, lanes of one group with unequal units, or ranges
        beyond them.
    """
    if len(lanes) > MAX_LANES:
        raise ValueError(f"{len(lanes)} lanes, at most {MAX_LANES} are possible")
    units: dict[int, int] = {}
    for lane in lanes:
        if lane.units > MAX_UNITS or lane.unit_bytes > MAX_UNIT_BYTES:
            raise ValueError(f"{lane} is over {MAX_UNITS} units or {MAX_UNIT_BYTES} bytes each")
        if max(lane.group, lane.layer, lane.shard) >= MAX_LANES:
            raise ValueError(f"{lane} has a number over {MAX_LANES}")
        if lane.group >= len(want):
            raise ValueError(f"group {lane.group} has no wanted ranges")
        if units.setdefault(lane.group, lane.units) != lane.units:
            raise ValueError(f"lanes of group {lane.group} have unequal numbers of units")
    if len({(lane.group, lane.layer, lane.shard) for lane in lanes}) != len(lanes):
        raise ValueError("two lanes have the same group, layer and shard")
    for group, ranges in enumerate(want):
        if ranges and ranges[-1][1] > units.get(group, 0):
            raise ValueError(f"group {group} has {units.get(group, 0)} units, {ranges[-1][1]} are wanted")


class Opened(Body):
    """The producer knows the transfer and compared identity, fingerprint, digest and lanes: DATA follows."""

    FRAME: ClassVar[FrameType] = FrameType.OPENED
    pull: Number


class Pending(Body):
    """The producer's engine has not announced the transfer yet; the OPEN waits."""

    FRAME: ClassVar[FrameType] = FrameType.PENDING
    pull: Number


class Refused(Body):
    """The pull ends before any DATA. Codes: docs/contracts.md."""

    FRAME: ClassVar[FrameType] = FrameType.REFUSED
    pull: Number
    code: Code
    message: Text


class Again(Body):
    """These units failed their check; send them once more."""

    FRAME: ClassVar[FrameType] = FrameType.AGAIN
    pull: Number
    lane: Number
    first: Number
    count: Annotated[int, Field(ge=1, le=MAX_UNITS)]


class End(Body):
    """Nothing more will be sent for this pull.

    ``code`` is "complete" or the reason; ``missing`` says per group which wanted units will not come
    although the producer is done, since it never had them (skipped state snapshots).
    """

    FRAME: ClassVar[FrameType] = FrameType.END
    pull: Number
    code: Code
    message: Text
    missing: Annotated[tuple[UnitRanges, ...], Field(max_length=1024)] = ()


class Done(Body):
    """The consumer has all that it wanted; the producer may free the transfer."""

    FRAME: ClassVar[FrameType] = FrameType.DONE
    pull: Number


class Cancel(Body):
    """The consumer wants no more; the producer may free the transfer."""

    FRAME: ClassVar[FrameType] = FrameType.CANCEL
    pull: Number
    code: Code


class Ping(Body):
    """Sign of life; answered by a PONG with the same number."""

    FRAME: ClassVar[FrameType] = FrameType.PING
    number: Number


class Pong(Body):
    """Answer to a PING."""

    FRAME: ClassVar[FrameType] = FrameType.PONG
    number: Number


class Goodbye(Body):
    """Last frame of a stream: why it is being closed."""

    FRAME: ClassVar[FrameType] = FrameType.GOODBYE
    code: Code
    message: Text


AnyBody = (
    Hello | HelloAck | Open | Pending | Opened | Refused | Again | End | Done | Cancel | Ping | Pong | Goodbye
)

_BODIES: dict[FrameType, type[Body]] = {
    body.FRAME: body
    for body in (
        Hello, HelloAck, Open, Pending, Opened, Refused, Again, End, Done, Cancel, Ping, Pong, Goodbye,
    )
}  # fmt: skip


def pack(body: Body) -> bytes:
    """A whole control frame.

    Raises:
        ValueError: it is over the limit that the receiver enforces.
    """
    data = body.model_dump_json(exclude_defaults=True).encode()
    if len(data) > limit(body.FRAME):
        raise ValueError(f"{body.FRAME.name} of {len(data)} bytes is over the limit of {limit(body.FRAME)}")
    return pack_header(body.FRAME, len(data)) + data


def unpack(kind: FrameType, data: bytes | bytearray) -> Body:
    """Read the JSON of a control frame.

    Raises:
        WireError: not JSON, or a field is missing, unknown, of the wrong kind or out of bounds.
    """
    try:
        return _BODIES[kind].model_validate_json(bytes(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WireError(f"{kind.name}: {where or 'body'}: {first['msg']}") from None


def units_wanted(lanes: tuple[Lane, ...], want: tuple[Ranges, ...]) -> int:
    """Units over all lanes."""
    return sum(count(want[lane.group]) for lane in lanes)
