"""The state of the fleet as values: what `prfaas status -o json` prints, and what the screen is made from."""

from __future__ import annotations

from enum import StrEnum

from prfaas.api.v1alpha1.common import ApiModel, Time


class Health(StrEnum):
    """How an object is, in one word."""

    WELL = "Well"
    PROGRESSING = "Progressing"
    NOT_READY = "NotReady"
    STALLED = "Stalled"
    UNSEEN = "Unseen"


class OperatorState(StrEnum):
    """Whether somebody reconciles."""

    LEADING = "Leading"
    DOWN = "Down"
    ABSENT = "Absent"
    NOT_VISIBLE = "NotVisible"


class OperatorView(ApiModel):
    """The operator as its Lease shows it."""

    state: OperatorState
    message: str
    namespace: str | None = None
    holder: str | None = None
    renewed_at: Time | None = None


class PoolView(ApiModel):
    """A pool. `notes` says what else is worth knowing, most urgent first."""

    kind: str
    namespace: str
    name: str
    model: str
    health: Health
    reason: str
    message: str
    desired_replicas: int | None = None
    ready_replicas: int = 0
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()


class PairView(ApiModel):
    """A route's decode pool with one prefill pool."""

    prefill_pool: str
    compatible: str
    reason: str | None = None
    ready_prefill: int = 0
    prefill_engines: int | None = None
    decode_engines: int | None = None
    ready_decode: int = 0


class RouteView(ApiModel):
    """A route."""

    namespace: str
    name: str
    decode_pool: str
    wanted_mode: str
    effective_mode: str | None = None
    threshold_tokens: int | None = None
    local_only_until: Time | None = None
    health: Health
    reason: str
    message: str
    pairs: tuple[PairView, ...] = ()
    notes: tuple[str, ...] = ()


class EndpointState(StrEnum):
    """Whether a pod takes requests."""

    READY = "Ready"
    STARTING = "Starting"
    PENDING = "Pending"
    FAILING = "Failing"
    DRAINING = "Draining"
    ENDING = "Ending"
    ENDED = "Ended"


class EndpointView(ApiModel):
    """A pod of a pool."""

    namespace: str
    name: str
    pool_kind: str
    pool: str
    revision: str | None = None
    fingerprint: str | None = None
    state: EndpointState
    message: str = ""
    node: str | None = None
    address: str | None = None
    restarts: int = 0
    created_at: Time


class RegionView(ApiModel):
    """A region as this cluster sees it.

    `clusters` says of each cluster how it reports: pools that are ready, of how many, or nothing yet.
    """

    name: str
    here: bool
    health: Health
    reason: str
    message: str
    peer: str | None = None
    clusters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class LinkView(ApiModel):
    """The way from one region to another."""

    source: str
    destination: str
    health: Health
    reason: str
    message: str
    goodput_bits_per_second: int | None = None
    rtt_seconds: float | None = None
    utilisation_percent: int | None = None
    spent_bytes: int | None = None
    budget_bytes: int | None = None


class FleetView(ApiModel):
    """Everything, at one moment."""

    at: Time
    scope: str
    operator: OperatorView
    regions: tuple[RegionView, ...] = ()
    links: tuple[LinkView, ...] = ()
    pools: tuple[PoolView, ...] = ()
    routes: tuple[RouteView, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()
