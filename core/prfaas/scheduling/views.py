"""What the scheduler looks at: prompts, engines, links. It reads these and writes none of them.

Views live as long as what they show, and their owner keeps them up to date: making a hundred values for each
request would cost more than the decision. Times are seconds from now, lengths tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import require_not_negative, require_positive
from prfaas.capacity.profiles import KVSize, Wire

_BITS_PER_BYTE = 8


class CompiledCurve:
    """A `Curve` for the request path: a few times faster, and an answer for every length.

    Beyond its profile a curve goes on along its last slope, which is too little for a convex one: in the path
    of a request a poor guess is better than an error. Below its shortest length its first value holds.
    """

    __slots__ = ("_coefficients", "_ends", "_last", "_shortest")

    def __init__(self, curve: Curve) -> None:
        segments = curve.segments
        self._ends = [segment.to_tokens for segment in segments]
        self._coefficients = [(each.constant, each.linear, each.quadratic) for each in segments]
        end, slope = curve.to_tokens, segments[-1].slope_at(curve.to_tokens)
        self._last = (segments[-1].at(end) - slope * end, slope, 0.0)
        self._shortest = curve.from_tokens

    def points(self) -> list[tuple[float, float]]:
        """(tokens, value) at the ends of its pieces."""
        ends = [self._shortest, *(end for end in self._ends if end > self._shortest)]
        return [(end, self.at(end)) for end in ends]

    def at(self, tokens: float) -> float:
        """The value at a length; 0 at no tokens at all."""
        if tokens <= 0:
            return 0.0
        if tokens < self._shortest:
            tokens = self._shortest
        index = bisect_left(self._ends, tokens)
        constant, linear, quadratic = (
            self._coefficients[index] if index < len(self._coefficients) else self._last
        )
        return constant + tokens * (linear + tokens * quadratic)


class WireSize:
    """Bytes that cross a link for a prompt, by its length and what the decode side holds of it."""

    __slots__ = ("_state_bytes", "_token_bytes", "_token_ratio")

    def __init__(self, kv: KVSize, wire: Wire = Wire()) -> None:  # noqa: B008 (a frozen value)
        self._state_bytes = kv.state_bytes / wire.state_ratio
        self._token_bytes = CompiledCurve(kv.token_bytes)
        self._token_ratio = wire.token_ratio

    def bytes_of(self, tokens: int, held_tokens: int) -> float:
        """Recurrent state whole, and the tokens that are not held."""
        at = self._token_bytes.at
        return self._state_bytes + max(0.0, at(tokens) - at(held_tokens)) / self._token_ratio


@dataclass(slots=True, eq=False)
class Link:
    """A directed path of KV between two clusters, as last measured.

    Attributes:
        free_bits_per_second: what one more transfer would get.
        planned_bits_per_second: what the plan counted on; None when nobody planned, and then what is free.
        backlog_seconds: how long what is under way already will keep the link busy.
        scarce, threshold_factor: the link's regime, see `regime`.
    """

    source_cluster: str
    target_cluster: str
    free_bits_per_second: float
    backlog_seconds: float = 0.0
    rtt_seconds: float = 0.0
    scarce: bool = False
    threshold_factor: float = 1.0
    planned_bits_per_second: float | None = None

    def __post_init__(self) -> None:
        require_positive("free_bits_per_second", self.free_bits_per_second)
        require_not_negative("backlog_seconds", self.backlog_seconds)
        require_not_negative("rtt_seconds", self.rtt_seconds)

    def seconds_for(self, size_bytes: float) -> float:
        """How long a transfer takes once it is its turn, the round trip left out."""
        return size_bytes * _BITS_PER_BYTE / self.free_bits_per_second


@dataclass(slots=True, eq=False)
class Producer:
    """A prefill engine, or a pool of them that share a queue.

    Attributes:
        slot: its number in the prefix index.
        prefill: T_prefill of uncached tokens; None while nothing is known.
        queued_tokens: uncached tokens that wait or are being computed there.
        queue_seconds: how long a prompt that comes now waits for its turn.
        most_queued_tokens: with more than this no prompt is sent there, unless the queue is empty.
        link: from there to the decode side; None where the network never binds.
    """

    name: str
    slot: int
    cluster: str = ""
    region: str = ""
    prefill: CompiledCurve | None = None
    queued_tokens: int = 0
    queue_seconds: float = 0.0
    most_queued_tokens: int = 1_000_000
    link: Link | None = None


@dataclass(slots=True, eq=False)
class DecodeSide:
    """The decode engine that will answer.

    Attributes:
        prefill: how long it takes itself for uncached tokens; None while nothing is known.
        queue_seconds: how long a prompt waits there before it is computed.
    """

    cached_tokens: int
    prefill: CompiledCurve | None = None
    queue_seconds: float = 0.0
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """A prompt to be placed.

    Attributes:
        deadline_seconds: until its first token has to be there; None when nobody said.
    """

    tokens: int
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a route.

    Attributes:
        threshold_tokens: t, from the plan or as it was fixed.
        adaptive: whether queues and links may move single requests across t. A fixed threshold is kept.
        wire: None while the size of KV is not known; then links count with their backlog and round trip.
        margin: a congested side is left when the other would be done in less than 1 / (1 + margin) of its
            time.
        slack_seconds: less congestion than this moves nothing.
        copies_to_decode: whether a cached prefix can be copied to the decode side without a prefill leg.
    """

    threshold_tokens: float
    adaptive: bool = True
    wire: WireSize | None = None
    margin: float = 0.25
    slack_seconds: float = 0.25
    copies_to_decode: bool = False
