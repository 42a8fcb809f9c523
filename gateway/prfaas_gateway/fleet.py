"""The engines that this gateway knows, what it believes of them, and which one it picks.

State lives in the event loop's thread only. Picking is a function of that state and of the time passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from yarl import URL

from prfaas.routing import Mode
from prfaas.scheduling import Producer, WireSize
from prfaas_gateway.config import DecodeEngine, Health, PrefillEngine
from prfaas_gateway.control import ControlTarget
from prfaas_gateway.health import FailureScore
from prfaas_gateway.paces import PaceBook, queue_seconds
from prfaas_gateway.prefix_index import Matches, PrefixIndex

_LOAD_SLACK = 8
"""How many more requests an engine with a better prefix may have in flight than the idlest one."""


@dataclass(slots=True, eq=False)
class Member:
    """What is believed of one endpoint (an engine or a sidecar) from its answers.

    Attributes:
        reachable: result of the last probe; None before the first.
    """

    health: Health
    failures: FailureScore = field(default_factory=FailureScore)
    reachable: bool | None = None

    def failed(self, now: float) -> None:
        """A request failed in a way that is this endpoint's fault or its path's."""
        self.failures = self.failures.failed(
            now, self.health.failure_half_life_seconds, self.health.failure_limit
        )

    def succeeded(self, now: float) -> None:
        """A request was answered."""
        self.failures = self.failures.succeeded(now, self.health.failure_half_life_seconds)

    def healthy(self, now: float) -> bool:
        """Whether to ask it. Before the first probe, yes: a gateway that has just started must serve."""
        if self.reachable is False:
            return False
        # A little under the limit, so that decay between quick failures does not make one more necessary.
        return (
            self.failures.value(now, self.health.failure_half_life_seconds) < self.health.failure_limit - 0.5
        )


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What holds for prompts of one model at one decode engine.

    Attributes:
        threshold_tokens: uncached length up to which prefill stays local; None when there is no route at all.
        canary_percent: the share that goes remote in Canary mode.
        local_only_until: everything stays local before this time, in seconds since 1970.
        prefill_pools: pools that may prefill, and then only with equal fingerprint; None for every prefill
            engine of the model, as a static configuration has it.
        adaptive: whether queues and links may move single requests across the threshold.
        ttft_seconds: the route's objective for the time to the first token, if it has one.
        assumed: prefill engines that are not there, for Observe to decide with.
        wire: what KV takes on a link; None while nobody has measured.
    """

    threshold_tokens: int | None
    name: str = ""
    adaptive: bool = False
    ttft_seconds: float | None = None
    assumed: tuple[Producer, ...] = ()
    wire: WireSize | None = None
    mode: Mode = Mode.ENFORCE
    canary_percent: float = 0
    local_only_until: float | None = None
    prefill_pools: frozenset[str] | None = None

    def remote_enabled(self, wall_clock: float) -> bool:
        """Whether nobody has switched remote prefill off for now."""
        return self.local_only_until is None or wall_clock >= self.local_only_until


def tokenised_from(threshold_tokens: int, *, adaptive: bool) -> int:
    """Up to this length nobody needs a prompt's tokens: of those near t, a queue here may send some away."""
    return threshold_tokens // 2 if adaptive else threshold_tokens


SLOT_OF_NOBODY = -1
"""In the prefix index: of engines that are only assumed."""

NO_ROUTE = RoutePolicy(threshold_tokens=None, prefill_pools=frozenset())


class Load(Protocol):
    """How busy an engine is; None where nobody knows."""

    @property
    def queued_requests(self) -> int | None:
        """Requests that wait."""

    @property
    def running_requests(self) -> int | None:
        """Requests that are computed."""

    @property
    def queued_tokens(self) -> int | None:
        """Prompt tokens of both."""


