"""The operator as processes, with its real planner: leaders that die, orders to end, bad configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from prfaas.kube.resources import DEPLOYMENTS, LEASES, PREFILL_POOLS, SECRETS
from tests.helpers import eventually, eventually_async, free_port
from tests.operator.runtime_world import client_of, pool_body

ENDING_SECONDS = 20.0


@dataclass
class Process:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(ENDING_SECONDS)


@contextmanager
def operator(kubeconfig: Path, namespace: str, folder: Path, name: str) -> Iterator[Process]:
    port = free_port()
    document = {
        "region": "eu",
        "trust_domain": "example.org",
        "own_namespace": namespace,
        "watch_namespaces": [namespace],
        "images": {"sidecar": "example.org/sidecar:1", "connector": "example.org/connector:1"},
        "kubeconfig": str(kubeconfig),
        "health_listen": f"127.0.0.1:{port}",
        "leader_election": {"lease_seconds": 3, "renew_deadline_seconds": 2.0, "retry_seconds": 0.3},
    }
    path, log = folder / f"{name}.yaml", folder / f"{name}.log"
    path.write_text(yaml.safe_dump(document))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prfaas_operator", "--config", str(path)],
            env={**os.environ, "POD_NAME": name},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Process(process, port, log)
    finally:
        process.kill()
        process.wait(ENDING_SECONDS)


async def test_a_leader_that_is_killed_is_followed_by_the_one_that_stood_by(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    with (
        operator(kubeconfig, namespace, tmp_path, "one") as one,
        operator(kubeconfig, namespace, tmp_path, "two") as two,
    ):
        async with client_of(kubeconfig) as client:
            await client.create(PREFILL_POOLS, pool_body(namespace))

            async def has(replicas: int) -> bool:
                found = await client.list(DEPLOYMENTS, namespace)
                return [each["spec"]["replicas"] for each in found] == [replicas]

            await eventually_async(lambda: has(1), within_seconds=30)
            # A standby is ready too: it follows all that happens.
            await eventually_async(lambda: one.is_ready() and two.is_ready(), within_seconds=30)
            lease = await client.get(LEASES, namespace, "prfaas-operator")
            leader = {"one": one, "two": two}[lease["spec"]["holderIdentity"]]
            secret = await client.get(SECRETS, namespace, "prfaas-ca")
            leader.end(signal.SIGKILL)
            await client.scale(PREFILL_POOLS, namespace, "long", 2, field_manager="t")
            await eventually_async(lambda: has(2), within_seconds=30)
            after = await client.get(LEASES, namespace, "prfaas-operator")
            assert after["spec"]["holderIdentity"] != lease["spec"]["holderIdentity"]
            assert after["spec"]["leaseTransitions"] == 1
            # The authority is made once and never again.
            assert (await client.get(SECRETS, namespace, "prfaas-ca"))["data"] == secret["data"]


async def test_an_order_to_end_releases_the_lease(kubeconfig: Path, namespace: str, tmp_path: Path) -> None:
    with operator(kubeconfig, namespace, tmp_path, "one") as one:
        async with client_of(kubeconfig) as client:
            await eventually_async(one.is_ready, within_seconds=30)

            async def holder() -> str:
                leases = await client.list(LEASES, namespace)
                return str(leases[0]["spec"].get("holderIdentity", "")) if leases else ""

            await eventually_async(lambda: _is(holder, "one"), within_seconds=30)
            assert one.end(signal.SIGTERM) == 0, one.log.read_text()
            assert await holder() == ""


async def _is(read, wanted: str) -> bool:  # type: ignore[no-untyped-def]
    return bool(await read() == wanted)


def test_a_leader_whose_lease_is_stolen_ends_with_a_status_of_its_own(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    from kubernetes import client

    from tests.cluster_fixtures import client_of as plain_client

    with operator(kubeconfig, namespace, tmp_path, "one") as one, plain_client(kubeconfig) as api:
        leases = client.CoordinationV1Api(api)

        def is_held() -> bool:
            found = leases.list_namespaced_lease(namespace).items
            return bool(found) and found[0].spec.holder_identity == "one"

        eventually(is_held, within_seconds=30)
        thief = {"spec": {"holderIdentity": "thief", "leaseTransitions": 5, "leaseDurationSeconds": 60}}
        leases.patch_namespaced_lease("prfaas-operator", namespace, thief)
        assert one.process.wait(ENDING_SECONDS) == 75, one.log.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"region": "EU!"}, "region: must be a DNS label"),
        ({"surprise": 1}, "surprise: no such field"),
        ({"images": {"sidecar": "s:1"}}, "images.connector: is needed"),
        (
            {"leader_election": {"lease_seconds": 5, "renew_deadline_seconds": 9}},
            "leader_election: retry_seconds < renew_deadline_seconds < lease_seconds must hold",
        ),
        ({"health_listen": "8080"}, "health_listen: must be host:port"),
        ({"listen_address": "everywhere"}, "listen_address: "),
    ],
)
def test_a_bad_file_is_refused_with_the_field_and_the_reason(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    good = {"region": "eu", "trust_domain": "example.org", "images": {"sidecar": "s:1", "connector": "c:1"}}
    path = tmp_path / "operator.yaml"
    path.write_text(yaml.safe_dump({**good, **change}))
    command = [sys.executable, "-m", "prfaas_operator", "--config", str(path), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 78
    assert words in found.stderr


def test_a_good_file_is_checked_without_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "operator.yaml"
    path.write_text("region: eu\ntrust_domain: example.org\nimages: {sidecar: 's:1', connector: 'c:1'}\n")
    command = [sys.executable, "-m", "prfaas_operator", "--config", str(path), "--check"]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
