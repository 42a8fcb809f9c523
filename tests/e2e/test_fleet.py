"""The request path in pods: prefilled in one, decoded in another, tokens those of one engine alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_cluster import engine_pods
from tests.e2e.stage import SERVING, Stage, until
from tests.e2e.traffic import ask

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
LONG_TOKENS = 900


def test_both_pools_have_ready_pods_with_a_sidecar(fleet: Stage) -> None:
    for kind, name in (("PrefillPool", "long"), ("DecodePool", "chat")):
        for pod in fleet.pool_pods(kind, name):
            sidecars = [
                container["name"]
                for container in pod["spec"]["initContainers"]
                if container.get("restartPolicy") == "Always"
            ]
            assert sidecars == ["prfaas-sidecar"]


def test_a_long_prompt_is_prefilled_in_one_pod_and_decoded_in_another(fleet: Stage) -> None:
    remote = until(
        lambda: (
            (answer := ask(fleet.gateway_url, LONG_TOKENS, seed=3)).route == "remote OverThreshold" and answer
        ),
        "a prompt is prefilled remotely",
        within_seconds=120,
    )
    assert remote.failure is None
    producer = fleet.pool_pods("PrefillPool", "long")[0]["status"]["podIP"]
    alone = ask(f"http://{producer}:8000", LONG_TOKENS, seed=3)
    assert alone.failure is None
    assert remote.token_ids == alone.token_ids


def test_a_short_prompt_stays_with_the_decode_pod(fleet: Stage) -> None:
    answer = ask(fleet.gateway_url, 40, seed=4)
    assert (answer.failure, answer.route) == (None, "local UnderThreshold")


def test_every_gateway_sees_every_pod(fleet: Stage) -> None:
    expected = {
        pod["metadata"]["name"]
        for kind, name in (("PrefillPool", "long"), ("DecodePool", "chat"))
        for pod in fleet.pool_pods(kind, name)
    }
    seen = fleet.gateway_sees()
    assert len(seen) == 2
    for each in seen:
        assert all(name in json.dumps(each) for name in expected)


def test_the_users_object_is_untouched(fleet: Stage) -> None:
    metadata = fleet.pool("prefillpool", "long")["metadata"]
    assert "finalizers" not in metadata
    assert set(metadata.get("annotations", {})) <= {"kubectl.kubernetes.io/last-applied-configuration"}


def test_the_status_command_shows_the_fleet(fleet: Stage) -> None:
    command = [
        str(Path(sys.executable).parent / "prfaas"),
        "status",
        "--namespace",
        SERVING,
        "--output",
        "json",
    ]
    done = subprocess.run(
        [*command, "--kubeconfig", fleet.record.kubeconfig],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text = done.stdout
    assert all(name in text for name in ("long", "chat", "Ready"))


def test_a_pool_that_no_node_can_hold_says_so(fleet: Stage) -> None:
    template = engine_pods.pod_template(fleet.host, cpu="64")
    fleet.apply(engine_pods.pool("PrefillPool", "huge", SERVING, template))
    limited = until(
        lambda: (
            (found := fleet.condition("prefillpool", "huge", "ScalingLimited")).get("status") == "True"
            and found
        ),
        "the pool says that there is no capacity",
        within_seconds=60,
    )
    assert limited["reason"] == "NoCapacity"
    assert "cpu" in limited["message"].lower()
    fleet.kubectl("delete", "prefillpool", "huge", f"--namespace={SERVING}")


def test_a_missing_secret_is_named_and_nothing_is_made(fleet: Stage) -> None:
    template = engine_pods.pod_template(fleet.host)
    template["spec"]["volumes"].append({"name": "token", "secret": {"secretName": "not-there"}})
    fleet.apply(engine_pods.pool("DecodePool", "lacking", SERVING, template))
    missing = until(
        lambda: (
            (found := fleet.condition("decodepool", "lacking", "ResolvedRefs")).get("status") == "False"
            and found
        ),
        "the pool says what is missing",
        within_seconds=60,
    )
    assert "not-there" in missing["message"]
    assert fleet.pool_pods("DecodePool", "lacking") == []
    fleet.kubectl("delete", "decodepool", "lacking", f"--namespace={SERVING}")
