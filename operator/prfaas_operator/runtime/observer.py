"""From what the store holds to the values that planning decides on."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prfaas.api import keys
from prfaas.api.keys import DECODE_POOL
from prfaas.api.v1alpha1 import (
    ModelKVProfileSpec,
    PoolSpec,
    PoolStatus,
    PrefillRouteSpec,
    PrefillRouteStatus,
    RegionSpec,
)
from prfaas.capacity import KVSize
from prfaas_operator.planning.autoscale.verdict import ScalingVerdict
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.measured import NOTHING_MEASURED, RouteMeasured
from prfaas_operator.planning.profiles import (
    NO_POINTS,
    ProfilePoints,
    hardware_of,
    points_of,
    profile_name,
)
from prfaas_operator.planning.values import (
    ChildKind,
    EngineReport,
    FoundReference,
    Issuer,
    ObservedCertificate,
    ObservedChild,
    ObservedPod,
    ObservedPool,
    ObservedRequest,
    ObservedRoute,
    PoolKey,
    RoutedPool,
    RouteKey,
    SpecProblem,
    UserBudget,
)
from prfaas_operator.runtime import certificates
from prfaas_operator.runtime.engine_reports import EngineReports
from prfaas_operator.runtime.facts import CustomValue, Fact, PodValue, SecretValue
from prfaas_operator.runtime.planner import Planner
from prfaas_operator.runtime.recorded_reports import recorded_reports
from prfaas_operator.runtime.references import References
from prfaas_operator.runtime.store import Collection, Store

M = TypeVar("M", bound=BaseModel)
PARSED = 512
DEFAULT_CONTAINER = "engine"


class Observer:
    """Builds observed values.

    Attributes:
        authority_id: of the region's authority, "" while there is none.
        issuer: who signs instead of it.
        measured_of: what gateways have counted of a route; set by who asks them.
        verdicts: what the autoscaler says, by pool.
        closed_links: why no KV may come from a region, by region; set by who counts it.
    """

    def __init__(
        self,
        store: Store,
        planner: Planner,
        references: References,
        reports: EngineReports,
        *,
        region: str,
        cluster: str | None = None,
        issuer: Issuer | None = None,
    ) -> None:
        self._store = store
        self._planner = planner
        self._references = references
        self._reports = reports
        self._parsed: OrderedDict[tuple[str, int], tuple[Any, tuple[SpecProblem, ...]]] = OrderedDict()
        self._started_at = datetime.now(UTC)
        self.authority_id = ""
        self.issuer = issuer
        self.measured_of: Callable[[RouteKey], RouteMeasured] = lambda _: NOTHING_MEASURED
        self.verdicts: Mapping[PoolKey, ScalingVerdict] = {}
        self.closed_links: Callable[[], Mapping[str, str]] = dict
        self._own = Geography(region, region) if cluster is None else Geography(cluster, region)
        self._geography: tuple[tuple[tuple[str, str], ...], Geography] = ((), self._own)

    @property
    def geography(self) -> Geography:
        """The own cluster among the regions. A Region that cannot be read counts as none."""
        versions = tuple(sorted((fact.name, fact.resource_version) for fact in self._store.regions))
        if versions != self._geography[0]:
            parsed = ((fact.name, parse_spec(RegionSpec, fact.value.spec)[0]) for fact in self._store.regions)
            specs = [(name, spec) for name, spec in parsed if spec is not None]
            found = Geography.of_regions(self._own.cluster, self._own.region, specs)
            self._geography = (versions, found)
        return self._geography[1]

    # --- pools

    async def pool(self, key: PoolKey) -> ObservedPool | None:
        """The pool with all that belongs to it, None when it is gone.

        Raises:
            KubeError: what it names could not be looked up.
        """
        observed = self.pool_alone(key)
        if observed is None:
            return None
        found: tuple[FoundReference, ...] = ()
        if observed.spec is not None and not observed.deleted:
            found = await self._references.find(key.namespace, self._planner.references(observed))
        children = (
            *((ChildKind.DEPLOYMENT, each.name) for each in observed.deployments),
            (ChildKind.CONFIG_MAP, keys.peers_config_map(key.kind, key.name)),
            (ChildKind.BUDGET, keys.disruption_budget(key.kind, key.name)),
            (ChildKind.CERTIFICATE, keys.tls_secret(key.kind, key.name)),
        )
        pauses = self._store.repairs.pauses(key.namespace, children, datetime.now(UTC))
        partners = tuple(
            self._planner.partner(partner)
            for other in self.partners(key)
            if (partner := self.pool_alone(other)) is not None
        )
        return replace(observed, found=found, partners=partners, repair_pauses=pauses)

    def pool_alone(self, key: PoolKey) -> ObservedPool | None:
        """The pool without what has to be asked for and without its partners."""
        fact = self._store.custom(key.kind).get(key.namespace, key.name)
        if fact is None:
            return None
        spec, problems = self._spec(PoolSpec, fact)
        engine = spec.engine.container if isinstance(spec, PoolSpec) else DEFAULT_CONTAINER
        pods = self._store.pods.of_pool(key)
        observed_pods = tuple(observed_pod(each.value, engine) for each in pods)
        status = _status(PoolStatus, fact)
        return ObservedPool(
            key=key,
            uid=fact.uid,
            generation=fact.value.generation,
            resource_version=fact.resource_version,
            created_at=fact.value.created_at,
            deleted=fact.value.deleted,
            annotations=fact.value.annotations,
            spec=spec,
            problems=problems,
            status=status,
            replicas_managers=fact.value.replicas_managers,
            replicas_in_last_applied=fact.value.replicas_in_last_applied,
            autoscalers=tuple(self._autoscalers(key)),
            deployments=tuple(
                replace(each.value, ours=each.owner_uid == fact.uid)
                for each in self._store.deployments.of_pool(key)
            ),
            pods=observed_pods,
            peers=self._peers(key, fact.uid),
            budget=self._budget(key, fact.uid),
            user_budgets=tuple(self._user_budgets(key.namespace)),
            certificate=self._certificate(key, fact.uid),
            authority_id=self.authority_id,
            issuer=self.issuer,
            request=self._request(key, fact.uid),
            leftovers=tuple(self._leftovers(key, fact.uid)),
            reports=self._engine_reports(status, pods, observed_pods),
            geography=self.geography,
            scaling=self.verdicts.get(key),
        )

    def _engine_reports(
        self, status: PoolStatus, pods: tuple[Fact[PodValue], ...], observed: tuple[ObservedPod, ...]
    ) -> Mapping[str, EngineReport]:
        told = self._reports.of_pods(pods)
        recorded = recorded_reports(
            status, observed, awaited=self._reports.awaited(pods), ready_before=self._started_at
        )
        return {**recorded, **told}

    def _autoscalers(self, key: PoolKey) -> Iterator[str]:
        for each in self._store.autoscalers.of_no_pool(key.namespace):
            if each.value.target_kind == key.kind and each.value.target_name == key.name:
                yield each.name

    def _leftovers(self, key: PoolKey, uid: str) -> Iterator[str]:
        """Children of an earlier pool of this name, which the garbage collector is about to take."""
        kinds: tuple[tuple[str, Collection[Any]], ...] = (
            ("Deployment", self._store.deployments),
            ("Secret", self._store.secrets),
            ("ConfigMap", self._store.config_maps),
            ("PodDisruptionBudget", self._store.budgets),
            ("Certificate", self._store.requests),
        )
        for kind, collection in kinds:
            for each in collection.of_pool(key):
                if each.owner_is_of_its_pool and each.owner_uid != uid:
                    yield f"{kind} {each.name}"

    def _peers(self, key: PoolKey, uid: str) -> ObservedChild | None:
        fact = self._store.config_maps.get(key.namespace, keys.peers_config_map(key.kind, key.name))
        return None if fact is None else replace(fact.value, ours=fact.owner_uid == uid)

    def _budget(self, key: PoolKey, uid: str) -> ObservedChild | None:
        fact = self._store.budgets.get(key.namespace, keys.disruption_budget(key.kind, key.name))
        return None if fact is None else replace(fact.value.child, ours=fact.owner_uid == uid)

    def _request(self, key: PoolKey, uid: str) -> ObservedRequest | None:
        fact = self._store.requests.get(key.namespace, keys.tls_secret(key.kind, key.name))
        if fact is None:
            return None
        return replace(fact.value, child=replace(fact.value.child, ours=fact.owner_uid == uid))

    def _user_budgets(self, namespace: str) -> Iterator[UserBudget]:
        for each in self._store.budgets.of_no_pool(namespace):
            yield UserBudget(each.name, each.value.selector)

    def _certificate(self, key: PoolKey, uid: str) -> ObservedCertificate | None:
        return self.certificate(key.namespace, keys.tls_secret(key.kind, key.name), uid)

    def certificate(self, namespace: str, name: str, owner_uid: str | None) -> ObservedCertificate | None:
        """The certificate in a Secret. `owner_uid` None: the operator's own, which nobody owns."""
        secrets = self._store.own_secrets if owner_uid is None else self._store.secrets
        fact = secrets.get(namespace, name)
        if fact is None:
            return None
        described = certificates.describe(fact.value.certificate)
        return ObservedCertificate(
            name=fact.name,
            uid=fact.uid,
            resource_version=fact.resource_version,
            ours=owner_uid is None or fact.owner_uid == owner_uid or self._is_issued(fact),
            identity=described.identity,
            not_before=described.not_before,
            not_after=described.not_after,
            authority_id=certificates.authority_id(fact.value.authority),
        )

    def _is_issued(self, fact: Fact[SecretValue]) -> bool:
        """cert-manager wrote it for the Certificate of that name, whose owner is looked at there."""
        return self.issuer is not None and fact.value.issued_for == fact.name

    # --- routes

    def route(self, key: RouteKey) -> ObservedRoute | None:
        """The route with the pools that it names, None when it is gone."""
        fact = self._store.routes.get(key.namespace, key.name)
        if fact is None:
            return None
        spec, problems = self._spec(PrefillRouteSpec, fact)
        pools: dict[PoolKey, RoutedPool] = {}
        for pool in fact.value.names:
            observed = self.pool_alone(pool)
            if observed is not None:
                pools[pool] = self._planner.routed(observed)
        return ObservedRoute(
            key=key,
            uid=fact.uid,
            generation=fact.value.generation,
            resource_version=fact.resource_version,
            created_at=fact.value.created_at,
            deleted=fact.value.deleted,
            annotations=fact.value.annotations,
            spec=spec,
            problems=problems,
            status=_status(PrefillRouteStatus, fact),
            pools=pools,
            decode_pool_taken_by=self._taken_by(fact),
            geography=self.geography,
            measured=self.measured_of(key),
            closed_links=self.closed_links(),
        )

    def profile_points(self, pool: Fact[CustomValue]) -> ProfilePoints:
        """What is measured of a pool's engines, by the profile that it names, if that can be read."""
        stored: Any = json.loads(pool.value.spec)
        name = profile_name(stored)
        fact = self._store.profiles.get(pool.namespace, name) if name is not None else None
        spec = self._spec(ModelKVProfileSpec, fact)[0] if fact is not None else None
        return points_of(spec, hardware_of(stored)) if spec is not None else NO_POINTS

    def kv_size(self, route: RouteKey) -> KVSize | None:
        """Of a route's prompts, by the profile of its decode pool."""
        fact = self._store.routes.get(route.namespace, route.name)
        decode = [key for key in fact.value.names if key.kind == DECODE_POOL] if fact is not None else []
        pool = self._store.custom(DECODE_POOL).get(decode[0].namespace, decode[0].name) if decode else None
        return self.profile_points(pool).kv_size if pool is not None else None

    def partners(self, pool: PoolKey) -> tuple[PoolKey, ...]:
        """Pools at the other ends of its routes."""
        others = {
            other
            for route in self._store.routes_of(pool)
            for other in route.value.names
            if other.kind != pool.kind
        }
        return tuple(sorted(others))

    def _taken_by(self, fact: Fact[CustomValue]) -> RouteKey | None:
        """An older route for the same decode pool."""
        if not fact.value.names:
            return None
        decode = fact.value.names[0]
        older = (
            (each.value.created_at, each.name)
            for each in self._store.routes_of(decode)
            if not each.value.deleted
            and (each.value.created_at, each.name) < (fact.value.created_at, fact.name)
            and self._counts_here(each)
        )
        first = min(older, default=None)
        return None if first is None else RouteKey(fact.namespace, first[1])

    def _counts_here(self, fact: Fact[CustomValue]) -> bool:
        spec, _ = self._spec(PrefillRouteSpec, fact)
        return spec is None or self.geography.is_here(spec.placement)

    def _spec(self, model: type[M], fact: Fact[CustomValue]) -> tuple[M | None, tuple[SpecProblem, ...]]:
        place = (fact.uid, fact.value.generation)
        known = self._parsed.get(place)
        if known is None:
            known = self._parsed[place] = parse_spec(model, fact.value.spec)
            if len(self._parsed) > PARSED:
                self._parsed.popitem(last=False)
        return known


def parse_spec(model: type[M], text: bytes) -> tuple[M | None, tuple[SpecProblem, ...]]:
    """The spec, or why it cannot be read."""
    try:
        return model.model_validate_json(text), ()
    except ValidationError as error:
        return None, tuple(
            SpecProblem(".".join(("spec", *(str(part) for part in problem["loc"]))), problem["msg"])
            for problem in error.errors(include_url=False, include_input=False)
        )


def _status(model: type[M], fact: Fact[CustomValue]) -> M:
    """The stored status; one that cannot be read counts as none, and is written anew."""
    try:
        return model.model_validate_json(fact.value.status)
    except ValidationError:
        return model()


def observed_pod(value: PodValue, engine: str) -> ObservedPod:
    """The pod, now that the name of the container with its engine is known."""
    restarts = dict(value.restarts).get(engine, 0)
    if not value.troubles and not restarts:
        return value.observed
    troubles = sorted(value.troubles, key=lambda trouble: trouble.container != engine)
    return replace(value.observed, restarts=restarts, troubles=tuple(troubles))
