"""Status of a KVLink: what its destination measured, with conditions that do not flap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason, find, set_conditions
from prfaas.api.v1alpha1 import Condition, ConditionStatus, KVLinkSpec, KVLinkStatus
from prfaas_operator.federation.egress import LinkLedger, share_of

WINDOW_SECONDS = 60.0
WRITE_SECONDS = 60.0
# (becomes so, stops being so): the gap between the two keeps a link at the edge from flapping.
SATURATED_PERCENT = (90.0, 75.0)
LOSSY_PERCENT = (10.0, 4.0)
SLOW_SHARE = (0.25, 0.4)
FAILING_SHARE = (0.2, 0.05)
# With fewer bytes in the window a pace says nothing about the link.
TELLING_BYTES = 16 << 20
DOWN_FAILURES = 3
# What was last seen of a link stands for so long without anything new.
IDLE_SECONDS = 300.0
MOVE_SHARE = 0.1
_MOVE_POINTS = 5.0


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """What came over a link in the last `WINDOW_SECONDS`, from all sidecars.

    Attributes:
        goodput_bits_per_second: of busy time, None without any.
        complete, failed: transfers that ended.
        idle_seconds: since a transfer ended or bytes came, None: never.
    """

    received_bytes: int = 0
    goodput_bits_per_second: float | None = None
    rtt_seconds: float | None = None
    retransmits_percent: float | None = None
    complete: int = 0
    failed: int = 0
    idle_seconds: float | None = None


def status(
    spec: KVLinkSpec,
    before: KVLinkStatus,
    measured: LinkMeasured,
    ledger: LinkLedger,
    *,
    generation: int,
    now: datetime,
    clusters: int = 1,
) -> KVLinkStatus:
    """What the status should be.

    Args:
        before: the stored one; its conditions stand until something else is clear.
        clusters: of the destination's region, which share the budget.
    """
    utilisation = _utilisation_percent(spec, measured)
    findings = (
        _down(before.conditions, measured),
        _congested(spec, before.conditions, measured, utilisation, ledger, clusters),
        _healthy(spec, before.conditions, measured),
    )
    goodput = measured.goodput_bits_per_second
    return KVLinkStatus(
        observed_generation=generation,
        goodput_bits_per_second=before.goodput_bits_per_second if goodput is None else round(goodput),
        rtt_seconds=measured.rtt_seconds,
        retransmits_percent=measured.retransmits_percent,
        utilisation_percent=None if utilisation is None else min(1000, round(utilisation)),
        spent_bytes=ledger.spent_bytes,
        spent_since=ledger.since,
        conditions=set_conditions(before.conditions, findings, generation=generation, now=now),
    )


def is_to_be_written(
    stored: KVLinkStatus, wanted: KVLinkStatus, *, written_seconds_ago: float | None
) -> bool:
    """On another condition or generation, or a move of more than a tenth; at most once a minute."""
    if written_seconds_ago is not None and written_seconds_ago < WRITE_SECONDS:
        return False
    if stored.observed_generation != wanted.observed_generation or _words(stored) != _words(wanted):
        return True
    if stored.spent_since != wanted.spent_since:
        return True
    pairs = (
        (stored.goodput_bits_per_second, wanted.goodput_bits_per_second, 0.0),
        (stored.rtt_seconds, wanted.rtt_seconds, 0.0),
        (stored.spent_bytes, wanted.spent_bytes, 0.0),
        (stored.retransmits_percent, wanted.retransmits_percent, _MOVE_POINTS),
        (stored.utilisation_percent, wanted.utilisation_percent, _MOVE_POINTS),
    )
    return any(_moved(old, new, least) for old, new, least in pairs)


def _moved(old: float | None, new: float | None, least: float) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > max(MOVE_SHARE * abs(old), least)


def _words(stored: KVLinkStatus) -> Iterable[tuple[str, str, str]]:
    return sorted((each.type, str(each.status), each.reason) for each in stored.conditions)


def _utilisation_percent(spec: KVLinkSpec, measured: LinkMeasured) -> float | None:
    capacity = spec.capacity_bits_per_second or measured.goodput_bits_per_second
    if not capacity:
        return None
    return 100 * measured.received_bytes * 8 / WINDOW_SECONDS / capacity


def _down(before: Sequence[Condition], measured: LinkMeasured) -> Finding:
    type_ = ConditionType.DOWN
    was = find(before, type_)
    if measured.complete or measured.received_bytes >= TELLING_BYTES:
        return Finding(type_, ConditionStatus.FALSE, Reason.CARRIES, "KV comes through.")
    if measured.failed >= DOWN_FAILURES:
        text = (
            f"{measured.failed} transfers have failed in the last minute and none came through: prompts stay "
            "local or go elsewhere. Logs of the decode pods' sidecars name hop and remedy (transfer ended)."
        )
        return Finding(type_, ConditionStatus.TRUE, Reason.TRANSFERS_FAIL, text)
    if was is not None and not _is_idle(measured):
        return Finding(type_, was.status, Reason(was.reason), was.message)
    return Finding(type_, ConditionStatus.UNKNOWN, Reason.IDLE, "Nothing was tried in the last five minutes.")


def _congested(
    spec: KVLinkSpec,
    before: Sequence[Condition],
    measured: LinkMeasured,
    utilisation: float | None,
    ledger: LinkLedger,
    clusters: int,
) -> Finding:
    type_ = ConditionType.CONGESTED
    budget = share_of(spec.budget_bytes_per_month, clusters)
    if budget is not None and ledger.spent_bytes >= budget:
        text = (
            f"The month's budget of {budget} bytes{_shared(clusters)} is spent: prompts stay local until "
            "the next month (UTC), or until spec.budgetBytesPerMonth is raised."
        )
        return Finding(type_, ConditionStatus.TRUE, Reason.BUDGET_SPENT, text)
    if not measured.received_bytes:
        return Finding(type_, ConditionStatus.FALSE, Reason.IDLE, "No KV came in the last minute.")
    was = _was(before, type_, Reason.SATURATED)
    if utilisation is not None and utilisation >= SATURATED_PERCENT[was]:
        source = "spec.capacityBitsPerSecond" if spec.capacity_bits_per_second else "what was measured"
        text = f"It carries what it can by {source}: more remote prefill would only wait."
        return Finding(type_, ConditionStatus.TRUE, Reason.SATURATED, text)
    return Finding(type_, ConditionStatus.FALSE, Reason.NOT_SATURATED, "There is room.")


def _shared(clusters: int) -> str:
    return f" (this cluster's part of {clusters})" if clusters > 1 else ""


def without_ledger(before: KVLinkStatus, why: str, *, generation: int, now: datetime) -> KVLinkStatus:
    """The status of a link with a budget of which nobody knows what is left."""
    finding = Finding(
        ConditionType.CONGESTED,
        ConditionStatus.TRUE,
        Reason.BUDGET_UNKNOWN,
        f"{why}. Until then what is spent counts as all of it: prompts stay local.",
    )
    others = [each for each in before.conditions if each.type != finding.type]
    conditions = set_conditions(before.conditions, [finding], generation=generation, now=now)
    told = next(each for each in conditions if each.type == finding.type)
    return before.model_copy(update={"observed_generation": generation, "conditions": (*others, told)})


def _healthy(spec: KVLinkSpec, before: Sequence[Condition], measured: LinkMeasured) -> Finding:
    type_ = ConditionType.HEALTHY
    stored = find(before, type_)
    tried = measured.complete + measured.failed
    if not tried and measured.received_bytes < TELLING_BYTES:
        if stored is not None and not _is_idle(measured):
            return Finding(type_, stored.status, Reason(stored.reason), stored.message)
        return Finding(type_, ConditionStatus.UNKNOWN, Reason.IDLE, "No KV came in the last five minutes.")
    if tried and measured.failed / tried >= FAILING_SHARE[_was(before, type_, Reason.TRANSFERS_FAIL)]:
        text = (
            f"{measured.failed} of {tried} transfers failed in the last minute; logs of the decode pods' "
            "sidecars name hop and remedy (transfer ended)."
        )
        return Finding(type_, ConditionStatus.FALSE, Reason.TRANSFERS_FAIL, text)
    lost = measured.retransmits_percent
    if lost is not None and lost >= LOSSY_PERCENT[_was(before, type_, Reason.LOSSY)]:
        text = (
            "Many segments come out of their order, as with losses on the path. Look at the path; congestion "
            "control bbr at the sending nodes bears it better than cubic (docs/sidecar.md)."
        )
        return Finding(type_, ConditionStatus.FALSE, Reason.LOSSY, text)
    capacity, goodput = spec.capacity_bits_per_second, measured.goodput_bits_per_second
    share = SLOW_SHARE[_was(before, type_, Reason.SLOW)]
    if (
        capacity
        and goodput is not None
        and measured.received_bytes >= TELLING_BYTES
        and goodput < share * capacity
    ):
        text = (
            "Much less comes in than spec.capacityBitsPerSecond says: look at the path and at the nodes' TCP "
            "buffers, or correct the capacity."
        )
        return Finding(type_, ConditionStatus.FALSE, Reason.SLOW, text)
    return Finding(type_, ConditionStatus.TRUE, Reason.MEASURED, "KV comes through at a good pace.")


def _is_idle(measured: LinkMeasured) -> bool:
    return measured.idle_seconds is None or measured.idle_seconds > IDLE_SECONDS


def _was(before: Sequence[Condition], type_: ConditionType, reason: Reason) -> int:
    """Which threshold counts: 1 while the condition stands for this reason, else 0."""
    stored = find(before, type_)
    return int(stored is not None and stored.reason == reason)
