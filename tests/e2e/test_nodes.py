"""A node that goes without a word."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prfaas_cluster.bare import cluster as bare
from prfaas_cluster.bare.sandbox import find_sandbox
from tests.e2e.stage import DECODE, PREFILL, SYSTEM, Stage, two_nodes, uids, until
from tests.e2e.traffic import WORKERS, Traffic

# Of prctl(2); tests/conftest.py sets it.
PR_SET_CHILD_SUBREAPER = 36
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_node_that_is_lost_costs_what_it_was_answering_and_its_engines_are_replaced(fleet: Stage) -> None:
    if fleet.record.provider != bare.PROVIDER:
        pytest.skip("only a node of a bare cluster can be switched off from here")
    lost = two_nodes(fleet)[1]
    gone = fleet.engines_on(lost)
    decode, prefill = (fleet.pool_pods(*pool) for pool in (("DecodePool", DECODE), ("PrefillPool", PREFILL)))
    assert {pod["metadata"]["name"] for pod in prefill} < gone, "the prefill engine prefers the last node"
    assert len(gone) == 2
    # kube-proxy sends clients to a gateway on the lost node too, until Kubernetes gives the node up.
    with Traffic(_gateway_apart_from(fleet, lost)) as traffic:
        until(lambda: traffic.remote >= 2, "prompts are prefilled elsewhere", within_seconds=120)
        _switch_off(fleet, lost)
        answered = traffic.answered
        until(lambda: traffic.answered >= answered + 8, "what is left answers", within_seconds=120)
        until(
            lambda: fleet.condition("decodepool", DECODE, "Ready")["message"].startswith("1 of 2"),
            "the pool has noticed",
        )
        before = uids([*decode, *prefill])
        until(lambda: _ready_apart_from(fleet, before) == 2, "both lost engines have successors")
        fleet.until_compatible()
        remote = traffic.remote
        until(lambda: traffic.remote >= remote + 1, "prompts are prefilled elsewhere", within_seconds=120)
    # Answers that had begun there are broken off, and said to be; what had not begun is asked elsewhere.
    assert len(traffic.failures) <= WORKERS, traffic.failures
    with orphans_left_to_the_machine():
        bare.up(fleet.record.name)
    fleet.until_ready("decodepool", DECODE, 2)
    until(lambda: fleet.engines_on(lost) == set(), "the returned node has let go of its former pods")


@contextmanager
def orphans_left_to_the_machine() -> Iterator[None]:
    """A node that is switched on here outlives the tests, which end what is left to them."""
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _ready_apart_from(fleet: Stage, before: set[str]) -> int:
    """Ready pods of pools that are none of these."""
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for pod in fleet.pods("prfaas.io/pool")
        if pod["metadata"]["uid"] not in before
        for condition in pod["status"].get("conditions", ())
    )


def _gateway_apart_from(fleet: Stage, node: str) -> str:
    pods = fleet.pods("app.kubernetes.io/component=gateway", SYSTEM)
    address = next(pod["status"]["podIP"] for pod in pods if pod["spec"]["nodeName"] != node)
    return f"http://{address}:8000"


def _switch_off(fleet: Stage, node: str) -> None:
    """As by its power button: kubelet, containers and network are gone at once."""
    sandbox = find_sandbox(fleet.record.name, node.removeprefix(f"{fleet.record.name}-"))
    assert sandbox is not None
    os.kill(sandbox.pid, signal.SIGKILL)
