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

import pytest
import yaml

from prfaas_cluster import assets, engine_pods, product, providers
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.oci import copy_image
from prfaas_cluster.record import Record
from prfaas_setup import locations
from prfaas_setup.images import ensure_images

RELEASE = "prfaas"
SYSTEM = "prfaas"
SERVING = "serving"
HELM_SECONDS = 300.0
READY_SECONDS = 300.0
POLL_SECONDS = 0.25
PREFILL, DECODE = "long", "chat"
THRESHOLD_TOKENS = 500
LAST_NODE_LABEL = "example.org/last"
CHART = locations.checkout() / "charts" / "prfaas"

# The engines of a node that has gone get successors after seconds, and not after the usual five minutes.
_LEAVES_SOON = [
    {
        "key": f"node.kubernetes.io/{state}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 2,
    }
    for state in ("not-ready", "unreachable")
]
_SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"prfaas.io/pool": DECODE}},
    "matchLabelKeys": ["pod-template-hash"],
}
_LAST_NODE = {
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "preference": {"matchExpressions": [{"key": LAST_NODE_LABEL, "operator": "Exists"}]},
            }
        ]
    }
}


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
        prepared = cls(record, kubectl, values, host)
        kubectl("label", "node", prepared.nodes()[-1], f"{LAST_NODE_LABEL}=", "--overwrite")
        return prepared

    def nodes(self) -> list[str]:
        """Their names, in order."""
        return sorted(node["metadata"]["name"] for node in self.kubectl.get("nodes")["items"])

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

    def install(self, chart: Path = CHART, **values: Any) -> None:
        """`helm upgrade --install`, waiting until operator and gateway are Ready. `values` come on top."""
        self.helm(
            "upgrade", "--install", RELEASE, str(chart), "--create-namespace", "--wait", "--timeout=180s",
            values={**self.values, **values},
        )  # fmt: skip

    def apply_fleet(
        self,
        *,
        arguments: tuple[str, ...] = (),
        scaling: dict[str, Any] | None = None,
        sidecar_of_prefill: str = "Rolling",
        **decode: Any,
    ) -> None:
        """One prefill engine, the decode pool and the route between them.

        The decode pool's manifest has no replicas: they are left to `/scale`, as with GitOps.

        Args:
            arguments: of all engines, beyond the usual ones.
            scaling: of the decode pool; by default an autoscaler's matter.
            decode: fields of the decode pool's spec that are added.
        """
        self.apply(
            engine_pods.pool(
                "PrefillPool", PREFILL, SERVING, self.template("PrefillPool", arguments),
                replicas=1, sidecar={"upgrade": sidecar_of_prefill},
            ),
            engine_pods.pool(
                "DecodePool", DECODE, SERVING, self.template("DecodePool", arguments),
                scaling=scaling or {"mode": "External"}, **decode,
            ),
        )  # fmt: skip
        self.apply_route(mode="Enforce")

    def apply_route(self, **spec: Any) -> None:
        """The route, with these fields."""
        self.apply(engine_pods.route(DECODE, SERVING, DECODE, PREFILL, THRESHOLD_TOKENS, **spec))

    def template(self, kind: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
        """Pods that leave a lost node soon, decode engines on both nodes, the prefill engine on the last."""
        template = engine_pods.pod_template(self.host, arguments=arguments)
        template["spec"] |= {"tolerations": _LEAVES_SOON} | (
            {"topologySpreadConstraints": [_SPREAD]} if kind == "DecodePool" else {"affinity": _LAST_NODE}
        )
        probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1, "failureThreshold": 600}
        template["spec"]["containers"][0]["startupProbe"] = probe
        return template

    def scale_decode(self, replicas: int) -> None:
        """Through `/scale`."""
        self.kubectl("scale", f"decodepool/{DECODE}", f"--replicas={replicas}", f"--namespace={SERVING}")

    def until_compatible(self) -> None:
        """Wait until the route has a pair of engines that can exchange KV."""
        until(
            lambda: self.condition("prefillroute", DECODE, "KVCompatible").get("status") == "True",
            "the route's pools are compatible",
        )

    def apply(self, *documents: dict[str, Any]) -> None:
        """As `kubectl apply` does, by the user's own field manager."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def dry_run(self, document: dict[str, Any]) -> str:
        """What the server would store, as YAML. Raises ClusterError when it would not."""
        return self.kubectl(
            "apply", "--dry-run=server", "--output=yaml", "--filename=-", stdin=yaml.safe_dump(document)
        )

    def load_sidecar_as(self, folder: Path, tag: str) -> str:
        """Make the sidecar's image known under another tag, as that of another version. Returns its name."""
        image = ensure_images(["sidecar"])["sidecar"]
        reference = f"{image.reference.rpartition(':')[0]}:{tag}"
        archive = folder / "sidecar.tar"
        copy_image(image.archive, archive, reference)
        providers.load_image(self.record.name, archive)
        return reference

    def pool(self, kind: str, name: str) -> dict[str, Any]:
        """The custom resource as it is."""
        found: dict[str, Any] = self.kubectl.get(
            kind, name, f"--namespace={SERVING}", "--show-managed-fields"
        )
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

    def engines_on(self, node: str) -> set[str]:
        """Names of pools' pods on a node, ending ones included."""
        found = self.kubectl.get(
            "pods", f"--namespace={SERVING}", f"--field-selector=spec.nodeName={node}",
            "--selector=prfaas.io/pool",
        )  # fmt: skip
        return {pod["metadata"]["name"] for pod in found["items"]}

    @property
    def gateway_url(self) -> str:
        """The gateway's Service, reachable from this machine."""
        services = self.kubectl.get(
            "services", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=gateway"
        )["items"]
        spec = next(each["spec"] for each in services if each["spec"]["clusterIP"] != "None")
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def gateway_sees(self, path: str = "/status") -> list[dict[str, Any]]:
        """What every gateway pod's health port answers."""
        seen = []
        for pod in self.pods("app.kubernetes.io/component=gateway", SYSTEM):
            with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8002{path}", timeout=5) as answer:
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


def two_nodes(stage: Stage) -> tuple[str, str]:
    """The first and the last node; the test is skipped where that is the same one."""
    nodes = stage.nodes()
    if len(nodes) < 2:
        pytest.skip("the cluster has one node: prfaas cluster up --nodes 2")
    return nodes[0], nodes[-1]


def uids(pods: Sequence[dict[str, Any]]) -> set[str]:
    """Which pods these are."""
    return {pod["metadata"]["uid"] for pod in pods}


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
