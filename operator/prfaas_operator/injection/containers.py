"""The two containers that a pool's pod gets, and their volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prfaas.api.keys import PREFILL_POOL, peers_config_map, tls_secret
from prfaas.api.v1alpha1 import Pool, quantity_bytes
from prfaas_operator.injection import names
from prfaas_operator.injection.quantities import amount, text_of_bytes
from prfaas_operator.injection.reach import host_port
from prfaas_operator.injection.settings import Settings

_MEBIBYTE = 1 << 20
# Outside the arena the sidecar stays below 80 MiB (docs/sidecar.md), and wants 128 MiB to be there.
SIDECAR_MEMORY_BYTES = 256 * _MEBIBYTE
SIDECAR_MEMORY_LEAST_BYTES = 128 * _MEBIBYTE
# Whole CPUs: the kubelet's static policy gives those of a Guaranteed pod to a container of its own.
GUARANTEED_CPU = "1"
_CARRIER = {"cpu": "100m", "memory": "64Mi"}
# A secret's files belong to root, and a common group would need fsGroup. Only the sidecar mounts them.
_TLS_MODE = 0o444
# Four model files of 64 MiB at most, once more while they are replaced.
_RUN_BYTES = 512 * _MEBIBYTE
_CONNECTOR_BYTES = 64 * _MEBIBYTE
# What a user of an image is where the pod itself says nothing or says root.
_OWN_USER = 65532


def volumes(pool: Pool, settings: Settings) -> list[dict[str, Any]]:
    """Volumes to add to the pod."""
    kind, name = pool.kind, pool.metadata.name
    connector: dict[str, Any] = {"emptyDir": {"sizeLimit": text_of_bytes(_CONNECTOR_BYTES)}}
    if settings.connector_as_image_volume:
        connector = {"image": {"reference": settings.connector_image, **_volume_pull_policy(settings)}}
    return [
        {"name": names.RUN_VOLUME, "emptyDir": {"sizeLimit": text_of_bytes(_RUN_BYTES)}},
        {"name": names.CONNECTOR_VOLUME, **connector},
        {
            "name": names.TLS_VOLUME,
            "secret": {"secretName": tls_secret(kind, name), "defaultMode": _TLS_MODE},
        },
        {
            "name": names.PEERS_VOLUME,
            "configMap": {"name": peers_config_map(kind, name), "optional": True},
        },
    ]


def engine_mounts(settings: Settings) -> list[dict[str, Any]]:
    """Mounts to add to the engine's container."""
    connector: dict[str, Any] = {
        "name": names.CONNECTOR_VOLUME,
        "mountPath": names.CONNECTOR_PATH,
        "readOnly": True,
    }
    if settings.connector_as_image_volume:
        connector["subPath"] = "connector"
    return [{"name": names.RUN_VOLUME, "mountPath": names.RUN_PATH}, connector]


def node_ports(pool: Pool) -> list[dict[str, Any]]:
    """The node's port that leads to the sidecar's peer port, to add to the engine's container.

    Ports of a node lead to the pod, whichever container names them. Kubelets open none that an init container
    names, not even for one that goes on running, as the sidecar does.
    """
    number = host_port(pool)
    if number is None:
        return []
    port = {"containerPort": names.PEER_PORT, "hostPort": number, "protocol": "TCP"}
    return [{"name": names.NODE_PORT_NAME, **port}]


def init_containers(
    pool: Pool, settings: Settings, config: str, pod: Mapping[str, Any], *, guaranteed: bool
) -> list[dict[str, Any]]:
    """What goes before the user's init containers.

    The sidecar comes first: what is wrong with it shows before an init container of the user's has fetched a
    model for an hour.
    """
    sidecar = _sidecar(pool, settings, config, pod, sidecar_resources(pool, guaranteed=guaranteed))
    if settings.connector_as_image_volume:
        return [sidecar]
    return [sidecar, _carrier(settings, pod, guaranteed=guaranteed)]