@dataclass(slots=True, eq=False)
class Decoder:
    """A decode engine with its sidecar.

    Attributes:
        routes: by model.
        uid: of its pod, empty outside of clusters.
        open: whether it gets new requests; False while its pod is not ready, is deleted or drains.
        fingerprint: of its KV, once its sidecar has told.
        files: digest of its tokenizer's files, once its sidecar has told.
        restarts: of its pod's containers.
        queued_requests: that wait in the engine, where its sidecar tells.
        prefill_tokens: uncached tokens that it has been given to prefill itself, and has not yet.
        tokenizer_agrees: per model, once it has been compared.
    """

    config: DecodeEngine
    engine: Member
    sidecar: Member
    index: PrefixIndex
    in_flight: int = 0
    tokenizer_agrees: dict[str, bool] = field(default_factory=dict)
    routes: dict[str, RoutePolicy] = field(default_factory=dict)
    uid: str = ""
    open: bool = True
    fingerprint: str | None = None
    files: str = ""
    restarts: int = 0
    queued_requests: int = 0
    prefill_tokens: int = 0

    @property
    def name(self) -> str:
        """Name in the configuration, or namespace and name of the pod."""
        return self.config.name

    @property
    def kind(self) -> str:
        """What engines of equal pace have in common: the pool's identity."""
        return self.config.identity or self.config.name

    @property
    def target(self) -> ControlTarget | None:
        """Its sidecar, if it has one."""
        if self.config.control is None or self.config.identity is None:
            return None
        return ControlTarget(URL(self.config.control), self.config.identity)

    def take_load(self, told: Load) -> None:
        """How busy it is, as its sidecar tells."""
        self.queued_requests = told.queued_requests or 0

    def route(self, model: str) -> RoutePolicy:
        """What holds for a model's prompts here."""
        return self.routes.get(model, NO_ROUTE)

    def serves(self, model: str) -> bool:
        """Whether this engine has the model."""
        return not self.config.models or model in self.config.models

    def can_receive(self, now: float) -> bool:
        """Whether KV can be sent to it."""
        return self.config.control is not None and self.sidecar.healthy(now)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request as in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @contextmanager
    def prefill(self, tokens: int) -> Iterator[None]:
        """Counts ``tokens`` as being prefilled by the engine itself."""
        self.prefill_tokens += tokens
        try:
            yield
        finally:
            self.prefill_tokens -= tokens

    def has_room(self, tokens: int) -> bool:
        """Whether it may be given another prompt to prefill: idle any, busy within its window."""
        return self.prefill_tokens == 0 or self.prefill_tokens + tokens <= self.config.max_prefill_tokens


@dataclass(slots=True, eq=False)
class Prefiller:
    """A prefill engine behind its sidecar.

    Attributes:
        pool: namespace and name of its pool, with the region before it if that is another one; empty outside
            of clusters.
        uid, open, fingerprint, restarts, queued_requests: as of a `Decoder`.
        region: the other region that it is in; None for the own one.
        way: the way to that region's gateways.
        told_tokens: prompt tokens that wait or are being computed there, told by that region's gateways.
        own_tokens_when_told: of them, those that this gateway had sent there itself.
        view: the same for the scheduler; `refresh` keeps it up to date.
    """

    config: PrefillEngine
    sidecar: Member
    index: PrefixIndex
    in_flight_tokens: int = 0
    pool: str = ""
    uid: str = ""
    open: bool = True
    fingerprint: str | None = None
    restarts: int | str = 0
    region: str | None = None
    way: Member | None = None
    in_flight: int = 0
    queued_requests: int = 0
    running_requests: int = 0
    told_tokens: int = 0
    own_tokens_when_told: int = 0
    view: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.view = Producer(self.config.name, self.index.slot)
        self.refresh(None)

    def refresh(self, paces: PaceBook | None) -> None:
        """Bring the scheduler's view up to date: its queue, and with `paces` its pace."""
        view = self.view
        if paces is not None:
            view.prefill = paces.curve(self.kind)
        view.most_queued_tokens = self.config.max_in_flight_tokens
        view.queued_tokens = self.load_tokens
        view.queue_seconds = queue_seconds(view.prefill, view.queued_tokens)

    @property
    def kind(self) -> str:
        """What engines of equal pace have in common: the pool's identity."""
        return self.config.identity

    @property
    def name(self) -> str:
        """Name in the configuration, or namespace and name of the pod."""
        return self.config.name

    @property
    def target(self) -> ControlTarget:
        """Its sidecar, or the gateway of its region that passes on what is for it."""
        url, identity = URL(self.config.control), self.config.identity
        if self.region is None:
            return ControlTarget(url, identity)
        return ControlTarget(url, identity, region=self.region, prefix=f"/v1/legs/{self.pod_uid}")

    @property
    def pod_uid(self) -> str:
        """Of its pod, as its own region knows it: uids of several regions need not differ."""
        return self.uid.rpartition(":")[2]

    def take_load(self, told: Load) -> None:
        """How busy it is, as somebody told who knows more than this gateway."""
        self.queued_requests = told.queued_requests or 0
        self.running_requests = told.running_requests or 0
        self.told_tokens = told.queued_tokens or 0
        self.own_tokens_when_told = self.in_flight_tokens
        self.refresh(None)

    @property
    def load_tokens(self) -> int:
        """Prompt tokens that are being prefilled there: the own ones as they are now, others' as last told.

        What was told is a second old at best. Without what has been sent since, a burst would all go to
        where nobody was when it began.
        """
        return self.in_flight_tokens + max(0, self.told_tokens - self.own_tokens_when_told)

    def healthy(self, now: float) -> bool:
        """Whether to ask it."""
        return self.sidecar.healthy(now) and (self.way is None or self.way.healthy(now))

    def serves(self, model: str) -> bool:
        """Whether this engine has the model."""
        return not self.config.models or model in self.config.models

    @contextmanager
    def work(self, tokens: int) -> Iterator[None]:
        """Counts ``tokens`` as being prefilled."""
        self.in_flight += 1
        self.in_flight_tokens += tokens
        self.refresh(None)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.in_flight_tokens -= tokens
            self.refresh(None)


