"""prfaas installed in a real cluster by its chart, with pools of real engines."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prfaas_cluster import assets, engine_pods, product
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.record import Record
from prfaas_setup import locations

RELEASE = "prfaas"
SYSTEM = "prfaas"
SERVING = "serving"
HELM_SECONDS = 300.0
READY_SECONDS = 300.0
POLL_SECONDS = 0.25
CHART = locations.checkout() / "charts" / "prfaas"


def until(condition: Callable[[], Any], what: str, within_seconds: float = READY_SECONDS) -> Any:
    """Poll until `condition` gives something true; what it raises meanwhile is shown when time is over."""
    deadline = time.monotonic() + within_seconds
    error: Exception | None = None
    while True:
        try:
            if result := condition():
                return result
            error = None
        except (OSError, ValueError, KeyError, IndexError, RuntimeError, ClusterError) as problem:
            error = problem
        if time.monotonic() > deadline:
            raise AssertionError(f"still not after {within_seconds:.0f} s: {what} ({error})")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Stage:
    """A cluster with prfaas in it.

    Attributes:
        values: the chart's values for this checkout's images.
        host: what engine pods need of the machine.
    """

    record: Record
    kubectl: Kubectl
    values: dict[str, Any]
    host: engine_pods.EngineHost

    @classmethod
    def prepare(cls, record: Record) -> Stage:
        """Build and load images. Installs nothing yet."""
        kubectl = Kubectl(Path(record.kubeconfig))
        values = product.load_product(record.name)
        values["gateway"] |= {"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
        host = engine_pods.EngineHost.of_this_machine(product.load_host_image(record.name))
        return cls(record, kubectl, values, host)

    def helm(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """Run helm on the release's namespace. Raises RuntimeError with its words when it fails."""
        command = [
            str(assets.program("helm")), f"--kubeconfig={self.record.kubeconfig}", f"--namespace={SYSTEM}",
            *arguments, *(["--values=-"] if values is not None else []),
        ]  # fmt: skip
        done = subprocess.run(
            command,
            input=None if values is None else yaml.safe_dump(values),
            capture_output=True, text=True, timeout=HELM_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def install(self) -> None:
        """`helm upgrade --install`, waiting until operator and gateway are Ready."""
        self.helm(
            "upgrade", "--install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout=180s",
            values=self.values,
        )  # fmt: skip

    def apply(self, *documents: dict[str, Any]) -> None:
        """As `kubectl apply` does, by the user's own field manager."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def pool(self, kind: str, name: str) -> dict[str, Any]:
        """The custom resource as it is."""
        found: dict[str, Any] = self.kubectl.get(kind, name, f"--namespace={SERVING}")
        return found

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any]:
        """One condition of a custom resource; empty when it has none of this type."""
        conditions = self.pool(kind, name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    def until_ready(self, kind: str, name: str, replicas: int | None = None) -> dict[str, Any]:
        """Wait until the status speaks of the present spec, is Ready, and counts `replicas` ready ones."""

        def ready() -> dict[str, Any] | None:
            found = self.pool(kind, name)
            status = found.get("status", {})
            conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            settled = conditions.get("Ready") == "True" and conditions.get("Reconciling") != "True"
            enough = (
                replicas is None or (status.get("readyReplicas"), status.get("replicas")) == (replicas,) * 2
            )
            return found if current and settled and enough else None

        result: dict[str, Any] = until(ready, f"{kind}/{name} is Ready with {replicas} replicas")
        return result

    def pods(self, selector: str, namespace: str = SERVING) -> list[dict[str, Any]]:
        """Pods that are not being deleted."""
        items = self.kubectl.get("pods", f"--namespace={namespace}", f"--selector={selector}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def pool_pods(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Pods of a pool."""
        return self.pods(f"prfaas.io/pool={name},prfaas.io/pool-kind={kind}")

    @property
    def gateway_url(self) -> str:
        """The gateway's Service, reachable from this machine."""
        services = self.kubectl.get(
            "services", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=gateway"
        )["items"]
        spec = next(each["spec"] for each in services if each["spec"]["clusterIP"] != "None")
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def gateway_sees(self) -> list[dict[str, Any]]:
        """`/status` of every gateway pod's health port."""
        seen = []
        for pod in self.pods("app.kubernetes.io/component=gateway", SYSTEM):
            with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8002/status", timeout=5) as answer:
                seen.append(json.load(answer))
        return seen

    def describe(self) -> str:
        """What a person would look at first when something is wrong."""
        parts = []
        for arguments in (
            ("get", "prfaas,deployments,pods", "--all-namespaces", "--output=wide"),
            ("get", "events", f"--namespace={SERVING}", "--sort-by=.lastTimestamp"),
            ("logs", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=operator", "--tail=40"),
            ("logs", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=gateway", "--tail=40"),
        ):
            try:
                parts.append(self.kubectl(*arguments))
            except ClusterError as error:
                parts.append(str(error))
        return "\n\n".join(parts)


def restarts(pods: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Container restarts by pod UID, sidecars included."""
    return {
        pod["metadata"]["uid"]: sum(
            each["restartCount"]
            for part in ("containerStatuses", "initContainerStatuses")
            for each in pod["status"].get(part, [])
        )
        for pod in pods
    }
