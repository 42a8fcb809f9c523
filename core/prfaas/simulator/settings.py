"""What a simulation needs beyond the planner's scenario: the section `simulation` of the file.

Field names are those of the file in snake case. Whatever one value can say about itself is checked here;
`world` checks that names exist.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

HOURS_PER_DAY = 24

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Part(BaseModel):
    """Frozen, and without fields that nobody knows."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class Poisson(Part):
    """Independent arrivals at the pool's `arrivalsPerSecond`."""

    kind: Literal["Poisson"] = "Poisson"


class Bursty(Part):
    """A Markov-modulated Poisson process: quiet and burst take turns, each of exponential length.

    The mean rate stays the pool's `arrivalsPerSecond`.

    Attributes:
        factor: how many times the quiet rate a burst has.
    """

    kind: Literal["Bursty"]
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 4.0
    burst_seconds: Positive = 30.0
    quiet_seconds: Positive = 120.0


class Diurnal(Part):
    """Poisson with a rate that follows a cosine over the day; its mean is the pool's `arrivalsPerSecond`.

    Attributes:
        peak_hour: of the simulated clock, which begins at `startHour`.
        trough_share: the lowest rate as a share of the highest.
    """

    kind: Literal["Diurnal"]
    peak_hour: Annotated[float, Field(ge=0, lt=HOURS_PER_DAY)] = 14.0
    trough_share: Share = 0.2


class TraceForm(StrEnum):
    """Who made the file."""

    PRFAAS = "Prfaas"
    MOONCAKE = "Mooncake"
    AZURE_LLM = "AzureLLM"


class Trace(Part):
    """Arrivals, lengths and outputs from a file; see docs/simulator.md for the forms.

    Attributes:
        speed: how many times faster than recorded it is played.
        repeat: begin again when it is at its end.
    """

    kind: Literal["Trace"]
    file: str
    form: TraceForm = TraceForm.PRFAAS
    speed: Positive = 1.0
    repeat: bool = False


Pattern = Annotated[Poisson | Bursty | Diurnal | Trace, Field(discriminator="kind")]


class Sessions(Part):
    """Conversations: each turn's prompt begins with everything before it, its answer included.

    Arrivals begin sessions, so that requests come at `turnsMean` times the rate that the pattern says;
    `arrivalsPerSecond` still means requests. Lengths of the pool are those of what a turn adds.

    Attributes:
        turns_mean: of a geometric number of turns.
        think_seconds: mean of the exponential pause between an answer and the next turn.
        shared_prefixes: how many different beginnings (system prompts) there are.
        shared_prefix_tokens: length of each.
    """

    turns_mean: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    think_seconds: NotNegative = 30.0
    shared_prefixes: Annotated[int, Field(ge=0)] = 0
    shared_prefix_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.shared_prefixes == 0) != (self.shared_prefix_tokens == 0):
            raise ValueError("give both sharedPrefixes and sharedPrefixTokens, or neither")
        return self


class Outputs(StrEnum):
    """How the number of output tokens spreads around `outputTokens`."""

    CONSTANT = "Constant"
    GEOMETRIC = "Geometric"


class Demand(Part):
    """What comes to one decode pool."""

    pattern: Pattern = Poisson()
    sessions: Sessions | None = None
    outputs: Outputs = Outputs.GEOMETRIC


class Network(Part):
    """What the planner does not know of a link.

    Attributes:
        loss_share: of packets. With the round trip it bounds what one connection carries.
        connections: over which a transfer is striped.
    """

    loss_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    connections: Annotated[int, Field(ge=1)] = 8


class PoolDetails(Part):
    """What the planner does not know of a pool.

    Attributes:
        batch_tokens: prompts that wait are prefilled together up to this many tokens; None: one by one.
        prefill_true_factor: prefill really takes this many times what the profile says.
        step_seconds_alone: a decode step with one request in the batch; the step grows with the batch up to
            `stepSeconds`. None: it always takes `stepSeconds`.
        price_by_hour: per instance, for each hour of the day; replaces `pricePerHour`.
    """

    batch_tokens: Annotated[int, Field(gt=0)] | None = None
    prefill_true_factor: Positive = 1.0
    step_seconds_alone: Positive | None = None
    price_by_hour: tuple[NotNegative, ...] | None = None

    @model_validator(mode="after")
    def _whole_day(self) -> Self:
        if self.price_by_hour is not None and len(self.price_by_hour) != HOURS_PER_DAY:
            raise ValueError(
                f"priceByHour has {len(self.price_by_hour)} entries; give {HOURS_PER_DAY}, from midnight on"
            )
        return self


