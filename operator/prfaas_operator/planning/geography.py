"""Which cluster this is, which regions there are, and what of a placement that makes (docs/federation.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prfaas.api.v1alpha1 import PoolPlacement, PoolSpec, RegionSpec, RoutePlacement, ScalingMode


@dataclass(frozen=True, slots=True)
class RegionFact:
    """What the Region objects say of a region.

    Attributes:
        clusters: names of its clusters.
        trust: its bundle, PEM; None: nobody there is believed.
    """

    name: str
    clusters: tuple[str, ...]
    peer_address: str | None = None
    trust: str | None = None
    jurisdiction: str | None = None


@dataclass(frozen=True, slots=True)
class Geography:
    """The own cluster among the regions that are known.

    Attributes:
        cluster, region: the own ones, by the operator's configuration.
        regions: by name; the own one may be missing.
    """

    cluster: str
    region: str
    regions: Mapping[str, RegionFact] = field(default_factory=dict)

    @classmethod
    def of_regions(cls, cluster: str, region: str, specs: Iterable[tuple[str, RegionSpec]]) -> Geography:
        """From Region objects, as (name, spec)."""
        facts = {
            name: RegionFact(
                name,
                spec.clusters or (name,),
                spec.peer.address if spec.peer is not None else None,
                spec.trust_bundle,
                spec.jurisdiction,
            )
            for name, spec in specs
        }
        return cls(cluster, region, facts)

    def region_of(self, cluster: str) -> str | None:
        """Region of a cluster; of several that claim it the first by name. None: no Region has it."""
        if cluster == self.cluster:
            return self.region
        return next((name for name in sorted(self.regions) if cluster in self.regions[name].clusters), None)

    def is_here(self, placement: PoolPlacement | RoutePlacement | None) -> bool:
        """Whether the own cluster carries the object out."""
        return placement is None or any(place.name == self.cluster for place in placement.clusters)

    def regions_of(self, placement: PoolPlacement | None) -> tuple[str, ...]:
        """Regions of a placement's clusters, by name; clusters of no region are left out."""
        if placement is None:
            return (self.region,)
        found = {self.region_of(place.name) for place in placement.clusters}
        return tuple(sorted(each for each in found if each is not None))

    def others_of(self, placement: PoolPlacement | None) -> tuple[str, ...]:
        """The regions of a placement but the own one."""
        return tuple(each for each in self.regions_of(placement) if each != self.region)

    def unknown_clusters(self, placement: PoolPlacement | None) -> tuple[str, ...]:
        """Clusters of a placement that no Region has."""
        if placement is None:
            return ()
        return tuple(place.name for place in placement.clusters if self.region_of(place.name) is None)

    def trust_of(self, regions: Iterable[str]) -> dict[str, str]:
        """The bundles of those other regions that have one, by name."""
        known = ((name, self.regions.get(name)) for name in sorted(set(regions)))
        return {
            name: fact.trust
            for name, fact in known
            if fact is not None and fact.trust is not None and name != self.region
        }


def resolved(spec: PoolSpec, cluster: str) -> PoolSpec:
    """The spec with what its placement says of one cluster in place of its own numbers."""
    places = spec.placement.clusters if spec.placement is not None else ()
    place = next((each for each in places if each.name == cluster), None)
    if place is None:
        return spec
    update: dict[str, Any] = {}
    if place.replicas is not None and spec.scaling.mode is ScalingMode.STATIC:
        update["replicas"] = place.replicas
    if spec.scaling.mode is ScalingMode.MANAGED:
        bounds = {
            name: value
            for name, value in (("min_replicas", place.min_replicas), ("max_replicas", place.max_replicas))
            if value is not None
        }
        if bounds:
            update["scaling"] = spec.scaling.model_copy(update=bounds)
    return spec.model_copy(update=update) if update else spec
