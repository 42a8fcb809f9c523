"""Figures of the benchmark, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

TARGET_CONVERGED_SECONDS = 60.0
TARGET_STEADY_PERCENT = 2.0
TARGET_MEMORY_MIB = 200.0
TARGET_P95_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Start:
    """A start of an operator.

    Attributes:
        created_seconds: from the process's start until the last Deployment was there.
        converged_seconds: until the last pod was ready and the last status written; None where nothing tells.
        quiet_seconds: until the operator had nothing to do.
        cpu_seconds: processor time of the operator until then.
        cluster_cpu_seconds: that of API server, etcd, controller manager, scheduler and kwok in that time.
        pss_mib, peak_rss_mib: its memory then, and the most of it that was resident.
        writes: at the API server, Leases and dry runs left out.
        passes: over objects of the fleet, by kind and result.
    """

    created_seconds: float | None
    converged_seconds: float | None
    quiet_seconds: float
    cpu_seconds: float
    cluster_cpu_seconds: float
    pss_mib: float
    peak_rss_mib: float
    writes: int
    passes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Steady:
    """An operator with nothing to do.

    Attributes:
        cpu_percent: of one core.
        writes: in that time, Leases left out.
    """

    seconds: float
    cpu_percent: float
    pss_mib: float
    peak_rss_mib: float
    writes: int


@dataclass(frozen=True, slots=True)
class Operator:
    """All about one of the two.

    Attributes:
        cpu_ms_per_pool: of the cold start, what a start without pools takes left out.
        apply_rounds_ms: per round, from the start of `kubectl apply` to the last child's creation.
        accepted_rounds_ms: the same from when the API server had accepted the pool.
        deployment_rounds_ms: from there to the Deployment.
    """

    empty_start: Start
    cold_start: Start
    cpu_ms_per_pool: float
    restarts: list[Start]
    steady: Steady
    apply_rounds_ms: list[list[float]]
    accepted_rounds_ms: list[list[float]]
    deployment_rounds_ms: list[list[float]]

    @property
    def peak_rss_mib(self) -> float:
        """The most that was ever resident, whichever start it was."""
        restarts = (each.peak_rss_mib for each in self.restarts)
        return max(self.cold_start.peak_rss_mib, self.steady.peak_rss_mib, *restarts)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Changes of pods' readiness, in ms from the change's sending to the gateway's page that shows it.

    Attributes:
        cpu_percent: of one core, while nothing changed.
    """

    changes_ms: list[float]
    cpu_percent: float
    pss_mib: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Everything at one number of pools.

    Attributes:
        silent_cpu_percent: of the operator while no sidecar answers; at the largest number of pools alone.
        gateway: None with few pools.
    """

    pools: int
    prfaas: Operator
    silent_cpu_percent: float | None
    peer: Operator
    gateway: Gateway | None


@dataclass(frozen=True, slots=True)
class Result:
    """All of it."""

    rounds: int
    scales: list[Scale]


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which so large a part of them lies; interpolated."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[round(part * 100) - 1]


def flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [value for values in rounds for value in values]


def ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median of the rounds' ratios of medians, the smallest and the largest."""
    ratios = [
        statistics.median(one) / statistics.median(other) for one, other in zip(ours, theirs, strict=True)
    ]
    return statistics.median(ratios), min(ratios), max(ratios)


METHOD = """\
Real etcd, API server, controller manager and scheduler on this machine; kwok plays nodes and pods, and one
process answers for the sidecar and the engine of each. One half of the pools prefills, the other decodes, of
one instance each, with a route for each pair. A cold start finds pools without children; a restart finds
everything in place. Converged: every pool and route has its final status, pods ready and engines known
(for the peer: Deployments ready). CPU per pool is a cold start's without that of a start without pools.

The peer is what a tutorial of kopf makes: handlers for creation and update, and plain calls that make the
same Deployment. It has no status, certificates, lists of peers, dry runs, routes, drift or election, so its
figures are a floor for what prfaas does, not a rival. Moments are those of the API server's audit log;
the delay of an apply begins before kubectl is started."""


def table(result: Result) -> str:
    """The figures as Markdown."""
    return "\n\n".join((METHOD, _operators(result), _delays(result), _notes(result)))


