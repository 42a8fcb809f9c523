"""A cluster without kubelets: real etcd, API server, controller manager and scheduler; kwok plays the nodes.

Everything runs as processes beside one another, without root and without network namespaces. Pods have
addresses of this machine's own loopback network, so that one process can answer for all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from prfaas.kube.client import KubeClient, connect
from prfaas.kube.resources import DEFINITIONS, NAMESPACES, Object, Resource
from prfaas_bench.control_plane.usage import cpu_seconds
from prfaas_bench.control_plane.waiting import until
from prfaas_cluster import assets
from prfaas_cluster.apiserver import ApiServer
from prfaas_cluster.bare.manifests import fake_node
from prfaas_cluster.bare.settings import FAKE_NODE_ANNOTATION
from prfaas_cluster.process import Process

NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
OPERATOR, PEER, ADMIN = "prfaas-operator", "peer-operator", "admin"
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "disruption-controller",
    "garbage-collector-controller", "node-lifecycle-controller",
)  # fmt: skip
# kwok numbers the pods from here on.
POD_NETWORK = "127.128.0.1/16"
# Their own limits (20 and 50 a second) would be measured instead of the operator.
CLIENT_LIMITS = {"kube-api-qps": "1000", "kube-api-burst": "2000"}
PODS_PER_NODE = 100
READY_SECONDS = 60.0
_HELPERS = ("system:kube-controller-manager", "system:kube-scheduler", "kwok")


class FakeCluster:
    """It within `running`.

    Attributes:
        kubeconfig: of an administrator.
        audit_log: every write of the two operators, and every write to pools, as JSON lines.
        api: an administrator's client.
    """

    def __init__(
        self, folder: Path, server: ApiServer, audit_log: Path, api: KubeClient, helpers: Sequence[Process]
    ) -> None:
        self.folder = folder
        self.kubeconfig = server.kubeconfig
        self.audit_log = audit_log
        self.api = api
        self._server = server
        self._helpers = helpers

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the whole control plane so far, kwok included."""
        pids = self._server.process_ids() | {helper.pid for helper in self._helpers if helper.pid is not None}
        return sum(cpu_seconds(pid) for pid in pids)

    def kubeconfig_of(self, user: str) -> Path:
        """Of a user that may do all, by RBAC: an administrator would pass the server's queues by."""
        return self._server.kubeconfig_of(user)

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, crds: Sequence[Object], nodes: int) -> AsyncIterator[FakeCluster]:
        """One that is ready, with its nodes and definitions, and gone after the block.

        Args:
            folder: empty.

        Raises:
            ClusterError: a program ended; the text holds the end of its log.
            SetupError: a program cannot be had here.
            TimeoutError: nodes or definitions did not become ready.
        """
        audit_log, policy = folder / "audit.log", folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(audit_policy()))
        (folder / "server").mkdir()
        flags = {"audit-log-path": str(audit_log), "audit-policy-file": str(policy)}
        with ApiServer.running(folder / "server", arguments=flags) as server:
            api = await connect(str(server.kubeconfig))
            helpers = _helpers(folder, server)
            try:
                made = cls(folder, server, audit_log, api, helpers)
                await api.create(ROLE_BINDINGS, all_rights((*_HELPERS, OPERATOR, PEER)))
                for helper in helpers:
                    helper.start()
                await made._prepare(crds, nodes)
                yield made
            finally:
                for helper in reversed(helpers):
                    helper.stop()
                await api.close()

    async def _prepare(self, crds: Sequence[Object], nodes: int) -> None:
        for definition in crds:
            await self.api.create(DEFINITIONS, definition)
        for number in range(nodes):
            await self.api.create(NODES, fake_node(number))

        async def ready() -> bool:
            definitions = await self.api.list(DEFINITIONS)
            found = await self.api.list(NODES)
            return (
                all(_condition(each, "Established") for each in definitions)
                and len(found) == nodes
                and all(_condition(each, "Ready") and not _is_tainted(each) for each in found)
            )

        await until(ready, "nodes and definitions are ready", READY_SECONDS, pause_seconds=0.2)

    async def add_namespace(self, name: str) -> None:
        await self.api.create(NAMESPACES, {"metadata": {"name": name}})


def _helpers(folder: Path, server: ApiServer) -> list[Process]:
    """Controller manager, scheduler and kwok, not started yet."""
    manager, scheduler, kwok = (str(server.kubeconfig_of(user)) for user in _HELPERS)
    common = {"cert-dir": str(folder), "leader-elect": "false", "secure-port": "0", **CLIENT_LIMITS}
    flags: dict[str, dict[str, str]] = {
        "kube-controller-manager": {
            **common,
            "kubeconfig": manager,
            "controllers": ",".join(CONTROLLERS),
            "concurrent-deployment-syncs": "10",
        },
        "kube-scheduler": {**common, "kubeconfig": scheduler},
        "kwok": {
            "kubeconfig": kwok,
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": f"{FAKE_NODE_ANNOTATION}=fake",
            "node-lease-duration-seconds": "40",
            "cidr": POD_NETWORK,
        },
    }
    stages = [f"--config={stage}" for stage in assets.kwok_stages() if "kustomization" not in stage.name]
    return [
        Process(
            name,
            [
                str(assets.program(name)),
                *(f"--{flag}={value}" for flag, value in chosen.items()),
                *(stages if name == "kwok" else []),
            ],
            folder / f"{name}.log",
        )
        for name, chosen in flags.items()
    ]


def audit_policy() -> dict[str, Any]:
    """Who wrote what and when, without bodies; reads and all other users are left out."""
    writes = ["create", "update", "patch", "delete", "deletecollection"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "users": [OPERATOR, PEER], "verbs": writes},
            {
                "level": "Metadata",
                "users": [ADMIN],
                "verbs": writes,
                "resources": [{"group": "prfaas.io"}, {"group": "bench.prfaas.io"}],
            },
            {"level": "None"},
        ],
    }


def all_rights(users: Sequence[str]) -> Object:
    """Users who may do all."""
    return {
        "metadata": {"name": "bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [
            {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user} for user in users
        ],
    }


def _condition(body: Mapping[str, Any], type_: str) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(each["type"] == type_ and each["status"] == "True" for each in conditions)


def _is_tainted(node: Mapping[str, Any]) -> bool:
    """Beyond the taint of fake nodes: one that is new is not ready at first."""
    return any(taint["key"] != FAKE_NODE_ANNOTATION for taint in node["spec"].get("taints") or [])