class Failure(Part):
    """One thing that is down for a while. Exactly one of link, pool, cluster and region is named.

    Attributes:
        capacity_share: what is left of it meanwhile; 0 is down. Only links can be between.
        every_seconds: it comes again with this period until the end; a flapping link.
    """

    at_seconds: NotNegative
    for_seconds: Positive
    link: str | None = None
    pool: str | None = None
    cluster: str | None = None
    region: str | None = None
    capacity_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    every_seconds: Positive | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        named = [name for name in ("link", "pool", "cluster", "region") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError("name exactly one of link, pool, cluster and region")
        if self.capacity_share > 0 and self.link is None:
            raise ValueError("capacityShare is for links; everything else is down or up")
        if self.every_seconds is not None and self.every_seconds <= self.for_seconds:
            raise ValueError("everySeconds must be more than forSeconds")
        return self


class Sizing(StrEnum):
    """Who decides how many instances a pool has."""

    STATIC = "Static"
    """`current`, or what one plan for the mean demand gives, all the time."""
    PLANNER = "Planner"
    """The planner, every `replanSeconds` with the demand that was measured."""
    AUTOSCALER = "Autoscaler"
    """The operator's autoscaler, every `controlSeconds`, beside the planner's thresholds."""


class RouterKind(StrEnum):
    """Who decides where a prompt is prefilled."""

    THRESHOLD = "Threshold"
    """The gateway's policy with the plan's threshold and shares."""
    SCHEDULER = "Scheduler"
    """The gateway's short-term scheduler."""
    LOCAL = "Local"
    """Everything in the decode pool's own cluster."""
    REMOTE = "Remote"
    """Everything in another cluster where there is one: no threshold."""


class Policy(Part):
    """Which decisions are in the loop, and what is taken from them for an ablation.

    Attributes:
        conversion: an instance that one pool of a cluster gives up is taken by another one in
            `convertSeconds`; otherwise it starts anew.
        headroom: on the measured demand before the planner gets it; less than 0 to spend less than it takes.
        cache_aware: False: no decision knows what is cached.
        bandwidth_aware: False: the planner takes every link for unlimited and the router takes it for idle.
        threshold_tokens: fixed, instead of the plan's; for the router Threshold.
        refuse: the scheduler refuses what nothing can serve within the objective; otherwise it is late.
        anytime: who waits for KV that is slow takes what has landed and has the rest computed in the decode
            pool's own cluster, as the engine's connector does. False: it waits.
        link_data_age_seconds: the router knows queues and links by reports that come so far apart, and what
            each region has sent itself; 0: as they are at each moment.
        link_data_delay_seconds: how old such a report is when it comes.
        believes: between reports the router goes by what a region has sent and by the time that has passed
            (`prfaas.scheduling.believed`). False: by the last report alone.
    """

    sizing: Sizing = Sizing.STATIC
    router: RouterKind = RouterKind.THRESHOLD
    replan_seconds: Positive = 300.0
    control_seconds: Positive = 15.0
    headroom: Annotated[float, Field(ge=-0.9, le=5)] = 0.1
    conversion: bool = True
    convert_seconds: NotNegative = 60.0
    cache_aware: bool = True
    bandwidth_aware: bool = True
    link_data_age_seconds: NotNegative = 0.0
    link_data_delay_seconds: NotNegative = 0.0
    believes: bool = True
    threshold_tokens: Annotated[int, Field(ge=0)] | None = None
    refuse: bool = False
    anytime: bool = True


class Settings(Part):
    """The section `simulation`.

    Attributes:
        start_hour: of the simulated clock at second 0, for prices and diurnal demand.
        warm_up_seconds: what arrives before counts in no latency and no rate.
        detect_seconds: after which a link or pool that is down is known to be; waiting for KV ends then.
        queue_seconds_max: who waits longer for prefill or decode gives up and counts as not served.
        cache_tokens: prefix cache of each cluster, in tokens; 0 for none.
        step_in_first_token: whether the first decode step counts for the time to first token.
    """

    duration_seconds: Positive = 3600.0
    warm_up_seconds: NotNegative = 0.0
    sample_seconds: Positive | None = None
    start_hour: Annotated[float, Field(ge=0, lt=HOURS_PER_DAY)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 1
    demand: dict[str, Demand] = {}
    networks: dict[str, Network] = {}
    pools: dict[str, PoolDetails] = {}
    failures: tuple[Failure, ...] = ()
    policy: Policy = Policy()
    detect_seconds: Positive = 2.0
    queue_seconds_max: Positive = 300.0
    cache_tokens: Annotated[int, Field(ge=0)] = 0
    step_in_first_token: bool = True

    @model_validator(mode="after")
    def _warm_before_the_end(self) -> Self:
        if self.warm_up_seconds >= self.duration_seconds:
            raise ValueError("warmUpSeconds must be less than durationSeconds")
        return self

    @property
    def sampling_seconds(self) -> float:
        """Distance of the samples in the plots; 200 over the whole when nothing is said."""
        return self.sample_seconds or max(1.0, math.ceil(self.duration_seconds / 200))
