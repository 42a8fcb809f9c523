"""Who decides where a prompt is prefilled: the gateway's own code behind one narrow interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prfaas.planner import DecodePlan, Plan, Problem, Route
from prfaas.planner.routes import usable_routes
from prfaas.routing import policy
from prfaas.simulator.control import LinkState
from prfaas.simulator.request import Request


@dataclass(slots=True)
class Candidate:
    """A prefill pool that may serve a decode pool.

    Attributes:
        prefill: index of the prefill pool.
        link: index of the link between; -1 inside one cluster.
        weight: requests per second that the plan gives it.
        given: of them, what it got so far, relative to the others.
    """

    prefill: int
    link: int
    weight: float = 1.0
    given: float = 0.0


@dataclass(slots=True)
class Choices:
    """What a decode pool's requests can be given to.

    Attributes:
        cluster: of the decode pool.
        plan: what the planner says of the pool now; None before it said anything.
    """

    cluster: str
    local: list[Candidate] = field(default_factory=list)
    remote: list[Candidate] = field(default_factory=list)
    plan: DecodePlan | None = None
    remote_debt: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a request goes.

    Attributes:
        candidate: None when nobody can prefill it now.
        reason: the policy's, or why nobody can.
    """

    candidate: Candidate | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """All queues and links as they were at one moment, in the order of the problem's.

    Attributes:
        busy_seconds: of each prefill pool, for how long each ready instance had work.
        submitted_seconds: of each prefill pool, the work that it had ever been given.
        free_bits_per_second: of each link, what one more transfer would have got.
    """

    measured_at: float
    busy_seconds: tuple[tuple[float, ...], ...]
    submitted_seconds: tuple[float, ...]
    free_bits_per_second: tuple[float, ...]


class View(Protocol):
    """What is known of the world."""

    @property
    def report(self) -> Report | None:
        """The last one, where queues and links are known by reports alone; None where they are seen."""
        ...

    def usable(self, candidate: Candidate) -> bool:
        """Whether pool and link are up, as far as is known."""
        ...

    def wait_seconds(self, prefill: int) -> float:
        """How long a request that comes now would wait there."""
        ...

    def cached_tokens(self, request: Request, cluster: str) -> int:
        """How much of the prompt that cluster holds."""
        ...

    def free_bits_per_second(self, link: int) -> float:
        """What one more transfer would get on a link."""
        ...


class Router(Protocol):
    """Decides for one request."""

    def route(self, request: Request, choices: Choices, view: View) -> Choice:
        """The pool that prefills, and why; never one that is known to be down."""
        ...

    def planned(self, plan: Plan, choices: Sequence[Choices]) -> None:
        """There is a new plan."""
        ...

    def measured(self, states: Sequence[LinkState], now: float) -> None:
        """Links were measured, in the order of the problem's."""
        ...


class ThresholdRouter:
    """The gateway's policy (`prfaas.routing.policy.decide`) with the plan's threshold, or a fixed one.

    Among several pools of a side the plan's shares decide, each request going to the pool that is furthest
    behind its share.

    Args:
        threshold_tokens: instead of the plan's. None with `fixed`: nothing is remote.
    """

    def __init__(self, *, fixed: bool = False, threshold_tokens: int | None = None) -> None:
        self._fixed = fixed
        self._threshold_tokens = threshold_tokens

    def planned(self, plan: Plan, choices: Sequence[Choices]) -> None:
        """Thresholds are read where they are needed."""

    def measured(self, states: Sequence[LinkState], now: float) -> None:
        """The threshold alone decides."""

    def route(self, request: Request, choices: Choices, view: View) -> Choice:
        """See `Router`."""
        remote = [each for each in choices.remote if view.usable(each)]
        prompt = policy.Prompt(None, request.tokens, view.cached_tokens(request, choices.cluster))
        decision = policy.decide(
            prompt,
            policy.Conditions(
                self._threshold(prompt.uncached_tokens, choices),
                healthy_prefill_engines=len(remote),
                compatible_prefill_engines=len(remote),
            ),
        )
        if decision.route is policy.Route.REMOTE:
            return Choice(furthest_behind(remote), decision.reason)
        local = [each for each in choices.local if view.usable(each)]
        if local:
            return Choice(furthest_behind(local), decision.reason)
        # Without engines of its own the pool depends on the others, whatever the threshold says.
        if remote:
            return Choice(furthest_behind(remote), "NoLocalPrefill")
        return Choice(None, "NoPrefill")

    def _threshold(self, uncached_tokens: int, choices: Choices) -> int | None:
        return self._threshold_tokens if self._fixed else threshold_of(uncached_tokens, choices)


def threshold_of(uncached_tokens: int, choices: Choices) -> int | None:
    """What the plan says for a prompt of this uncached length; None when nothing is remote.

    A plan by length says which share of each bucket goes away: those prompts get a threshold of 0, spread
    evenly, and the others one that they are not above.
    """
    plan = choices.plan
    if plan is None:
        return None
    if plan.threshold_tokens is not None:
        return None if plan.threshold_tokens == float("inf") else int(plan.threshold_tokens)
    edges = plan.bucket_edges_tokens
    bucket = 0
    while bucket < len(plan.remote_by_bucket) - 1 and uncached_tokens > edges[bucket + 1]:
        bucket += 1
    debt = choices.remote_debt.get(bucket, 0.0) + plan.remote_by_bucket[bucket]
    away = debt >= 1.0
    choices.remote_debt[bucket] = debt - 1.0 if away else debt
    return 0 if away else uncached_tokens


def choices_of(problem: Problem) -> tuple[list[Choices], dict[tuple[int, int], Route]]:
    """Who may prefill for whom, as the planner sees it: residency and allow-lists hold here too."""
    prefill = {pool.name: index for index, pool in enumerate(problem.prefill_pools)}
    links = {link.name: index for index, link in enumerate(problem.links)}
    usable, _ = usable_routes(problem)
    found: list[Choices] = []
    routes: dict[tuple[int, int], Route] = {}
    for index, pool in enumerate(problem.decode_pools):
        choices = Choices(pool.cluster)
        for route in usable:
            if route.decode_pool == pool.name:
                candidate = Candidate(
                    prefill[route.prefill_pool], links[route.links[0]] if route.links else -1
                )
                (choices.remote if route.links else choices.local).append(candidate)
                routes[candidate.prefill, index] = route
        found.append(choices)
    return found, routes


def furthest_behind(candidates: Sequence[Candidate]) -> Candidate:
    """By the plan's shares; counts the request for the one that is chosen."""
    if len(candidates) == 1:
        return candidates[0]
    total = sum(each.weight for each in candidates)
    best = candidates[0]
    for each in candidates:
        each.given += each.weight / total if total > 0 else 1 / len(candidates)
        if each.given > best.given:
            best = each
    best.given -= 1.0
    return best
