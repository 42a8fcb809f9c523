"""`prfaas explain`: the words, and the command at a real API server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from prfaas.commands.explain import explain, lines
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import DECODE_POOLS, PREFILL_POOLS
from tests.api.crd_cases import minimal
from tests.operator.runtime_world import client_of

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
TIME = "2026-03-01T12:00:00Z"
STATUS: dict[str, Any] = {
    "readyReplicas": 2,
    "scaling": {
        "explanation": {
            "time": TIME,
            "desired": 2,
            "needed": 5,
            "reason": "LoadRose",
            "message": "3.6 instances' worth of work",
            "limitedBy": "LinkSaturated",
            "limitMessage": "link us-eu is saturated at 95% of 10 Gbit/s",
            "inputs": [
                {"name": "utilisation", "value": 0.93},
                {"name": "queued", "value": 3, "unit": "requests"},
            ],
            "wouldChange": ["to 5: the link below 75% of its capacity"],
            "offers": ["load of 3 instances: offered to near"],
        },
        "history": [
            {"time": "2026-03-01T11:59:30Z", "from": 1, "to": 2, "reason": "LoadRose", "message": "it rose"},
            {"time": "2026-03-01T10:00:00Z", "from": 2, "to": 1, "reason": "LoadFell"},
        ],
    },
    "conditions": [
        {
            "type": "ScalingLimited",
            "status": "True",
            "reason": "LinkSaturated",
            "message": "2 instances, 5 are needed.",
            "lastTransitionTime": TIME,
        }
    ],
}


def body(**changes: Any) -> dict[str, Any]:
    found = minimal("PrefillPool")
    found["metadata"] |= {"namespace": "serving", "name": "long"}
    found["spec"]["replicas"] = 2
    found["spec"]["scaling"] = {"mode": "Managed", "maxReplicas": 8}
    return {**found, "status": STATUS, **changes}


def test_a_managed_pool_says_why_what_it_needs_what_keeps_it_and_what_would_change_it() -> None:
    assert list(lines(body(), NOW)) == [
        "ppool/long in serving: 2 wanted, 2 ready (mode Managed, 1 to 8)",
        "  Why       LoadRose: 3.6 instances' worth of work",
        "  Needs     5 for its load",
        "  Kept by   LinkSaturated: link us-eu is saturated at 95% of 10 Gbit/s",
        "  From      utilisation 0.93, queued 3 requests",
        "  Changes   to 5: the link below 75% of its capacity",
        "  Offers    load of 3 instances: offered to near",
        "  As of     2026-03-01 12:00:00Z (30s ago)",
        "  Limited   LinkSaturated: 2 instances, 5 are needed.",
        "  Last      1 to 2, 1m ago: it rose",
        "  Before    2 to 1, 2h00m ago: LoadFell",
    ]


@pytest.mark.parametrize("status", [{}, {"scaling": {"history": []}}])
def test_a_pool_of_which_nothing_is_said_yet(status: dict[str, Any]) -> None:
    found = list(lines(body(status=status), NOW))
    assert found[1] == "  Why       nothing is said of it yet"


def test_a_hold_explains_more_than_the_load() -> None:
    held = {
        **STATUS,
        "hold": {"replicas": 2, "until": "2026-03-01T14:00:00Z"},
        "conditions": [
            {
                "type": "ScalingActive",
                "status": "True",
                "reason": "Held",
                "message": "Held at 2 until 14:00.",
                "lastTransitionTime": TIME,
            }
        ],
    }
    assert "  Why       Held: Held at 2 until 14:00." in list(lines(body(status=held), NOW))


async def test_the_command_finds_the_pool_and_says_who_decides(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        await put(client, namespace)
    where = ["--kubeconfig", str(kubeconfig), "-n", namespace]

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(explain, [*arguments, *where])

    text = await asyncio.to_thread(call, "pool/long")
    assert text.exit_code == 0, text.output
    assert text.output.startswith(f"ppool/long in {namespace}: 2 wanted, 0 ready (mode Static)")
    told = await asyncio.to_thread(call, "ppool/long", "-o", "json")
    assert json.loads(told.output)["mode"] == "Static"
    both = await asyncio.to_thread(call, "pool/twice")
    assert both.exit_code == 1
    assert "say ppool/ or dpool/" in both.output
    missing = await asyncio.to_thread(call, "dpool/long")
    assert missing.exit_code == 1
    assert "There is no DecodePool long" in missing.output


async def put(client: KubeClient, namespace: str) -> None:
    for resource, name in ((PREFILL_POOLS, "long"), (PREFILL_POOLS, "twice"), (DECODE_POOLS, "twice")):
        made = minimal(resource.kind)
        made["metadata"] |= {"namespace": namespace, "name": name}
        made["spec"]["replicas"] = 2
        await client.create(resource, made)
