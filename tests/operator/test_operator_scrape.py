"""What a scrape of the operator's metrics survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from prfaas_operator.runtime.app import Operator
from prfaas_operator.runtime.facts import custom
from tests.operator.runtime_world import SmallPlanner, config_for


def pool(name: str, status: dict[str, Any]) -> dict[str, Any]:
    about = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": "1"}
    return {"metadata": about, "spec": {}, "status": status}


async def test_a_status_that_another_version_wrote_hides_no_metric(tmp_path: Path) -> None:
    operator = Operator(config_for(tmp_path / "none", "ns"), SmallPlanner())
    ready = {"type": "Ready", "status": "True"}
    operator.store.prefill_pools.put(
        custom(pool("new", {"kv": {"chargedTo": "Node"}, "conditions": [ready]}))
    )
    operator.store.prefill_pools.put(custom(pool("none", {})))
    text = generate_latest(operator.metrics.registry).decode()
    assert 'prfaas_operator_pools{condition="Ready",kind="PrefillPool",status="True"} 1.0' in text
