"""What of the user's template cannot be combined with what prfaas adds. Nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from prfaas.api.conditions import Reason
from prfaas.api.keys import ANNOTATION_DELETION_COST, GROUP, LABEL_MANAGED_BY, LABEL_ROLE, PREFILL_POOL
from prfaas.api.v1alpha1 import Pool, quantity_bytes
from prfaas_operator.injection import names
from prfaas_operator.injection.containers import SIDECAR_MEMORY_LEAST_BYTES, sidecar_resources
from prfaas_operator.injection.quantities import amount, is_guaranteed, limits_of, text_of_bytes
from prfaas_operator.injection.results import Refusal
from prfaas_operator.injection.shapes import POD_FIELD, TEMPLATE_FIELD

# What an engine needs beside the arena, at the very least: an interpreter with torch.
ENGINE_MEMORY_LEAST_BYTES = 512 << 20
_PLACES = (names.RUN_PATH, names.CONNECTOR_PATH)


def conflicts(pool: Pool, template: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Refusal]:
    """All but the engine's command line.

    Args:
        labels: those that the pods will get.
    """
    pod = template["spec"]
    engine = engine_of(pool, pod)
    yield from _metadata(template.get("metadata") or {}, labels)
    yield from _names(pod)
    yield from _ports(pool, pod)
    yield from _mounts(engine, container_field(pool))
    yield from _python_path(engine, container_field(pool))
    yield from _drain(pool, pod, engine)
    try:
        yield from _memory(pool, pod, engine)
    except (ValueError, ArithmeticError) as error:
        yield _conflict(f"{POD_FIELD}.containers", f"an amount of resources cannot be read: {error}")


def engine_of(pool: Pool, pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's container; empty when there is none."""
    wanted = pool.spec.engine.container
    return next((one for one in pod.get("containers") or [] if one.get("name") == wanted), {})


def container_field(pool: Pool) -> str:
    """Path of the engine's container in the pool."""
    return f"{POD_FIELD}.containers[{pool.spec.engine.container}]"


