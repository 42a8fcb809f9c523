"""Whether a link's bandwidth is scarce or abundant, with hysteresis, and by how much t is raised meanwhile.

The paper names two branches and leaves open when to change between them. Here:

- Scarce from a utilisation of 0.8 on. That is what plans may use of a link (`utilisationMax` of the planner):
  above it the moment is no longer the plan. Shared fairly, a transfer then takes 1 / (1 - 0.8), five times
  its time alone. A backlog of more than a second, or loss of packets, says the same before utilisation does.
- Abundant again from 0.6 down. The band of 0.2 has to be wider than what one change moves: turning scarce
  takes away copies and short prompts with a cached prefix, turning abundant brings them back. If that moved
  utilisation by more than the band, the regime would swing at the pace of its dwell times, and no faster:
- Scarce after 2 s above the band, abundant after 30 s below it. Being late into scarcity costs every request
  that is sent; being late out of it costs only what an idle link could have carried. Thirty seconds are more
  than the longest transfer of a plan takes, so a change's own effect has been measured before the next one.

While a link stays above 0.9 its t is raised by a quarter every 10 s, up to four times the plan's: what is
kept back first is the shortest of what was sent, which has the most bytes per second of prefill saved. Below
0.8 it decays by a tenth every 10 s. With the paper's lengths a quarter more t takes away 5 % of the bytes at
t = 10K, 11 % at 19.4K and 22 % at 40K: about the width of the band at most. The next plan replaces all this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prfaas.capacity.errors import InvalidInputError, require_positive


@dataclass(frozen=True, slots=True)
class RegimeRule:
    """Where the borders lie. Utilisation is a share of what the link can carry.

    Attributes:
        stale_seconds: a measurement older than this says nothing: the link counts as scarce, and its t stays.
    """

    scarce_from: float = 0.8
    abundant_to: float = 0.6
    backlog_seconds: float = 1.0
    loss_share: float = 0.01
    enter_seconds: float = 2.0
    leave_seconds: float = 30.0
    raise_from: float = 0.9
    raise_by: float = 1.25
    decay_by: float = 0.9
    adjust_seconds: float = 10.0
    most_factor: float = 4.0
    stale_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.abundant_to < self.scarce_from <= self.raise_from:
            raise InvalidInputError(
                "abundant_to",
                f"{self.abundant_to:g}, {self.scarce_from:g} and {self.raise_from:g} do not ascend",
                "give 0 < abundant_to < scarce_from <= raise_from",
            )
        for name in ("enter_seconds", "leave_seconds", "adjust_seconds", "stale_seconds"):
            require_positive(name, getattr(self, name))
        if not (self.raise_by > 1 > self.decay_by > 0 and self.most_factor >= 1):
            raise InvalidInputError(
                "raise_by", "does not raise, or decay_by does not lower", "give raise_by > 1 > decay_by > 0"
            )


DEFAULT_RULE = RegimeRule()


@dataclass(frozen=True, slots=True)
class LinkSample:
    """A measurement of a link.

    Attributes:
        utilisation: share of what it can carry, 0 for an idle link; above 1 when more is asked than it can.
        backlog_seconds: how long what waits would take.
        loss_share: share of packets that were sent again.
        age_seconds: since it was measured.
    """

    utilisation: float
    backlog_seconds: float = 0.0
    loss_share: float = 0.0
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Regime:
    """What a link is taken for. Times are those of the caller's clock.

    Attributes:
        threshold_factor: what t is multiplied with.
        crossing_since: since when measurements have been on the other side of the band; None: they are not.
        adjusted_at: when the factor moved last.
        changes: how often it has changed; for metrics.
    """

    scarce: bool = False
    threshold_factor: float = 1.0
    crossing_since: float | None = None
    adjusted_at: float | None = None
    changes: int = 0


def advance(regime: Regime, sample: LinkSample | None, now: float, rule: RegimeRule = DEFAULT_RULE) -> Regime:
    """The regime after a measurement. None or an old one: bandwidth that nobody knows counts as scarce."""
    if sample is None or not sample.utilisation >= 0 or sample.age_seconds > rule.stale_seconds:
        crossing = regime.crossing_since if not regime.scarce else None
        return _crossed(regime, crossing, not regime.scarce, now, rule)
    hot = (
        sample.utilisation >= rule.scarce_from
        or sample.backlog_seconds > rule.backlog_seconds
        or sample.loss_share > rule.loss_share
    )
    cold = sample.utilisation <= rule.abundant_to and not hot
    outside = cold if regime.scarce else hot
    return _adjusted(_crossed(regime, regime.crossing_since, outside, now, rule), sample, now, rule)


def _crossed(regime: Regime, since: float | None, outside: bool, now: float, rule: RegimeRule) -> Regime:
    if not outside:
        return replace(regime, crossing_since=None)
    since = now if since is None else since
    dwell = rule.leave_seconds if regime.scarce else rule.enter_seconds
    if now - since < dwell:
        return replace(regime, crossing_since=since)
    return replace(regime, scarce=not regime.scarce, crossing_since=None, changes=regime.changes + 1)


def _adjusted(regime: Regime, sample: LinkSample, now: float, rule: RegimeRule) -> Regime:
    if regime.adjusted_at is not None and now - regime.adjusted_at < rule.adjust_seconds:
        return regime
    factor = regime.threshold_factor
    if regime.scarce and (
        sample.utilisation >= rule.raise_from or sample.backlog_seconds > rule.backlog_seconds
    ):
        factor = min(rule.most_factor, factor * rule.raise_by)
    elif sample.utilisation < rule.scarce_from and sample.backlog_seconds <= rule.backlog_seconds:
        factor = max(1.0, factor * rule.decay_by)
    if factor == regime.threshold_factor:
        return regime
    return replace(regime, threshold_factor=factor, adjusted_at=now)