EngineT = TypeVar("EngineT")


@dataclass(frozen=True, slots=True)
class Pick(Generic[EngineT]):
    """A chosen engine and how many blocks of the prompt it is believed to hold."""

    engine: EngineT
    matched_blocks: int


def pick_decoder(
    engines: Iterable[Decoder],
    model: str,
    matches: Matches,
    now: float,
    tried: frozenset[str] = frozenset(),
) -> Pick[Decoder] | None:
    """The decode engine for a prompt: longest known prefix among those not much busier than the idlest.

    Unhealthy engines are asked only when there is no other: they may have recovered, and the alternative is
    an error. None when all are tried or full.
    """
    open_ = [
        engine
        for engine in engines
        if engine.open
        and engine.serves(model)
        and engine.name not in tried
        and engine.in_flight < engine.config.max_in_flight
    ]
    candidates = [engine for engine in open_ if engine.engine.healthy(now)] or open_
    if not candidates:
        return None
    least = min(engine.in_flight for engine in candidates)
    picks = [
        Pick(engine, matches.of(engine.index))
        for engine in candidates
        if engine.in_flight <= least + _LOAD_SLACK
    ]
    # Of equally busy ones with nothing of the prompt, the one with the least to prefill.
    return max(
        picks, key=lambda pick: (pick.matched_blocks, -pick.engine.in_flight, -pick.engine.prefill_tokens)
    )


def healthy_prefillers(
    engines: Iterable[Prefiller],
    model: str,
    now: float,
    tried: frozenset[str] = frozenset(),
    pools: frozenset[str] | None = None,
    closed: frozenset[str] = frozenset(),
) -> list[Prefiller]:
    """Prefill engines that could be asked for this model, of these pools if any are given, and in none of the
    regions that are closed."""
    return [
        engine
        for engine in engines
        if engine.open
        and engine.serves(model)
        and (pools is None or engine.pool in pools)
        and engine.region not in closed
        and engine.name not in tried
        and engine.healthy(now)
    ]


def compatible_prefillers(engines: list[Prefiller], decoder: Decoder, policy: RoutePolicy) -> list[Prefiller]:
    """Those whose KV the decode engine can take. What is not known to be equal does not count."""
    if policy.prefill_pools is None:
        return engines
    if decoder.fingerprint is None:
        return []
    return [engine for engine in engines if engine.fingerprint == decoder.fingerprint]
