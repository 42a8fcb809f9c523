"""The first pass over a pool knows all that it needs, so that none is made in vain."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from prfaas.kube.resources import PREFILL_POOLS
from prfaas_operator.planning.actions import Plan
from prfaas_operator.planning.values import ObservedPool
from tests.helpers import eventually_async
from tests.operator.runtime_world import SmallPlanner, client_of, config_for, pool_body, running


class RecordingPlanner(SmallPlanner):
    def __init__(self) -> None:
        super().__init__()
        self.authorities: list[str] = []

    def pool(self, pool: ObservedPool, now: datetime) -> Plan[Any]:
        self.authorities.append(pool.authority_id)
        return super().pool(pool, now)


async def test_the_first_pass_over_a_pool_knows_the_authority(kubeconfig: Path, namespace: str) -> None:
    planner = RecordingPlanner()
    async with client_of(kubeconfig) as client:
        for number in range(5):
            await client.create(PREFILL_POOLS, pool_body(namespace, f"pool-{number}"))
        async with running(config_for(kubeconfig, namespace), planner):
            await eventually_async(lambda: len(planner.authorities) >= 5)
            assert all(planner.authorities)
