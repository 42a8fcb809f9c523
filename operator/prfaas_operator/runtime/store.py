"""What is known of the cluster: facts by kind, found by name and by pool. One writer, the loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Generic, TypeVar

from prfaas_operator.planning.values import (
    ObservedChild,
    ObservedDeployment,
    ObservedRequest,
    PoolKey,
)
from prfaas_operator.runtime.facts import (
    AutoscalerValue,
    BudgetValue,
    CustomValue,
    Fact,
    PodValue,
    RegionValue,
    SecretValue,
    is_newer,
)
from prfaas_operator.runtime.repairs import Repairs

T = TypeVar("T")
G = TypeVar("G")
Place = tuple[str, str]
"""Namespace and name."""

REMEMBERED_DELETIONS = 2000


class Collection(Generic[T]):
    """The facts of one kind.

    A fact replaces an older version only, so what a write answered and what a watch brings may come in any
    order.

    Args:
        changed: told of each fact that is new, differs, or is gone.
    """

    def __init__(self, changed: Callable[[Fact[T]], None]) -> None:
        self._changed = changed
        self._facts: dict[Place, Fact[T]] = {}
        self._by_pool: dict[PoolKey, set[Place]] = {}
        self._loose: dict[str, set[Place]] = {}
        # By uid: the version as of which it was gone.
        self._deleted: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._facts)

    def __iter__(self) -> Iterator[Fact[T]]:
        return iter(tuple(self._facts.values()))

    def get(self, namespace: str, name: str) -> Fact[T] | None:
        return self._facts.get((namespace, name))

    def is_deleted(self, uid: str) -> bool:
        """Whether it is known to be gone."""
        return uid in self._deleted

    def of_pool(self, pool: PoolKey) -> tuple[Fact[T], ...]:
        """Those that bear the pool's labels, by name."""
        return tuple(self._facts[place] for place in sorted(self._by_pool.get(pool, ())))

    def of_no_pool(self, namespace: str) -> tuple[Fact[T], ...]:
        """Those of a namespace that belong to no pool, by name."""
        return tuple(self._facts[place] for place in sorted(self._loose.get(namespace, ())))

    def put(self, fact: Fact[T]) -> None:
        """Learn of an object as it is, from a watch or from the answer to a write."""
        place = (fact.namespace, fact.name)
        before = self._facts.get(place)
        gone_since = self._deleted.get(fact.uid)
        if gone_since is not None:
            if not is_newer(fact.resource_version, gone_since):
                return
            # It had only left what is followed, by its labels, and is back.
            del self._deleted[fact.uid]
        if before is not None:
            if not is_newer(fact.resource_version, before.resource_version):
                return
            self._forget_group(before)
        self._facts[place] = fact
        if fact.pool is not None:
            self._by_pool.setdefault(fact.pool, set()).add(place)
        else:
            self._loose.setdefault(fact.namespace, set()).add(place)
        self._changed(fact)

    def remove(self, fact: Fact[T], version: str = "") -> None:
        """Learn that an object is gone.

        Args:
            version: as of which that is known; that of the fact when empty.
        """
        version = version or fact.resource_version
        place = (fact.namespace, fact.name)
        before = self._facts.get(place)
        if before is not None and before.uid == fact.uid and is_newer(before.resource_version, version):
            return
        self._deleted[fact.uid] = version
        if len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)
        if before is None or before.uid != fact.uid:
            return
        del self._facts[place]
        self._forget_group(before)
        self._changed(fact)

    def replace_all(self, facts: Iterable[Fact[T]], namespace: str | None = None, version: str = "") -> None:
        """Learn the whole collection, of one namespace or of all: what is not in it is gone.

        Args:
            version: of the list. What is known to be newer was written after it, and stays.
        """
        seen = set()
        for fact in facts:
            seen.add((fact.namespace, fact.name))
            self.put(fact)
        for fact in self:
            place = (fact.namespace, fact.name)
            if place not in seen and namespace in {None, fact.namespace}:
                self.remove(fact, version)

    def _forget_group(self, fact: Fact[T]) -> None:
        place = (fact.namespace, fact.name)
        if fact.pool is not None:
            _discard(self._by_pool, fact.pool, place)
        else:
            _discard(self._loose, fact.namespace, place)


