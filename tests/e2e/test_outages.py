"""What goes on while the control plane is away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prfaas_cluster.bare import cluster as bare
from tests.e2e.stage import Stage, until
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@contextmanager
def api_server_stopped(stage: Stage) -> Iterator[None]:
    """The API server accepts connections and answers nothing, which is the worse way to be down."""
    pids = [pid for part, pid in bare.part_states(stage.record) if part.name == "kube-apiserver" and pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_traffic_flows_while_the_api_server_is_down(fleet: Stage) -> None:
    if fleet.record.provider != bare.PROVIDER:
        pytest.skip("only the API server of a bare cluster can be stopped from here")
    url = fleet.gateway_url
    with Traffic(url) as traffic:
        until(lambda: traffic.answered >= 2, "clients are answered", within_seconds=120)
        with api_server_stopped(fleet):
            answered = traffic.answered
            until(lambda: traffic.answered >= answered + 8, "clients are answered", within_seconds=180)
    assert traffic.failures == []
    assert traffic.remote > 0
    fleet.until_ready("decodepool", "chat", 2)


def test_without_an_operator_requests_are_answered_and_later_changes_are_made_up_for(fleet: Stage) -> None:
    operator = "deployment/" + next(
        each["metadata"]["name"]
        for each in fleet.kubectl.get("deployments", "--namespace=prfaas")["items"]
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"
    )
    fleet.kubectl("scale", operator, "--replicas=0", "--namespace=prfaas")
    until(lambda: fleet.pods("app.kubernetes.io/component=operator", "prfaas") == [], "the operator is gone")
    with Traffic(fleet.gateway_url) as traffic:
        fleet.scale_decode(1)
        until(lambda: traffic.answered >= 4, "clients are answered", within_seconds=120)
    assert traffic.failures == []
    assert len(fleet.pool_pods("DecodePool", "chat")) == 2
    fleet.kubectl("scale", operator, "--replicas=2", "--namespace=prfaas")
    fleet.until_ready("decodepool", "chat", 1)