def _operators(result: Result) -> str:
    lines = [
        "| pools | operator | all Deployments s | converged s | CPU s | CPU ms per pool | peak RSS MiB "
        "| restart: quiet s | restart: CPU s | restart: writes | steady CPU % | steady PSS MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for scale in result.scales:
        for name, one in (("prfaas", scale.prfaas), ("kopf, usual style", scale.peer)):
            restarts = one.restarts
            lines.append(
                f"| {scale.pools} | {name} | {_number(one.cold_start.created_seconds)} "
                f"| {_number(one.cold_start.converged_seconds)} | {one.cold_start.cpu_seconds:.1f} "
                f"| {one.cpu_ms_per_pool:.1f} | {one.peak_rss_mib:.0f} "
                f"| {statistics.median(each.quiet_seconds for each in restarts):.1f} "
                f"| {statistics.median(each.cpu_seconds for each in restarts):.1f} "
                f"| {max(each.writes for each in restarts)} "
                f"| {one.steady.cpu_percent:.2f} | {one.steady.pss_mib:.0f} |"
            )
    return "\n".join(lines)


def _delays(result: Result) -> str:
    lines = [
        "| what | pools | p50 ms | p95 ms | target p95 ms | of the peer's (spread) |",
        "|---|---|---|---|---|---|",
    ]
    for scale in result.scales:
        ours, theirs = scale.prfaas, scale.peer
        for what, mine, other in (
            ("`kubectl apply` to all children", ours.apply_rounds_ms, theirs.apply_rounds_ms),
            ("accepted to the Deployment", ours.deployment_rounds_ms, theirs.deployment_rounds_ms),
        ):
            if not mine:
                continue
            of, low, high = ratio(mine, other)
            lines += [
                f"| {what} | {scale.pools} | {_p50(flat(mine))} | {_p95(flat(mine))} "
                f"| {TARGET_P95_SECONDS * 1000:.0f} | {of:.2f} ({low:.2f} to {high:.2f}) |",
                f"| the same, kopf in its usual style | {scale.pools} | {_p50(flat(other))} "
                f"| {_p95(flat(other))} | | 1 |",
            ]
        changes = scale.gateway.changes_ms if scale.gateway is not None else []
        if changes:
            lines.append(
                f"| pod's readiness to the gateway's choice | {scale.pools} | {_p50(changes)} "
                f"| {_p95(changes)} | {TARGET_P95_SECONDS * 1000:.0f} | |"
            )
    return "\n".join(lines)


def _notes(result: Result) -> str:
    lines = []
    for scale in result.scales:
        cold, theirs, steady = scale.prfaas.cold_start, scale.peer.cold_start, scale.prfaas.steady
        ours = sum(scale.prfaas.restarts[0].passes.values()) if scale.prfaas.restarts else 0
        lines.append(
            f"- {scale.pools} pools: the cold start wrote {cold.writes} times at the API server "
            f"(the peer {theirs.writes}) and cost the cluster itself {cold.cluster_cpu_seconds:.0f} s of CPU "
            f"(the peer's {theirs.cluster_cpu_seconds:.0f} s); a restart made {ours:.0f} passes; "
            f"{steady.writes} writes in {steady.seconds:.0f} s at rest"
            + (
                f"; {scale.silent_cpu_percent:.2f} % of a core while no sidecar answers"
                if scale.silent_cpu_percent is not None
                else ""
            )
            + (
                f"; a gateway at rest takes {scale.gateway.cpu_percent:.2f} % and "
                f"{scale.gateway.pss_mib:.0f} MiB"
                if scale.gateway is not None
                else ""
            )
            + "."
        )
    return "\n".join(lines)


def targets_missed(result: Result) -> list[str]:
    """What misses the project's targets at the largest number of pools, in words."""
    largest = max(result.scales, key=lambda scale: scale.pools)
    ours = largest.prfaas
    found = []

    def check(what: str, value: float | None, target: float, unit: str) -> None:
        if value is None or value > target:
            shown = "nothing" if value is None else f"{value:.2f}"
            found.append(f"{what}: {shown} {unit}, the target is {target:g} {unit}")

    check("converged from a cold start", ours.cold_start.converged_seconds, TARGET_CONVERGED_SECONDS, "s")
    check("steady CPU", ours.steady.cpu_percent, TARGET_STEADY_PERCENT, "% of a core")
    check("memory at most", ours.peak_rss_mib, TARGET_MEMORY_MIB, "MiB")
    check("writes of unchanged passes", max((each.writes for each in ours.restarts), default=0), 0, "writes")
    if ours.apply_rounds_ms:
        applied = percentile(flat(ours.apply_rounds_ms), 0.95) / 1000
        check("p95 from apply to children", applied, TARGET_P95_SECONDS, "s")
    if largest.gateway is not None and largest.gateway.changes_ms:
        routed = percentile(largest.gateway.changes_ms, 0.95) / 1000
        check("p95 from readiness to routing", routed, TARGET_P95_SECONDS, "s")
    return found


def _p50(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.50):.0f}"


def _p95(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.95):.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
