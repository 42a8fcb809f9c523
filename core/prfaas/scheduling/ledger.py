"""The counterfactual ledger: what was done, and what the other choice would have been worth, with error bars.

Sums only, so that tallies of several gateways and hours add up exactly. Nothing of a request but lengths and
times goes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from prfaas.capacity.lengths import SKETCH_BINS_PER_OCTAVE, SKETCH_OCTAVES, LengthSketch

DAY_SECONDS = 86_400.0
_Z = 1.96
_FEWEST_TO_JUDGE = 20
_UNJUDGED_ERROR = 0.5
"""Relative error of a prediction that has not been compared with anything yet."""
_BINS = SKETCH_BINS_PER_OCTAVE * SKETCH_OCTAVES + 1


@dataclass(slots=True)
class Moments:
    """Of some numbers: how many, their sum, and the sum of their squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Count a number."""
        self.count += 1
        self.total += value
        self.squares += value * value

    def take_in(self, other: Moments) -> None:
        """Count all that another has counted."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def mean(self) -> float:
        """0 of nothing."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of the sample; 0 of fewer than two."""
        if self.count < 2:
            return 0.0
        return max(0.0, (self.squares - self.total * self.total / self.count) / (self.count - 1))

    @property
    def variance_of_mean(self) -> float:
        """How far the mean may be off, squared; infinite for fewer than two."""
        return self.variance / self.count if self.count >= 2 else math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, when its first token has come.

    Attributes:
        uncached_tokens: what its decode engine did not hold.
        worth_it: whether the decision, without the mode's restraint, was remote.
        remote: whether it was prefilled remotely.
        local_seconds, remote_seconds: predicted when it was decided; None while unknown.
        local_compute_seconds, remote_compute_seconds: the part of these that keeps an engine busy.
        first_token_seconds: measured; None when it could not be (no stream, no answer).
        late: whether it missed its objective; None without one.
    """

    uncached_tokens: int
    worth_it: bool
    remote: bool
    local_seconds: float | None = None
    remote_seconds: float | None = None
    local_compute_seconds: float | None = None
    remote_compute_seconds: float | None = None
    first_token_seconds: float | None = None
    late: bool | None = None


@dataclass(slots=True)
class Tally:
    """What has been counted of a route.

    Attributes:
        lengths: requests by bin of their uncached length, as `LengthSketch` has them.
        gain: predicted seconds to the first token, local minus remote, of requests worth it.
        local, remote: the two predictions.
        freed, spent: seconds of prefill that a remote request takes from the decode engine, and costs there.
        local_error, remote_error: log of measured over predicted, of what was done so.
        treated, control: measured seconds by octave of length, of requests worth it: prefilled remotely, and
            held back by Canary.
    """

    seconds: float = 0.0
    requests: float = 0.0
    worth_it: float = 0.0
    done_remotely: float = 0.0
    late_remote: float = 0.0
    judged_remote: float = 0.0
    lengths: dict[int, float] = field(default_factory=dict)
    gain: Moments = field(default_factory=Moments)
    local: Moments = field(default_factory=Moments)
    remote: Moments = field(default_factory=Moments)
    freed: Moments = field(default_factory=Moments)
    spent: Moments = field(default_factory=Moments)
    local_error: Moments = field(default_factory=Moments)
    remote_error: Moments = field(default_factory=Moments)
    treated: dict[int, Moments] = field(default_factory=dict)
    control: dict[int, Moments] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        """Add a request."""
        self.requests += 1
        bin_ = length_bin(outcome.uncached_tokens)
        self.lengths[bin_] = self.lengths.get(bin_, 0.0) + 1
        measured = outcome.first_token_seconds
        if measured is not None and measured > 0:
            self._compare(outcome, measured)
        if outcome.remote:
            self.done_remotely += 1
            if outcome.late is not None:
                self.judged_remote += 1
                self.late_remote += outcome.late
        if not outcome.worth_it:
            return
        self.worth_it += 1
        if outcome.local_compute_seconds is not None:
            self.freed.add(outcome.local_compute_seconds)
        if outcome.remote_compute_seconds is not None:
            self.spent.add(outcome.remote_compute_seconds)
        if outcome.local_seconds is not None and outcome.remote_seconds is not None:
            self.gain.add(outcome.local_seconds - outcome.remote_seconds)
            self.local.add(outcome.local_seconds)
            self.remote.add(outcome.remote_seconds)

    def _compare(self, outcome: Outcome, measured: float) -> None:
        predicted = outcome.remote_seconds if outcome.remote else outcome.local_seconds
        if predicted is not None and predicted > 0:
            error = self.remote_error if outcome.remote else self.local_error
            error.add(math.log(measured) - math.log(predicted))
        if outcome.worth_it:
            arm = self.treated if outcome.remote else self.control
            octave = max(1, outcome.uncached_tokens).bit_length()
            arm.setdefault(octave, Moments()).add(measured)

    def take_in(self, other: Tally) -> None:
        """Add all that another has counted, time included."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Moments):
                mine.take_in(theirs)
            elif each.name == "lengths":
                for bin_, count in theirs.items():
                    mine[bin_] = mine.get(bin_, 0.0) + count
            elif isinstance(mine, dict):
                for octave, moments in theirs.items():
                    mine.setdefault(octave, Moments()).take_in(moments)
            else:
                setattr(self, each.name, mine + theirs)

    def length_sketch(self) -> LengthSketch | None:
        """The lengths as the planner takes them; None while nothing was counted."""
        if not self.lengths:
            return None
        counts = [0.0] * _BINS
        for bin_, count in self.lengths.items():
            counts[bin_] = count
        return LengthSketch(tuple(counts))

    def to_document(self) -> dict[str, Any]:
        """As JSON values."""
        document: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Moments):
                document[each.name] = _list(value)
            elif each.name == "lengths":
                document[each.name] = {str(bin_): count for bin_, count in value.items()}
            elif isinstance(value, dict):
                document[each.name] = {str(key): _list(moments) for key, moments in value.items()}
            else:
                document[each.name] = value
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `to_document` of this or a newer version made.

        Raises:
            ValueError: names the field that is wrong.
        """
        tally = cls()
        for each in fields(cls):
            value, default = document.get(each.name), getattr(tally, each.name)
            if value is None:
                continue
            try:
                if isinstance(default, Moments):
                    setattr(tally, each.name, _moments(value))
                elif each.name == "lengths":
                    tally.lengths = {_bin(bin_): _number(count) for bin_, count in value.items()}
                elif isinstance(default, dict):
                    setattr(tally, each.name, {int(key): _moments(one) for key, one in value.items()})
                else:
                    setattr(tally, each.name, _number(value))
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{each.name}: not as a tally has it") from error
        return tally


@dataclass(frozen=True, slots=True)
class WithError:
    """A number and half of its 95 % interval."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a tally says.

    Attributes:
        remote_share: of all requests, that are worth prefilling remotely.
        gain_seconds: predicted mean time to first token that they would gain; None while nothing is known of
            one side.
        freed_seconds_per_day: of prefill, taken from the decode engines.
        spent_seconds_per_day: of prefill, elsewhere.
        measured_gain_seconds: held-out control minus treated, matched by length; None without both.
        measured_requests: how many treated requests that compares.
    """

    requests_per_second: float
    remote_share: float
    gain_seconds: WithError | None
    freed_seconds_per_day: WithError | None
    spent_seconds_per_day: WithError | None
    measured_gain_seconds: WithError | None
    measured_requests: int


def estimate(tally: Tally) -> Estimate:
    """Values and error bars of what was counted in `tally.seconds`.

    The bars join how much the requests scatter with how far predictions have been off: a prediction that was
    compared with fewer than 20 measurements counts as off by half.
    """
    days = tally.seconds / DAY_SECONDS
    per_day = 1 / days if days > 0 else 0.0
    local_off, remote_off = _off_by(tally.local_error), _off_by(tally.remote_error)
    gain = None
    if tally.gain.count:
        sampling = tally.gain.variance_of_mean if tally.gain.count >= 2 else tally.gain.mean**2
        error = math.sqrt(
            _Z * _Z * sampling + (local_off * tally.local.mean) ** 2 + (remote_off * tally.remote.mean) ** 2
        )
        gain = WithError(tally.gain.mean, error)
    measured, count = _matched(tally)
    return Estimate(
        requests_per_second=tally.requests / tally.seconds if tally.seconds > 0 else 0.0,
        remote_share=tally.worth_it / tally.requests if tally.requests else 0.0,
        gain_seconds=gain,
        freed_seconds_per_day=_per_day(tally.freed, per_day, local_off),
        spent_seconds_per_day=_per_day(tally.spent, per_day, remote_off),
        measured_gain_seconds=measured,
        measured_requests=count,
    )


def length_bin(tokens: int) -> int:
    """The bin of a length in `LengthSketch`; out of range is the nearest."""
    bounded = min(max(tokens, 1), 2**SKETCH_OCTAVES)
    return math.ceil(round(math.log2(bounded) * SKETCH_BINS_PER_OCTAVE, 9))


def merged(tallies: Iterable[Tally]) -> Tally:
    """All together, as one after another: seconds add up."""
    whole = Tally()
    for tally in tallies:
        whole.take_in(tally)
    return whole


def _off_by(error: Moments) -> float:
    if error.count < _FEWEST_TO_JUDGE:
        return _UNJUDGED_ERROR
    return abs(math.expm1(abs(error.mean) + _Z * math.sqrt(error.variance_of_mean)))


def _per_day(moments: Moments, per_day: float, off_by: float) -> WithError | None:
    if not moments.count or not per_day:
        return None
    # A sum over arrivals that come by chance: its variance is the sum of squares.
    value = moments.total * per_day
    return WithError(value, math.sqrt(_Z * _Z * moments.squares * per_day**2 + (off_by * value) ** 2))


def _matched(tally: Tally) -> tuple[WithError | None, int]:
    """Control minus treated over octaves that have both, weighed by what was treated."""
    shared = [
        (tally.treated[octave], tally.control[octave])
        for octave in sorted(tally.treated.keys() & tally.control.keys())
        if tally.treated[octave].count >= 2 and tally.control[octave].count >= 2
    ]
    treated = sum(one.count for one, _ in shared)
    if not shared:
        return None, 0
    value = sum(one.count / treated * (other.mean - one.mean) for one, other in shared)
    variance = sum(
        (one.count / treated) ** 2 * (one.variance_of_mean + other.variance_of_mean) for one, other in shared
    )
    return WithError(value, _Z * math.sqrt(variance)), int(treated)


def _list(moments: Moments) -> list[float]:
    return [moments.count, moments.total, moments.squares]


def _moments(value: Any) -> Moments:
    count, total, squares = map(_number, value)
    if count < 0 or squares < 0:
        raise ValueError
    return Moments(count, total, squares)


def _bin(text: Any) -> int:
    bin_ = int(text)
    if not 0 <= bin_ < _BINS:
        raise ValueError
    return bin_


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)
