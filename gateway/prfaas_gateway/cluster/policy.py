"""The operator's snapshot as the gateway uses it: pools by name, and what holds for each model there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from prfaas.api.keys import PREFILL_POOL
from prfaas.api.snapshot import DecodeTarget, PoolTarget, RemotePoolTarget, RouteTarget, Snapshot
from prfaas.api.v1alpha1.route import RouteMode
from prfaas.capacity import Curve, KVSize
from prfaas.capacity.errors import InvalidInputError
from prfaas.identity import pool_identity
from prfaas.routing import Mode
from prfaas.scheduling import CompiledCurve, Producer, WireSize
from prfaas_gateway.fleet import NO_ROUTE, SLOT_OF_NOBODY, RoutePolicy


class BadSnapshotError(ValueError):
    """A snapshot that cannot be used.

    Attributes:
        code: for a metric.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class DecodePool:
    """A pool whose pods answer clients. ``routes`` is by model."""

    identity: str
    engine_port: int
    routes: dict[str, RoutePolicy] = field(default_factory=dict)


@dataclass(slots=True)
class PrefillPool:
    """A pool whose pods prefill for these models."""

    identity: str
    models: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Pools:
    """Everything that the snapshot names, by namespace and name.

    Attributes:
        prefill: of the own cluster: those of the routes, and those that other regions may use.
        remote: prefill pools of other regions, with the region before the name.
    """

    decode: dict[str, DecodePool]
    prefill: dict[str, PrefillPool]
    models: tuple[str, ...]
    remote: dict[str, PrefillPool] = field(default_factory=dict)

    @property
    def identities(self) -> frozenset[str]:
        """Whom the gateway may speak to."""
        decode = {pool.identity for pool in self.decode.values()}
        return frozenset(decode | {pool.identity for pool in self.prefill.values()})


def read_snapshot(text: str) -> Snapshot:
    """A snapshot from its JSON.

    Raises:
        BadSnapshotError: it is broken, of another version, or was changed by hand.
    """
    try:
        document = json.loads(text)
        version = document["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSnapshotError("Malformed", "the snapshot is no JSON object with a version") from error
    try:
        snapshot = Snapshot.from_json(text)
    except ValueError as error:
        if version != 1:
            raise BadSnapshotError("UnknownVersion", str(error)) from error
        raise BadSnapshotError("Malformed", f"the snapshot does not fit its schema: {error}") from error
    # Over what was written and not over what was understood: a newer operator may have written more.
    content = {name: value for name, value in document.items() if name != "revision"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if snapshot.revision != hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest():
        raise BadSnapshotError(
            "RevisionMismatch", "the snapshot's revision is not that of its content: it was changed by hand"
        )
    return snapshot


def pools_of(snapshot: Snapshot | None) -> Pools:
    """The pools of a snapshot; of none there are none."""
    decode: dict[str, DecodePool] = {}
    prefill: dict[str, PrefillPool] = {}
    remote: dict[str, PrefillPool] = {}
    models = snapshot.models if snapshot is not None else ()
    for model in models:
        for target in model.decode_pools:
            pool = decode.setdefault(_name(target), DecodePool(target.identity, target.engine_port))
            pool.routes[model.name] = _policy(target)
            for source in target.route.prefill_pools if target.route else ():
                prefill.setdefault(_name(source), PrefillPool(source.identity)).models.add(model.name)
            for far in target.route.remote_prefill_pools if target.route else ():
                remote.setdefault(_remote_name(far), PrefillPool(far.identity)).models.add(model.name)
    for name, offered in _offered(snapshot) if snapshot is not None else ():
        prefill.setdefault(name, offered).models.update(offered.models)
    return Pools(decode, prefill, tuple(model.name for model in models), remote)


def _offered(snapshot: Snapshot) -> Iterator[tuple[str, PrefillPool]]:
    """Own pools that no route here may use, but those of other regions may."""
    for own in snapshot.own_pools:
        if own.kind == PREFILL_POOL:
            identity = pool_identity(
                trust_domain=snapshot.trust_domain,
                region=snapshot.region,
                namespace=own.namespace,
                kind=own.kind,
                name=own.name,
            )
            yield f"{own.namespace}/{own.name}", PrefillPool(identity, {own.model})


def _policy(target: DecodeTarget) -> RoutePolicy:
    route: RouteTarget | None = target.route
    if route is None:
        return NO_ROUTE
    return RoutePolicy(
        threshold_tokens=route.threshold_tokens,
        name=f"{route.namespace}/{route.name}",
        mode=Mode(route.mode.value),
        canary_percent=route.canary_percent,
        adaptive=route.adaptive,
        ttft_seconds=route.ttft_seconds,
        wire=_wire(target),
        assumed=_assumed(route),
        local_only_until=route.local_only_until.timestamp() if route.local_only_until else None,
        prefill_pools=frozenset(map(_name, route.prefill_pools))
        | frozenset(map(_remote_name, route.remote_prefill_pools)),
    )


def profiled(snapshot: Snapshot) -> dict[str, CompiledCurve]:
    """Prefill times of the pools that were profiled, by identity."""
    found: dict[str, CompiledCurve] = {}
    for model in snapshot.models:
        for target in model.decode_pools:
            pools: list[PoolTarget | RemotePoolTarget] = [target]
            if target.route is not None:
                pools += [*target.route.prefill_pools, *target.route.remote_prefill_pools]
            for pool in pools:
                curve = prefill_curve(pool.prefill_points)
                if curve is not None:
                    found[pool.identity] = curve
    return found


def prefill_curve(points: tuple[tuple[int, float], ...]) -> CompiledCurve | None:
    """None without points, or with such as are no curve."""
    try:
        return CompiledCurve(Curve.from_points(points, extrapolates=True)) if points else None
    except InvalidInputError:
        return None


def _wire(target: DecodeTarget) -> WireSize | None:
    try:
        return WireSize(KVSize.from_points(target.kv_points)) if target.kv_points else None
    except InvalidInputError:
        return None


def _assumed(route: RouteTarget) -> tuple[Producer, ...]:
    """An engine of each pool that was profiled: what Observe decides with while none runs."""
    if route.mode is not RouteMode.OBSERVE:
        return ()
    return tuple(
        Producer(_name(pool), SLOT_OF_NOBODY, prefill=curve)
        for pool in route.prefill_pools
        if (curve := prefill_curve(pool.prefill_points)) is not None
    )


def _name(pool: PoolTarget) -> str:
    return f"{pool.namespace}/{pool.name}"


def _remote_name(pool: RemotePoolTarget) -> str:
    return f"{pool.region}/{pool.namespace}/{pool.name}"
