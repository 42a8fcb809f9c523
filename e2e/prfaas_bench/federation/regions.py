"""Many simulated regions in one process: the operator's own mirror, reports and beats, without pods.

`python -m prfaas_bench.federation.regions KUBECONFIG NAMESPACE COUNT`. SIGUSR1 lets the numbers of each
region change every few seconds, SIGUSR2 ends that.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from typing import Any

from prfaas.api import keys
from prfaas.api.v1alpha1 import ConditionStatus, ReportedPool
from prfaas.kube.api import Call
from prfaas_bench.federation.memory_api import MemoryApi
from prfaas_operator.federation.values import MirrorSettings
from prfaas_operator.runtime.federation.hub import Hub
from prfaas_operator.runtime.federation.hub_client import hub_client
from prfaas_operator.runtime.federation.mirror import Mirror
from prfaas_operator.runtime.federation.reporter import Reporter

SERVING = "serving"
CHURN_SECONDS = 5.0


class _NoFence:
    """Every simulated region leads."""

    async def before(self, call: Call) -> float:
        return 15.0

    async def after(self, call: Call, error: BaseException | None) -> None:
        return None


class Region:
    """One of them. Its pools are ready as soon as they are mirrored."""

    def __init__(self, name: str, kubeconfig: str, namespace: str) -> None:
        loop = asyncio.get_running_loop()
        self._name = name
        self._ready_replicas = 1
        self._local = MemoryApi(self._pools_changed)
        local: Any = self._local
        self._hub = Hub(
            hub_client(kubeconfig, _NoFence(), f"region-{name}"),
            path=kubeconfig,
            namespace=namespace,
            own_namespace=namespace,
            cluster=name,
            holder=name,
            clock=loop.time,
            chance=random.random,
            changed=_nothing,
        )
        self._mirror = Mirror(
            self._hub,
            local,
            namespace=namespace,
            watched=(None,),
            settings=MirrorSettings(name, name, frozenset({SERVING})),
            clock=loop.time,
            chance=random.random,
            changed=_nothing,
        )
        self._reporter = Reporter(
            self._hub.api,
            region=name,
            cluster=name,
            pools=self._pools,
            told=lambda: (self._mirror.refused, self._mirror.hub_uid, None),
            clock=loop.time,
            chance=random.random,
        )

    async def run(self) -> None:
        self._reporter.wake()
        await asyncio.gather(self._hub.run(), self._mirror.run(), self._reporter.run())

    def churn(self) -> None:
        """One number of one pool is another one."""
        self._ready_replicas = 3 - self._ready_replicas
        self._reporter.wake()

    def _pools_changed(self) -> None:
        self._reporter.wake()

    def _pools(self) -> list[ReportedPool]:
        found: list[ReportedPool] = []
        for (kind, namespace, name), body in self._local.objects.items():
            if kind == keys.PREFILL_POOL:
                origin = body["metadata"]["annotations"][keys.ANNOTATION_MIRRORED_FROM]
                found.append(
                    ReportedPool(
                        kind="PrefillPool",
                        namespace=namespace or "",
                        name=name,
                        hub_generation=int(origin.rpartition("/")[2]),
                        desired_replicas=2,
                        ready_replicas=self._ready_replicas if not found else 2,
                        ready=ConditionStatus.TRUE,
                        reason="Serving",
                    )
                )
        return found


def _nothing() -> None:
    return None


def name_of(number: int) -> str:
    return f"r{number:03d}"


async def main(kubeconfig: str, namespace: str, count: int) -> None:
    """Run them until cancelled."""
    regions = [Region(name_of(number), kubeconfig, namespace) for number in range(count)]
    churning = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, churning.set)
    loop.add_signal_handler(signal.SIGUSR2, churning.clear)

    async def churn(region: Region) -> None:
        while True:
            await churning.wait()
            region.churn()
            await asyncio.sleep(CHURN_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads regions

    async with asyncio.TaskGroup() as group:
        for region in regions:
            group.create_task(region.run())
            group.create_task(churn(region))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
