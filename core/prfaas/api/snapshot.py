"""What the operator tells gateways (docs/control-plane.md). Readers ignore fields that they do not know."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prfaas.api.keys import PoolKind
from prfaas.api.v1alpha1.pools import Reach
from prfaas.api.v1alpha1.route import RouteMode

SNAPSHOT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PoolTarget(_Part):
    """A pool that a gateway may send to. `identity` is what its sidecars must show.

    Attributes:
        prefill_points: its profile's prefill times, in tokens and seconds; empty when nobody has measured.
        kv_points: its profile's sizes of KV, in tokens and bytes.
    """

    namespace: str
    name: str
    identity: str
    engine_port: int = Field(ge=1, le=65535)
    prefill_points: tuple[tuple[int, float], ...] = ()
    kv_points: tuple[tuple[int, int], ...] = ()


class RemotePoolTarget(_Part):
    """A prefill pool in another region; its gateways tell its pods. Its sidecars must show `identity`.

    Attributes:
        prefill_points: its profile's prefill times, in tokens and seconds; empty when nobody has measured.
    """

    namespace: str
    name: str
    identity: str
    region: str
    prefill_points: tuple[tuple[int, float], ...] = ()


class RouteTarget(_Part):
    """What may be prefilled elsewhere, and where.

    Attributes:
        canary_percent: share of the requests worth it that go remote in mode Canary; 0 in other modes.
        threshold_tokens: uncached length up to which prefill stays local.
        adaptive: whether queues, links and caches may move single requests across the threshold.
        ttft_seconds: the objective for the time to the first token; None for none.
        local_only_until: everything stays local until then.
        prefill_pools: of the own cluster. remote_prefill_pools: of other regions, by the pools' placements.
    """

    namespace: str
    name: str
    mode: RouteMode
    canary_percent: int = Field(default=0, ge=0, le=100)
    threshold_tokens: int = Field(ge=0)
    adaptive: bool = False
    ttft_seconds: float | None = Field(default=None, gt=0)
    local_only_until: AwareDatetime | None = None
    prefill_pools: tuple[PoolTarget, ...] = ()
    remote_prefill_pools: tuple[RemotePoolTarget, ...] = ()


class DecodeTarget(PoolTarget):
    """A decode pool with its route; None: everything stays local."""

    route: RouteTarget | None = None


class ModelTarget(_Part):
    """A model under the name that clients use, and the decode pools that serve it."""

    name: str
    decode_pools: tuple[DecodeTarget, ...] = ()


class RegionTarget(_Part):
    """Another region. `trust` is its bundle (PEM), None: nobody there is believed."""

    name: str
    clusters: tuple[str, ...] = ()
    peer_address: str | None = None
    trust: str | None = None
    jurisdiction: str | None = None


class LinkTarget(_Part):
    """A link that ends in the own region, as far as somebody has declared anything of it.

    Attributes:
        capacity_bits_per_second: what KV may use of it; None: what is measured.
        closed: why no new KV may come over it (`BudgetSpent`, `BudgetUnknown`), None when it may.
    """

    source: str
    capacity_bits_per_second: int | None = Field(default=None, ge=1)
    closed: str | None = None


class OwnPool(_Part):
    """A prefill pool of this cluster, and which regions may use it.

    Attributes:
        offered_to: regions whose decode pools have a route to it, the own one included.
        kv_reach: `PodIP`, `HostPort` or `Passthrough`, for other regions.
        kv_port: the port that goes with it; kv_proxy: host:port of the proxy with Passthrough.
    """

    namespace: str
    name: str
    kind: PoolKind
    model: str
    offered_to: tuple[str, ...] = ()
    kv_reach: Reach = Reach.POD_IP
    kv_port: int = Field(default=7400, ge=1, le=65535)
    kv_proxy: str | None = None


class Snapshot(_Part):
    """All that a gateway is told. `revision` is the SHA-256 (hexadecimal) of the rest."""

    version: int = SNAPSHOT_VERSION
    revision: str = ""
    region: str
    trust_domain: str
    models: tuple[ModelTarget, ...] = ()
    cluster: str | None = None
    regions: tuple[RegionTarget, ...] = ()
    own_pools: tuple[OwnPool, ...] = ()
    links: tuple[LinkTarget, ...] = ()
    own_trust: str | None = None
    """The own Region's bundle (PEM), trusted beside the gateways' own file; None: that file alone."""

    @classmethod
    def sealed(
        cls,
        *,
        region: str,
        trust_domain: str,
        models: tuple[ModelTarget, ...],
        cluster: str | None = None,
        regions: tuple[RegionTarget, ...] = (),
        own_pools: tuple[OwnPool, ...] = (),
    ) -> Self:
        """A snapshot of this version with its revision computed. The order of models, regions and pools
        counts.
        """
        open_ = cls(
            region=region,
            trust_domain=trust_domain,
            models=models,
            cluster=cluster,
            regions=regions,
            own_pools=own_pools,
        )
        return open_.model_copy(update={"revision": open_.computed_revision()})

    def with_links(self, links: tuple[LinkTarget, ...], own_trust: str | None = None) -> Self:
        """The same with these links and this bundle of the own region, sealed anew."""
        open_ = self.model_copy(update={"links": links, "own_trust": own_trust})
        return open_.model_copy(update={"revision": open_.computed_revision()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` or a newer operator wrote.

        Raises:
            ValueError: no snapshot (the error names the field), or of a version with other meanings.
        """
        snapshot = cls.model_validate_json(text)
        if snapshot.version != SNAPSHOT_VERSION:
            raise ValueError(
                f"the snapshot has version {snapshot.version}, and this gateway reads {SNAPSHOT_VERSION}: "
                "upgrade the gateway before the operator"
            )
        return snapshot

    def to_json(self) -> str:
        """One line, the same for the same content."""
        return _canonical(self.model_dump(mode="json"))

    def computed_revision(self) -> str:
        """SHA-256 over everything but the revision itself."""
        content = _canonical(self.model_dump(mode="json", exclude={"revision"}))
        return hashlib.sha256(content.encode()).hexdigest()


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