def sidecar_resources(pool: Pool, *, guaranteed: bool) -> dict[str, dict[str, str]]:
    """What the sidecar may use: the user's choice or prfaas's, and in a decode pod the arena on top."""
    chosen = pool.spec.sidecar.resources
    if chosen is not None:
        requests, limits = dict(chosen.requests), dict(chosen.limits)
    elif guaranteed:
        limits = {"cpu": GUARANTEED_CPU, "memory": text_of_bytes(SIDECAR_MEMORY_BYTES)}
        requests = dict(limits)
    else:
        # No limit on CPU: a throttled sidecar holds up every transfer.
        requests = {"cpu": "100m", "memory": text_of_bytes(SIDECAR_MEMORY_LEAST_BYTES)}
        limits = {"memory": text_of_bytes(SIDECAR_MEMORY_BYTES)}
    if pool.kind != PREFILL_POOL:
        arena = quantity_bytes(pool.spec.kv.arena)
        for amounts in (requests, limits):
            if "memory" in amounts:
                amounts["memory"] = text_of_bytes(int(amount(amounts["memory"])) + arena)
    return {key: amounts for key, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _sidecar(
    pool: Pool, settings: Settings, config: str, pod: Mapping[str, Any], resources: Mapping[str, Any]
) -> dict[str, Any]:
    probes: dict[str, Any] = {
        "startupProbe": {**_get("/healthz"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {
            **_get("/healthz"),
            "periodSeconds": 10,
            "failureThreshold": 6,
            "timeoutSeconds": 5,
        },
    }
    if pool.kind == PREFILL_POOL:
        # A prefill pod whose sidecar cannot ship is of no use; a decode pod still serves by itself.
        probes["readinessProbe"] = {
            **_get("/readyz"),
            "periodSeconds": 2,
            "failureThreshold": 2,
            "timeoutSeconds": 2,
        }
    return {
        "name": names.SIDECAR,
        "image": settings.sidecar_image,
        **_pull_policy(settings),
        "restartPolicy": "Always",
        "args": ["--config-env", names.SIDECAR_CONFIG_VARIABLE],
        "env": [{"name": names.SIDECAR_CONFIG_VARIABLE, "value": config}],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in names.SIDECAR_PORTS.items()
        ],
        "resources": dict(resources),
        "securityContext": _security(pod),
        **probes,
        "volumeMounts": [
            {"name": names.RUN_VOLUME, "mountPath": names.RUN_PATH},
            {"name": names.TLS_VOLUME, "mountPath": names.TLS_PATH, "readOnly": True},
            {"name": names.PEERS_VOLUME, "mountPath": names.PEERS_PATH, "readOnly": True},
        ],
    }


def _carrier(settings: Settings, pod: Mapping[str, Any], *, guaranteed: bool) -> dict[str, Any]:
    requests = {**_CARRIER}
    return {
        "name": names.CARRIER,
        "image": settings.connector_image,
        **_pull_policy(settings),
        "args": [names.CONNECTOR_PATH],
        "resources": {"requests": requests, "limits": dict(requests if guaranteed else {"memory": "64Mi"})},
        "securityContext": _security(pod),
        "volumeMounts": [{"name": names.CONNECTOR_VOLUME, "mountPath": names.CONNECTOR_PATH}],
    }


def _security(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Restricted by the Pod Security Standards, whatever the pod's other containers are.

    A user id is set only against a pod that is root as a whole. Elsewhere it is the image's, or the one that
    the pod or OpenShift chooses for all its containers, which would refuse a pod that names another.
    """
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if (pod.get("securityContext") or {}).get("runAsUser") == 0:
        context |= {"runAsUser": _OWN_USER, "runAsGroup": _OWN_USER}
    return context


def _get(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": names.HEALTH_PORT}}


def _pull_policy(settings: Settings) -> dict[str, Any]:
    return {} if settings.image_pull_policy is None else {"imagePullPolicy": settings.image_pull_policy}


def _volume_pull_policy(settings: Settings) -> dict[str, Any]:
    return {} if settings.image_pull_policy is None else {"pullPolicy": settings.image_pull_policy}
