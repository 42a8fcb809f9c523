"""What a route comes to: its pools, which of them can exchange KV, and what the gateways are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import (
    ConditionStatus,
    EffectiveMode,
    LocalOnlyStatus,
    PairStatus,
    PrefillRouteSpec,
    RouteMode,
    ThresholdMode,
)
from prfaas_operator.planning.fingerprints import difference
from prfaas_operator.planning.overrides import BadOverride, local_only_of
from prfaas_operator.planning.partner import keys_of_route
from prfaas_operator.planning.values import ObservedRoute, PoolKey, RoutedPool, RouteKey

AUTO_THRESHOLD_TOKENS = 4096
"""What `threshold.mode: Auto` means while nothing has been measured."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for a route's requests now.

    Attributes:
        adaptive: whether gateways may move single requests across the threshold: with one that prfaas chose.
        ttft_seconds: the objective for the time to the first token, if there is one.
        bad_annotation: what is wrong with the annotation `prfaas.io/local-only`; it is as if it were not
            there.
    """

    mode: RouteMode
    canary_percent: int
    threshold_tokens: int
    local_only: LocalOnlyStatus | None = None
    bad_annotation: str = ""
    adaptive: bool = False
    ttft_seconds: float | None = None

    @property
    def effective_mode(self) -> EffectiveMode:
        return EffectiveMode.LOCAL_ONLY if self.local_only is not None else EffectiveMode(self.mode.value)


def policy_of(
    spec: PrefillRouteSpec,
    annotations: Mapping[str, str],
    now: datetime,
    planned_tokens: int | None = None,
) -> Policy:
    """Mode, share and threshold in force; `planned_tokens` is what Auto means, once there is a plan."""
    fixed = spec.threshold.tokens if spec.threshold.mode is ThresholdMode.FIXED else None
    auto = AUTO_THRESHOLD_TOKENS if planned_tokens is None else planned_tokens
    threshold = auto if fixed is None else fixed
    adaptive = fixed is None
    ttft_seconds = spec.slo.ttft_seconds if spec.slo is not None else None
    percent = spec.canary.percent if spec.mode is RouteMode.CANARY and spec.canary is not None else 0
    override = local_only_of(annotations, now)
    if isinstance(override, BadOverride):
        return Policy(spec.mode, percent, threshold, None, override.message, adaptive, ttft_seconds)
    local_only = LocalOnlyStatus(until=override.until) if override is not None else None
    return Policy(spec.mode, percent, threshold, local_only, "", adaptive, ttft_seconds)


@dataclass(frozen=True, slots=True)
class Claim:
    """A route that names a decode pool."""

    key: RouteKey
    decode_pool: PoolKey
    created_at: datetime


def first_claims(claims: Iterable[Claim]) -> Mapping[PoolKey, RouteKey]:
    """The route that counts for each decode pool: the oldest, and of equally old ones the first by name."""
    first: dict[PoolKey, Claim] = {}
    for claim in claims:
        known = first.get(claim.decode_pool)
        if known is None or (claim.created_at, claim.key) < (known.created_at, known.key):
            first[claim.decode_pool] = claim
    return {pool: claim.key for pool, claim in first.items()}


def resolve(route: ObservedRoute, spec: PrefillRouteSpec) -> Finding:
    """ResolvedRefs of a route. It works with the prefill pools that are there, and says which are not."""
    type_ = ConditionType.RESOLVED_REFS
    decode, prefill = keys_of_route(route.key.namespace, spec)
    if decode not in route.pools:
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.DECODE_POOL_NOT_FOUND,
            f"DecodePool {decode.name} is not there (spec.decodePoolRef.name): create it in namespace "
            f"{decode.namespace}, or correct the name.",
        )
    unknown = sorted({cluster for pool in route.pools.values() for cluster in pool.unknown})
    missing = [key.name for key in prefill if key not in route.pools]
    if missing:
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.PREFILL_POOL_NOT_FOUND,
            f"PrefillPool {', '.join(missing)} is not there (spec.prefillPoolRefs): create it in namespace "
            f"{decode.namespace}, or correct the name. The others are used.",
        )
    if unknown:
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.UNKNOWN_CLUSTER,
            f"No Region has cluster {', '.join(unknown)}, which a pool of this route is placed in "
            "(spec.placement.clusters): create the Region, or correct the name. The others are used.",
        )
    return Finding(type_, ConditionStatus.TRUE, Reason.RESOLVED, "All pools are there.")


def accept(route: ObservedRoute, spec: PrefillRouteSpec, policy: Policy) -> Finding:
    """Accepted of a route."""
    type_ = ConditionType.ACCEPTED
    if route.decode_pool_taken_by is not None:
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.ROUTE_CONFLICT,
            f"{route.decode_pool_taken_by} is older and about the same DecodePool "
            f"{spec.decode_pool_ref.name}; it counts and this one does not: delete one of the two.",
        )
    decode_key, prefill = keys_of_route(route.key.namespace, spec)
    decode = route.pools.get(decode_key)
    for key in prefill:
        pool = route.pools.get(key)
        if decode is None or pool is None or None in (decode.model, pool.model) or decode.model == pool.model:
            continue
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.MODEL_MISMATCH,
            f"DecodePool {decode_key.name} serves {decode.model} and PrefillPool {key.name} serves "
            f"{pool.model} (spec.model.name): a route joins pools of one model.",
        )
    if policy.bad_annotation:
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.ANNOTATION_INVALID,
            f"{policy.bad_annotation}. It is ignored.",
        )
    return Finding(type_, ConditionStatus.TRUE, Reason.ACCEPTED, "The route makes sense and is carried out.")


def pairs_of(route: ObservedRoute, spec: PrefillRouteSpec) -> tuple[PairStatus, ...]:
    """The decode pool with each prefill pool, in the order of the spec."""
    decode_key, prefill = keys_of_route(route.key.namespace, spec)
    decode = route.pools.get(decode_key)
    return tuple(_pair(key, decode, route.pools.get(key)) for key in prefill)


def _pair(key: PoolKey, decode: RoutedPool | None, prefill: RoutedPool | None) -> PairStatus:
    if prefill is None:
        return PairStatus(prefill_pool=key.name, reason=str(Reason.PREFILL_POOL_NOT_FOUND))
    if decode is None:
        return PairStatus(prefill_pool=key.name, reason=str(Reason.DECODE_POOL_NOT_FOUND))
    if None not in (decode.model, prefill.model) and decode.model != prefill.model:
        return PairStatus(
            prefill_pool=key.name, compatible=ConditionStatus.FALSE, reason=str(Reason.MODEL_MISMATCH)
        )
    if not prefill.here:
        return PairStatus(prefill_pool=key.name, reason=str(Reason.PLACED_ELSEWHERE))
    if not decode.fingerprints or not prefill.fingerprints:
        return PairStatus(prefill_pool=key.name, reason=str(Reason.FINGERPRINT_UNKNOWN))
    common = decode.fingerprints.keys() & prefill.fingerprints.keys()
    if not common:
        return PairStatus(
            prefill_pool=key.name,
            compatible=ConditionStatus.FALSE,
            reason=str(Reason.FINGERPRINT_MISMATCH),
            prefill_engines=prefill.ready_pods,
            decode_engines=decode.ready_pods,
        )
    return PairStatus(
        prefill_pool=key.name,
        compatible=ConditionStatus.TRUE,
        ready_prefill=sum(prefill.fingerprints[each] for each in common),
        ready_decode=sum(decode.fingerprints[each] for each in common),
        prefill_engines=prefill.ready_pods,
        decode_engines=decode.ready_pods,
    )


def kv_compatible(route: ObservedRoute, spec: PrefillRouteSpec, pairs: tuple[PairStatus, ...]) -> Finding:
    """KVCompatible of a route: False when any pair is known to differ, and the message names both pools."""
    type_ = ConditionType.KV_COMPATIBLE
    decode_key, prefill = keys_of_route(route.key.namespace, spec)
    decode = route.pools.get(decode_key)
    for key, pair in zip(prefill, pairs, strict=True):
        if pair.reason == Reason.FINGERPRINT_MISMATCH and decode is not None:
            differs = _difference(decode, route.pools[key])
            return Finding(
                type_,
                ConditionStatus.FALSE,
                Reason.FINGERPRINT_MISMATCH,
                f"KV of PrefillPool {key.name} ({_short(route.pools[key])}) means nothing to DecodePool "
                f"{decode_key.name} ({_short(decode)}){differs}. Prompts of this pair are prefilled locally: "
                "give both pools the same model, revision, dtype, block size and engine version.",
            )
    if any(pair.compatible is ConditionStatus.TRUE for pair in pairs):
        return Finding(
            type_,
            ConditionStatus.TRUE,
            Reason.FINGERPRINTS_AGREE,
            "The engines' KV means the same to both sides.",
        )
    return Finding(
        type_,
        ConditionStatus.UNKNOWN,
        Reason.FINGERPRINT_UNKNOWN,
        "Not both sides have a ready engine that has told its KV.",
    )


def _short(pool: RoutedPool) -> str:
    return ", ".join(f"{each[:12]}…" for each in sorted(pool.fingerprints))


def _difference(decode: RoutedPool, prefill: RoutedPool) -> str:
    mine, theirs = decode.fingerprint_fields or {}, prefill.fingerprint_fields or {}
    return difference(
        theirs[min(theirs)] if theirs else None,
        mine[min(mine)] if mine else None,
        one_has=f"in {prefill.key.name}",
        other_has=f"in {decode.key.name}",
    )


@dataclass(frozen=True, slots=True)
class ClosedLinks:
    """Links into a region over which nothing new may come: why, by the other end."""

    destination: str = ""
    by_source: Mapping[str, str] = field(default_factory=dict)

    def text(self, regions: Iterable[str]) -> str:
        """Which of the links from these regions, why, and what helps."""
        named = [f"{each}-{self.destination} ({self.by_source[each]})" for each in regions]
        return f"nothing more may come over KVLink {', '.join(named)}, whose condition Congested says more"


NO_CLOSED_LINKS = ClosedLinks()


def ready(
    policy: Policy,
    accepted: Finding,
    resolved: Finding,
    compatible: Finding,
    pairs: tuple[PairStatus, ...],
    elsewhere: tuple[str, ...] = (),
    links: ClosedLinks = NO_CLOSED_LINKS,
) -> Finding:
    """Ready of a route: what it asks for can be done now.

    Args:
        elsewhere: other regions that may prefill for it. Whether they do now, the gateways know: no trouble
            of a region makes a route of another one unready.
        links: those that are closed here; what could only come over them stays local.
    """
    type_ = ConditionType.READY
    for finding in (accepted, resolved):
        fatal = finding.reason not in (
            Reason.ANNOTATION_INVALID,
            Reason.PREFILL_POOL_NOT_FOUND,
            Reason.UNKNOWN_CLUSTER,
        )
        if finding.status is ConditionStatus.FALSE and fatal:
            return Finding(type_, ConditionStatus.FALSE, finding.reason, finding.message)
    if policy.local_only is not None:
        until = f"{policy.local_only.until:%Y-%m-%dT%H:%M:%SZ}"
        return Finding(type_, ConditionStatus.TRUE, Reason.LOCAL_ONLY, f"All prefill is local until {until}.")
    closed = tuple(each for each in elsewhere if each in links.by_source)
    elsewhere = tuple(each for each in elsewhere if each not in links.by_source)
    if not elsewhere and not any(pair.ready_prefill and pair.ready_decode for pair in pairs):
        if closed:
            text = f"All prefill is local: {links.text(closed)}."
            return Finding(type_, ConditionStatus.FALSE, Reason(links.by_source[closed[0]]), text)
        mismatch = compatible.reason is Reason.FINGERPRINT_MISMATCH
        why = compatible.message if mismatch else "No pair of ready engines: all prefill is local."
        reason = Reason.FINGERPRINT_MISMATCH if mismatch else Reason.NO_READY_PAIR
        return Finding(type_, ConditionStatus.FALSE, reason, why)
    if policy.mode is RouteMode.OBSERVE:
        text = (
            "Decisions are recorded, all prefill is local: set spec.mode to Canary or Enforce to act on them."
        )
        return Finding(type_, ConditionStatus.TRUE, Reason.OBSERVING, text)
    limit = f"prompts of more than {policy.threshold_tokens} uncached tokens"
    where = f", in {', '.join(elsewhere)} too" if elsewhere else ""
    if closed:
        where += f"; {links.text(closed)}"
    if policy.mode is RouteMode.CANARY:
        text = f"{policy.canary_percent} % of the {limit} are prefilled remotely{where}."
        return Finding(type_, ConditionStatus.TRUE, Reason.CANARY, text)
    return Finding(
        type_, ConditionStatus.TRUE, Reason.ENFORCING, f"{limit.capitalize()} are prefilled remotely{where}."
    )