def _discard(groups: dict[G, set[Place]], group: G, place: Place) -> None:
    places = groups.get(group, set())
    places.discard(place)
    if not places:
        groups.pop(group, None)


class Store:
    """All collections.

    Args:
        changed: told of the kind and the fact that is new, differs, or is gone. A route's fact then also
            names the pools that it named before.
    """

    def __init__(self, changed: Callable[[str, Fact[Any]], None]) -> None:
        self._routes_of: dict[PoolKey, set[Place]] = {}
        self._named: dict[Place, tuple[PoolKey, ...]] = {}

        def route_changed(fact: Fact[CustomValue]) -> None:
            before = self._named.get((fact.namespace, fact.name), ())
            self._index_route(fact)
            # Who is named no more has to know it as soon as who is named now.
            names = tuple(dict.fromkeys((*fact.value.names, *before)))
            changed("PrefillRoute", replace(fact, value=replace(fact.value, names=names)))

        def collection(kind: str) -> Callable[[Fact[Any]], None]:
            return lambda fact: changed(kind, fact)

        self.prefill_pools: Collection[CustomValue] = Collection(collection("PrefillPool"))
        self.decode_pools: Collection[CustomValue] = Collection(collection("DecodePool"))
        self.routes: Collection[CustomValue] = Collection(route_changed)
        self.profiles: Collection[CustomValue] = Collection(collection("ModelKVProfile"))
        self.pods: Collection[PodValue] = Collection(collection("Pod"))
        self.deployments: Collection[ObservedDeployment] = Collection(collection("Deployment"))
        self.secrets: Collection[SecretValue] = Collection(collection("Secret"))
        # The region's, which no list brings and no list may take away.
        self.own_secrets: Collection[SecretValue] = Collection(collection("Secret"))
        self.config_maps: Collection[ObservedChild] = Collection(collection("ConfigMap"))
        self.budgets: Collection[BudgetValue] = Collection(collection("PodDisruptionBudget"))
        self.requests: Collection[ObservedRequest] = Collection(collection("Certificate"))
        self.regions: Collection[RegionValue] = Collection(collection("Region"))
        self.repairs = Repairs()
        self.autoscalers: Collection[AutoscalerValue] = Collection(collection("HorizontalPodAutoscaler"))

    def custom(self, kind: str) -> Collection[CustomValue]:
        """The collection of one of the project's own kinds."""
        return {
            "PrefillPool": self.prefill_pools,
            "DecodePool": self.decode_pools,
            "PrefillRoute": self.routes,
            "ModelKVProfile": self.profiles,
        }[kind]

    def routes_of(self, pool: PoolKey) -> tuple[Fact[CustomValue], ...]:
        """Routes that name the pool, by name."""
        found = (self.routes.get(*place) for place in sorted(self._routes_of.get(pool, ())))
        return tuple(route for route in found if route is not None)

    def _index_route(self, fact: Fact[CustomValue]) -> None:
        place = (fact.namespace, fact.name)
        for pool in self._named.pop(place, ()):
            _discard(self._routes_of, pool, place)
        if self.routes.get(*place) is not None:
            self._named[place] = fact.value.names
            for pool in fact.value.names:
                self._routes_of.setdefault(pool, set()).add(place)

    def pool_keys(self) -> Iterator[PoolKey]:
        """All pools."""
        for fact in self.prefill_pools:
            yield PoolKey("PrefillPool", fact.namespace, fact.name)
        for fact in self.decode_pools:
            yield PoolKey("DecodePool", fact.namespace, fact.name)
