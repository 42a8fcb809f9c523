"""The course of the benchmark: one cluster per number of pools, both operators in each of them."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path

from prfaas.kube.resources import (
    BY_KIND,
    DECODE_POOLS,
    DEPLOYMENTS,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    Object,
    Resource,
)
from prfaas_bench.control_plane import bodies, programs
from prfaas_bench.control_plane.audit_log import AuditLog, real_writes
from prfaas_bench.control_plane.bodies import NAMESPACE, OWN_NAMESPACE, PEER_LABEL, PEER_POOLS
from prfaas_bench.control_plane.cluster import OPERATOR, PEER, PODS_PER_NODE, FakeCluster
from prfaas_bench.control_plane.delays import Delays, apply_by_turns, gateway_delays
from prfaas_bench.control_plane.following import (
    Following,
    deployment_is_ready,
    pool_has_converged,
    route_has_converged,
)
from prfaas_bench.control_plane.programs import Program
from prfaas_bench.control_plane.results import Operator, Result, Scale, Start, Steady
from prfaas_bench.control_plane.stand_in import answering
from prfaas_bench.control_plane.usage import memory, share_of_core, until_quiet

SIZES = (10, 100, 1000)
QUICK_SIZES = (10, 100)
DELAYS_FROM_POOLS = 100
"""With fewer pools delays are not measured."""
APPLIES_PER_ROUND = 10
GATEWAY_CHANGES = 60
RESTARTS = 3
STEADY_SECONDS = 60.0
# After that long, sidecars that never answered are asked as seldom as they will be.
SILENT_SETTLE_SECONDS = 30.0
SILENT_SECONDS = 45.0
CONVERGE_SECONDS = 900.0
REST_SECONDS = 180.0
AT_ONCE = 8
_CRDS = Path(__file__).parents[3] / "crds"

Run = Callable[[], AbstractContextManager[Program]]


async def measure(
    *, rounds: int = 5, sizes: Sequence[int] = SIZES, steady_seconds: float = STEADY_SECONDS
) -> Result:
    """Measure at each number of pools.

    Args:
        rounds: of applies, each by turns with the peer; the spread is taken over them.
        sizes: numbers of pools, even.

    Raises:
        ClusterError: a program ended; the text holds the end of its log.
        SetupError: a program of Kubernetes cannot be had here.
        TimeoutError: something did not come to pass; the text says what.
    """
    scales = []
    for pools in sizes:
        with tempfile.TemporaryDirectory(prefix="prfaas-bench-") as folder:
            is_largest = pools == max(sizes)
            scales.append(await _scale(Path(folder), pools, rounds, steady_seconds, is_largest=is_largest))
    return Result(rounds, scales)


async def _scale(folder: Path, pools: int, rounds: int, steady_seconds: float, *, is_largest: bool) -> Scale:
    """One number of pools. What says little of few pools is measured at the largest number alone."""
    _say(f"{pools} pools: starting a cluster")
    with_delays = pools >= DELAYS_FROM_POOLS
    # Both fleets, and what is applied later.
    nodes = (2 * pools + 400) // PODS_PER_NODE + 1
    definitions = await asyncio.to_thread(bodies.definitions, _CRDS)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(FakeCluster.running(folder, definitions, nodes))
        log = AuditLog(cluster.audit_log)
        for name in (NAMESPACE, OWN_NAMESPACE):
            await cluster.add_namespace(name)
        ours = _Side(cluster, log, OPERATOR, lambda: programs.operator(cluster), "prfaas.io/pool")
        theirs = _Side(cluster, log, PEER, lambda: programs.peer(cluster), PEER_LABEL)

        async with answering():
            fleet, routes = bodies.fleet(pools)
            await ours.empty_start()
            _say(f"{pools} pools: cold start of prfaas's operator")
            await _create(cluster, [*fleet, *routes])
            watched = {PREFILL_POOLS: "", DECODE_POOLS: "", PREFILL_ROUTES: ""}
            async with Following(cluster.api, watched, _has_converged) as following:
                await ours.cold_start(following, len(fleet) + len(routes))

            await theirs.empty_start()
            _say(f"{pools} pools: cold start of the peer")
            await _create(cluster, [bodies.peer_pool(f"peer-{number:04d}") for number in range(pools)])
            async with Following(cluster.api, {DEPLOYMENTS: PEER_LABEL}, deployment_is_ready) as following:
                await theirs.cold_start(following, pools)

            _say(f"{pools} pools: restarts")
            for _ in range(RESTARTS - 1 if is_largest else 0):
                for side in (ours, theirs):
                    with side.run() as program:
                        await side.restart(program)
            delays = peer_delays = Delays([], [], [])
            gateway = None
            with ours.run() as operator:
                await ours.restart(operator)
                with theirs.run() as peer:
                    await theirs.restart(peer)
                    # Side by side, as each of them next to does nothing.
                    seconds = steady_seconds if is_largest else steady_seconds / 2
                    _say(f"{pools} pools: both at rest for {seconds:.0f} s")
                    log.skip()
                    await asyncio.gather(ours.rest(operator, seconds), theirs.rest(peer, seconds))
                    if with_delays:
                        _say(f"{pools} pools: applying {rounds * APPLIES_PER_ROUND} more of them")
                        delays, peer_delays = await apply_by_turns(cluster, log, rounds, APPLIES_PER_ROUND)
                if with_delays:
                    await until_quiet(operator.pid, REST_SECONDS)
                    _say(f"{pools} pools: a gateway")
                    gateway = await gateway_delays(cluster, GATEWAY_CHANGES)

        silent = None
        if is_largest:
            with ours.run() as operator:
                _say(f"{pools} pools: sidecars that do not answer")
                await operator.until_ready()
                await asyncio.sleep(SILENT_SETTLE_SECONDS)
                silent = 100 * await share_of_core(operator.pid, SILENT_SECONDS)
        return Scale(pools, ours.result(pools, delays), silent, theirs.result(pools, peer_delays), gateway)


class _Side:
    """Measures one of the two operators."""

    def __init__(self, cluster: FakeCluster, log: AuditLog, user: str, run: Run, label: str) -> None:
        self._cluster = cluster
        self._log = log
        self._user = user
        self.run = run
        self._label = label
        self._empty: Start | None = None
        self._cold: Start | None = None
        self._restarts: list[Start] = []
        self._steady: Steady | None = None

    async def empty_start(self) -> None:
        """A start without any pools, whose cost is no pool's."""
        with self.run() as program:
            self._empty = await self._start(program, None)

    async def cold_start(self, following: Following, objects: int) -> None:
        """A start beside pools without children."""
        self._log.skip()

        async def converged() -> float:
            return await following.until_good(objects, CONVERGE_SECONDS)

        with self.run() as program:
            self._cold = await self._start(program, converged)

    async def restart(self, program: Program) -> None:
        """A program that was started a moment ago, with everything in place."""
        self._log.skip()
        self._restarts.append(await self._start(program, None))

    async def rest(self, program: Program, seconds: float) -> None:
        """What it uses while nothing happens. The log was emptied before."""
        share = await share_of_core(program.pid, seconds)
        used = memory(program.pid)
        writes = real_writes(self._log.read(), self._user)
        self._steady = Steady(seconds, share * 100, used.pss_mib, used.peak_rss_mib, len(writes))

    async def _start(self, program: Program, converged: Callable[[], Awaitable[float]] | None) -> Start:
        before = self._cluster.cpu_seconds
        if program.health:
            await program.until_ready()
        converged_at = await converged() if converged is not None else None
        quiet_at = await until_quiet(program.pid, REST_SECONDS)
        used, cpu = memory(program.pid), program.cpu_seconds
        made = await programs.passes(program) if program.health else {}
        writes = real_writes(self._log.read(), self._user)
        deployments = [each.at for each in writes if each.created and each.resource == "deployments.apps"]
        return Start(
            created_seconds=max(deployments) - program.began if deployments else None,
            converged_seconds=None if converged_at is None else converged_at - program.began,
            quiet_seconds=quiet_at - program.began,
            cpu_seconds=cpu,
            cluster_cpu_seconds=self._cluster.cpu_seconds - before,
            pss_mib=used.pss_mib,
            peak_rss_mib=used.peak_rss_mib,
            writes=len(writes),
            passes=made,
        )

    def result(self, pools: int, delays: Delays) -> Operator:
        """All of it, once everything was measured."""
        if self._empty is None or self._cold is None or self._steady is None:
            raise RuntimeError("not everything was measured")
        return Operator(
            empty_start=self._empty,
            cold_start=self._cold,
            cpu_ms_per_pool=(self._cold.cpu_seconds - self._empty.cpu_seconds) * 1000 / pools,
            restarts=self._restarts,
            steady=self._steady,
            apply_rounds_ms=delays.from_apply_ms,
            accepted_rounds_ms=delays.from_accepted_ms,
            deployment_rounds_ms=delays.to_deployment_ms,
        )


def _has_converged(body: Object) -> bool:
    return route_has_converged(body) if body["kind"] == "PrefillRoute" else pool_has_converged(body)


async def _create(cluster: FakeCluster, objects: Sequence[Object]) -> None:
    """Create them, a few at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def create(body: Object) -> None:
        async with turn:
            await cluster.api.create(_resource_of(body), body)

    await asyncio.gather(*map(create, objects))


def _resource_of(body: Object) -> Resource:
    return PEER_POOLS if body["kind"] == PEER_POOLS.kind else BY_KIND[body["kind"]]


def _say(text: str) -> None:
    print(f"   {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
