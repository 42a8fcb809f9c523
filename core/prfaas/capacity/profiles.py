"""What was measured of a model on a kind of hardware, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import InvalidInputError, require_not_negative, require_positive, require_share
from prfaas.capacity.lengths import Lengths, mean_of

BITS_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class KVSize:
    """S_kv(l): the KV cache of one prompt, as recurrent state plus what grows with its tokens.

    Attributes:
        token_bytes: the part that grows with length, in bytes; blocks of it can be held by the other side
            already.
        state_bytes: recurrent state, the same for every length; always sent whole.
    """

    token_bytes: Curve
    state_bytes: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("state_bytes", self.state_bytes)

    @classmethod
    def per_token(cls, bytes_per_token: float, *, state_bytes: float = 0.0, to_tokens: float) -> KVSize:
        """Affine: state_bytes + bytes_per_token·l, for lengths up to `to_tokens`."""
        require_positive("bytes_per_token", bytes_per_token)
        return cls(Curve.polynomial(0.0, bytes_per_token, to_tokens=to_tokens), state_bytes)

    @classmethod
    def from_points(cls, points: Sequence[tuple[float, float]], *, state_bytes: float = 0.0) -> KVSize:
        """Straight lines through measured (tokens, bytes); `state_bytes` of each is recurrent state.

        Raises:
            InvalidInputError: as of Curve.from_points, or more state than the shortest prompt has bytes.
        """
        if any(size <= state_bytes for _, size in points):
            raise InvalidInputError(
                "state_bytes", f"{state_bytes:g} is not less than every measured size", "give the state alone"
            )
        return cls(
            Curve.from_points([(tokens, size - state_bytes) for tokens, size in points], extrapolates=True),
            state_bytes,
        )

    def at(self, tokens: float) -> float:
        """S_kv(l) in bytes."""
        return self.state_bytes + self.token_bytes.at(tokens)

    def mean(self, lengths: Lengths, from_tokens: float, to_tokens: float) -> float:
        """E[S_kv(L) given from_tokens < L <= to_tokens] in bytes."""
        return self.state_bytes + mean_of(self.token_bytes, lengths, from_tokens, to_tokens)


@dataclass(frozen=True, slots=True)
class Wire:
    """What the transfer makes of the KV's bytes.

    Attributes:
        state_ratio: bytes of state per byte on the wire (a codec's compression ratio, at least 1 when it
            helps).
        token_ratio: the same for the bytes that grow with length.
        held_share: share of a prompt's token bytes that the decode side holds already and need not be sent.
    """

    state_ratio: float = 1.0
    token_ratio: float = 1.0
    held_share: float = 0.0

    def __post_init__(self) -> None:
        require_positive("state_ratio", self.state_ratio)
        require_positive("token_ratio", self.token_ratio)
        require_share("held_share", self.held_share)

    def bytes_of(self, state_bytes: float, token_bytes: float) -> float:
        """Bytes on the wire. State is never sent as a delta."""
        return state_bytes / self.state_ratio + token_bytes * (1 - self.held_share) / self.token_ratio


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """How fast one instance decodes under its latency objective.

    Attributes:
        step_seconds: T_decode, one step of the largest batch.
        batch_max: BS_max, requests of that batch.
        output_tokens: L_out, mean tokens that a request is answered with.
    """

    step_seconds: float
    batch_max: float
    output_tokens: float

    def __post_init__(self) -> None:
        require_positive("step_seconds", self.step_seconds)
        require_positive("batch_max", self.batch_max)
        require_positive("output_tokens", self.output_tokens)

    @property
    def requests_per_second(self) -> float:
        """Of one instance: BS_max / (T_decode · L_out), Eq. 5 with N_d = 1."""
        return self.batch_max / (self.step_seconds * self.output_tokens)