def user_containers(pod: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Every container with its path."""
    return [
        (f"{POD_FIELD}.{group}[{container.get('name')}]", container)
        for group in ("initContainers", "containers")
        for container in pod.get(group) or []
    ]


def grace_seconds(pool: Pool) -> int:
    """The least grace period that the drain and the end after it fit into."""
    return pool.spec.drain.timeout_seconds + names.SHUTDOWN_SECONDS


def _conflict(field: str, message: str) -> Refusal:
    return Refusal(field, Reason.FIELD_CONFLICT, message)


def _metadata(metadata: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Refusal]:
    for kind, reserved in (
        ("labels", {LABEL_MANAGED_BY, LABEL_ROLE}),
        ("annotations", {ANNOTATION_DELETION_COST}),
    ):
        for key, value in (metadata.get(kind) or {}).items():
            if kind == "labels" and labels.get(key) == value:
                continue
            if key in reserved or key.split("/", 1)[0] == GROUP:
                yield _conflict(
                    f"{TEMPLATE_FIELD}.metadata.{kind}[{key}]", f"{key} is set by prfaas: remove it"
                )


def _names(pod: Mapping[str, Any]) -> Iterator[Refusal]:
    volumes = {names.RUN_VOLUME, names.CONNECTOR_VOLUME, names.TLS_VOLUME, names.PEERS_VOLUME}
    for volume in pod.get("volumes") or []:
        if volume.get("name") in volumes:
            yield _conflict(
                f"{POD_FIELD}.volumes[{volume['name']}]", "prfaas adds a volume of this name: rename yours"
            )
    for field, container in user_containers(pod):
        if container.get("name") in (names.SIDECAR, names.CARRIER):
            yield _conflict(
                field,
                "prfaas adds a container of this name: rename yours, or remove it if it was copied from a "
                "pod of a pool",
            )


def _ports(pool: Pool, pod: Mapping[str, Any]) -> Iterator[Refusal]:
    taken = {port: name for name, port in names.SIDECAR_PORTS.items()}
    if pool.spec.engine.port in taken:
        yield _conflict("spec.engine.port", f"{pool.spec.engine.port} is the sidecar's: use another")
    for field, container in user_containers(pod):
        mine = container.get("name") == pool.spec.engine.container
        for port in container.get("ports") or []:
            number, name = port.get("containerPort"), str(port.get("name", ""))
            if port.get("protocol", "TCP") == "TCP" and number in taken:
                yield _conflict(f"{field}.ports", f"port {number} is the sidecar's: use another")
            elif port.get("protocol", "TCP") == "TCP" and number == pool.spec.engine.port and not mine:
                yield _conflict(
                    f"{field}.ports",
                    f"port {number} is the engine's (spec.engine.port): use another for one of them",
                )
            if name.startswith(names.RESERVED_PREFIX):
                yield _conflict(f"{field}.ports", f"names like {name} are prfaas's: rename the port")


def _mounts(engine: Mapping[str, Any], field: str) -> Iterator[Refusal]:
    for mount in engine.get("volumeMounts") or []:
        path = PurePosixPath(str(mount.get("mountPath", "")))
        for place in map(PurePosixPath, _PLACES):
            inside = path.is_relative_to(place)
            above = place.is_relative_to(path) and mount.get("readOnly", False)
            if inside or above:
                yield _conflict(
                    f"{field}.volumeMounts[{path}]",
                    f"prfaas mounts a volume at {place}, which does not go together with this: mount yours "
                    "elsewhere",
                )


def _python_path(engine: Mapping[str, Any], field: str) -> Iterator[Refusal]:
    for variable in engine.get("env") or []:
        if variable.get("name") == "PYTHONPATH" and "valueFrom" in variable:
            yield _conflict(
                f"{field}.env[PYTHONPATH]",
                "the connector's folder has to stand before this value, which is not known here: write it "
                "as a "
                "literal value",
            )


def _drain(pool: Pool, pod: Mapping[str, Any], engine: Mapping[str, Any]) -> Iterator[Refusal]:
    if pool.spec.drain.timeout_seconds == 0:
        return
    if (engine.get("lifecycle") or {}).get("preStop") is not None:
        yield _conflict(
            f"{container_field(pool)}.lifecycle.preStop",
            "prfaas drains the pod here: remove it, or set spec.drain.timeoutSeconds: 0 to keep yours and "
            "have no drain",
        )
    needed, given = grace_seconds(pool), pod.get("terminationGracePeriodSeconds")
    if given is not None and int(given) < needed:
        shorter = int(given) - names.SHUTDOWN_SECONDS
        remedy = (
            f"lower spec.drain.timeoutSeconds to {shorter}"
            if shorter > 0
            else "set spec.drain.timeoutSeconds: 0"
        )
        yield Refusal(
            f"{POD_FIELD}.terminationGracePeriodSeconds",
            Reason.GRACE_PERIOD_TOO_SHORT,
            f"{given} s do not hold a drain of {pool.spec.drain.timeout_seconds} s and "
            f"{names.SHUTDOWN_SECONDS} s to "
            f"end after it: remove the field, raise it to {needed}, or {remedy}",
        )


def _memory(pool: Pool, pod: Mapping[str, Any], engine: Mapping[str, Any]) -> Iterator[Refusal]:
    if (pod.get("resources") or {}).get("limits") or (pod.get("resources") or {}).get("requests"):
        yield _conflict(
            f"{POD_FIELD}.resources",
            "resources of the pod as a whole leave no room for the sidecar: set them per container",
        )
    arena = quantity_bytes(pool.spec.kv.arena)
    limit = limits_of(engine).get("memory")
    needed = arena + ENGINE_MEMORY_LEAST_BYTES
    if pool.kind == PREFILL_POOL and limit is not None and amount(limit) < needed:
        yield Refusal(
            f"{container_field(pool)}.resources.limits.memory",
            Reason.MEMORY_LIMIT_TOO_SMALL,
            f"in a prefill pod the engine's limit holds spec.kv.arena ({pool.spec.kv.arena}) too, and "
            f"{limit} leave "
            f"less than {text_of_bytes(ENGINE_MEMORY_LEAST_BYTES)} beside it: raise it to what the engine "
            "needs plus "
            "the arena, or make the arena smaller",
        )
    guaranteed = is_guaranteed([container for _, container in user_containers(pod)])
    resources = sidecar_resources(pool, guaranteed=guaranteed)
    least = SIDECAR_MEMORY_LEAST_BYTES + (0 if pool.kind == PREFILL_POOL else arena)
    memory = resources.get("limits", {}).get("memory")
    if memory is not None and amount(memory) < least:
        yield Refusal(
            "spec.sidecar.resources.limits.memory",
            Reason.MEMORY_LIMIT_TOO_SMALL,
            f"the sidecar needs {text_of_bytes(SIDECAR_MEMORY_LEAST_BYTES)} beside the arena: raise it",
        )
    if pool.spec.sidecar.resources is None or not guaranteed:
        return
    cpu = resources.get("limits", {}).get("cpu")
    if not is_guaranteed([{"resources": resources}]) or cpu is None or amount(cpu) % 1:
        yield _conflict(
            "spec.sidecar.resources",
            "the template's pods are Guaranteed, and this would take that from them: set limits of whole "
            "CPUs and of "
            "memory, and no requests that differ, or remove the field",
        )
