"""What of a hub's objects belongs into this cluster, and in which form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prfaas.api import keys
from prfaas.api.conditions import Reason
from prfaas_operator.federation.pod_rules import forbidden
from prfaas_operator.federation.values import HubObject, HubPicture, MirrorSettings, ObjectKey, Refused

POOLS = (keys.PREFILL_POOL, keys.DECODE_POOL)
EVERYWHERE = (keys.REGION, keys.KV_LINK)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bodies to apply by key, and what is not carried out."""

    bodies: Mapping[ObjectKey, Mapping[str, Any]]
    refused: tuple[Refused, ...]


def wanted(hub: HubPicture, settings: MirrorSettings) -> Wanted:
    """What the hub wants here: everything public, what names this cluster, and what that refers to."""
    objects = {each.key: each for each in hub.objects}
    bodies: dict[ObjectKey, Mapping[str, Any]] = {}
    refused: list[Refused] = []
    for key in sorted(_chosen(objects, settings.cluster)):
        found = objects[key]
        why_not = _why_not(found, settings)
        if why_not is not None:
            refused.append(Refused(key, Reason.MIRROR_REFUSED, why_not))
        else:
            bodies[key] = _body(found, hub.uid, settings.cluster)
    return Wanted(bodies, tuple(refused))


def clusters_of(spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names in `spec.placement`; None without one."""
    placement = spec.get("placement")
    if not isinstance(placement, Mapping):
        return None
    places = placement.get("clusters") or ()
    return tuple(str(place.get("name")) for place in places if isinstance(place, Mapping))


def pools_of_route(key: ObjectKey, spec: Mapping[str, Any]) -> tuple[ObjectKey, ...]:
    """The pools that a route names."""
    decode = spec.get("decodePoolRef")
    prefill = spec.get("prefillPoolRefs") or ()
    return (
        *(ObjectKey(keys.DECODE_POOL, key.namespace, name) for name in _names((decode,))),
        *(ObjectKey(keys.PREFILL_POOL, key.namespace, name) for name in _names(prefill)),
    )


def _chosen(objects: Mapping[ObjectKey, HubObject], cluster: str) -> set[ObjectKey]:
    chosen = {key for key in objects if key.kind in EVERYWHERE}
    own_pools = {
        key
        for key, found in objects.items()
        if key.kind in POOLS and cluster in (clusters_of(found.spec) or ())
    }
    pools = set(own_pools)
    for key, found in objects.items():
        if key.kind != keys.PREFILL_ROUTE:
            continue
        named = pools_of_route(key, found.spec)
        if cluster in (clusters_of(found.spec) or ()) or own_pools.intersection(named):
            chosen.add(key)
            pools.update(pool for pool in named if pool in objects)
    chosen |= pools
    chosen.update(profile for pool in pools if (profile := _profile(objects[pool])) in objects)
    return chosen


def _profile(pool: HubObject) -> ObjectKey:
    model = pool.spec.get("model")
    names = tuple(_names((model.get("profileRef"),))) if isinstance(model, Mapping) else ()
    return ObjectKey(keys.MODEL_KV_PROFILE, pool.key.namespace, names[0] if names else "")


def _names(references: Iterable[Any]) -> Iterator[str]:
    for each in references:
        if isinstance(each, Mapping) and isinstance(each.get("name"), str):
            yield each["name"]


def _why_not(found: HubObject, settings: MirrorSettings) -> str | None:
    key = found.key
    if key.kind in EVERYWHERE:
        return None
    if key.namespace not in settings.allowed_namespaces:
        return (
            f"namespace {key.namespace} is not open to the hub: add it to federation.allowedNamespaces of "
            "this cluster, or place the object elsewhere"
        )
    if key.kind not in POOLS:
        return None
    clusters = clusters_of(found.spec)
    if clusters is None:
        # Here, an object without a placement would mean this cluster.
        return (
            "it has no placement in the hub, so it runs in the hub's own cluster: say so by "
            "spec.placement.clusters, so that routes of other clusters can name it"
        )
    if settings.cluster in clusters:
        problems = forbidden(
            found.spec, key.namespace, settings.allowed_service_accounts, settings.allowed_host_paths
        )
        return "; ".join(problems) or None
    return None


def _body(found: HubObject, hub_uid: str, cluster: str) -> dict[str, Any]:
    key = found.key
    metadata: dict[str, Any] = {
        "name": key.name,
        "labels": {keys.LABEL_MIRRORED: "true"},
        "annotations": {
            keys.ANNOTATION_MIRRORED_FROM: f"{hub_uid}/{key.namespace}/{key.name}/{found.generation}"
        },
    }
    if key.namespace:
        metadata["namespace"] = key.namespace
    spec = resolved(found.spec, cluster) if key.kind in POOLS else dict(found.spec)
    return {"metadata": metadata, "spec": spec}


def resolved(spec: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """A pool's spec with what its placement says of the cluster, without replicas that are decided here."""
    after = dict(spec)
    raw = spec.get("scaling")
    scaling = dict(raw) if isinstance(raw, Mapping) else {}
    mode = scaling.get("mode", "Static")
    place = _place(spec, cluster)
    if mode != "Static":
        after.pop("replicas", None)
    elif "replicas" in place:
        after["replicas"] = place["replicas"]
    if mode == "Managed":
        bounds = {name: place[name] for name in ("minReplicas", "maxReplicas") if name in place}
        if bounds:
            after["scaling"] = {**scaling, **bounds}
    return after


def _place(spec: Mapping[str, Any], cluster: str) -> Mapping[str, Any]:
    placement = spec.get("placement")
    places = placement.get("clusters") or () if isinstance(placement, Mapping) else ()
    found: Mapping[str, Any] = next(
        (each for each in places if isinstance(each, Mapping) and each.get("name") == cluster), {}
    )
    return found
