"""The peer: an operator as tutorials write it, which makes the same Deployment.

Handlers of kopf for creation and update, the official client's synchronous calls, kopf's own bookkeeping.
No status, no certificates, no drift, no leader election.
"""

from __future__ import annotations

from typing import Any

import kopf
import kubernetes

from prfaas_bench.control_plane.bodies import PEER_LABEL, PEER_POOLS


@kopf.on.create(PEER_POOLS.group, PEER_POOLS.version, PEER_POOLS.plural)
def create(spec: kopf.Spec, name: str, namespace: str | None, **_: Any) -> dict[str, str]:
    """Make the Deployment."""
    apps: Any = kubernetes.client.AppsV1Api()
    apps.create_namespaced_deployment(namespace, _deployment(spec, name))
    return {"deployment": name}


@kopf.on.update(PEER_POOLS.group, PEER_POOLS.version, PEER_POOLS.plural)
def update(spec: kopf.Spec, name: str, namespace: str | None, **_: Any) -> None:
    """Bring the Deployment to the new template."""
    apps: Any = kubernetes.client.AppsV1Api()
    apps.patch_namespaced_deployment(name, namespace, _deployment(spec, name))


def _deployment(spec: kopf.Spec, name: str) -> dict[str, Any]:
    template = dict(spec["workload"]["template"])
    labels = {**template["metadata"]["labels"], PEER_LABEL: name}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {PEER_LABEL: name}},
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": {"matchLabels": {PEER_LABEL: name}},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }
    kopf.adopt(body)
    return body


def main() -> None:
    """Run it until a signal, in the cluster that KUBECONFIG names."""
    config: Any = kubernetes.config
    config.load_kube_config()
    kopf.configure(verbose=False)
    kopf.run(clusterwide=True, standalone=True)


if __name__ == "__main__":
    main()
