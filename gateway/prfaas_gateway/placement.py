"""Where one prompt is prefilled, given the decode engine: the world at this moment, put before the policy."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas.routing import Advice, Conditions, Decision, Mode, Prompt, Reason, Route, decide, in_canary
from prfaas.scheduling import (
    Choice,
    CompiledCurve,
    DecodeSide,
    Producer,
    Rule,
    Work,
    first_kv_patience_seconds,
    schedule,
)
from prfaas_gateway.fleet import (
    Decoder,
    Pick,
    Prefiller,
    RoutePolicy,
    compatible_prefillers,
    healthy_prefillers,
)
from prfaas_gateway.intake import Intake
from prfaas_gateway.prompt import ShortPrompt
from prfaas_gateway.services import ModelRuntime, Services

_MOST_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision, and the prefill engine if it is remote.

    Attributes:
        prompt: as the policy saw it.
        choice: what the scheduler predicted; None when it was not asked.
        local_compute_seconds, remote_compute_seconds: that the prompt would keep an engine busy; None while
            unknown.
        local_seconds: until the first token of a local prefill could be computed.
    """

    decision: Decision
    prompt: Prompt
    prefiller: Pick[Prefiller] | None
    choice: Choice | None = None
    local_seconds: float | None = None
    local_compute_seconds: float | None = None
    remote_compute_seconds: float | None = None

    @property
    def first_kv_seconds(self) -> float | None:
        """How long silence is to be expected before the first KV."""
        if self.choice is None:
            return None
        return first_kv_patience_seconds(self.choice, _MOST_PATIENCE_SECONDS)

    @property
    def best_seconds(self) -> float | None:
        """The shortest predicted time to the first token."""
        return self.choice.best_seconds if self.choice is not None else self.local_seconds


def place(
    services: Services,
    intake: Intake,
    pick: Pick[Decoder],
    tried: frozenset[str],
    request_id: str,
    age_seconds: float = 0.0,
    *,
    trial: bool = False,
) -> Placement:
    """Decide local or remote, and pick the prefill engine. A trial leaves no trace in a shadow's queues."""
    decoder, model, scheduler = pick.engine, intake.model, services.scheduler
    policy, now = decoder.route(model.name), services.clock()
    prompt = _policy_prompt(intake, pick.matched_blocks * model.block_tokens, policy.threshold_tokens)
    closed = scheduler.links.closed
    healthy = healthy_prefillers(
        services.fleet.prefillers, model.name, now, tried, policy.prefill_pools, closed
    )
    compatible = compatible_prefillers(healthy, decoder, policy)
    producers = [prefiller.view for prefiller in compatible]
    shadow = None
    if policy.mode is Mode.OBSERVE and (producers or policy.assumed):
        shadow = scheduler.shadow(policy, producers)
        producers = shadow.at(now)
    curve = scheduler.paces.curve(decoder.kind)
    side = DecodeSide(
        pick.matched_blocks * model.block_tokens, curve, scheduler.local_queue_seconds(decoder, curve)
    )
    started = services.clock()
    choice = _choose(intake, side, producers, policy, age_seconds, services)
    services.metrics.decision_seconds.observe(services.clock() - started)
    conditions = Conditions(
        threshold_tokens=policy.threshold_tokens,
        remote_enabled=(
            shadow is not None or (services.config.remote_prefill and services.control is not None)
        )
        and policy.remote_enabled(services.wall_clock()),
        tokenizer_agrees=_tokenizes_alike(decoder, model),
        decode_sidecar_healthy=shadow is not None or decoder.can_receive(now),
        healthy_prefill_engines=len(producers) if shadow is not None else len(healthy),
        compatible_prefill_engines=len(producers),
        budget_spent=bool(closed)
        and not healthy
        and bool(healthy_prefillers(services.fleet.prefillers, model.name, now, tried, policy.prefill_pools)),
        mode=policy.mode,
        in_canary=policy.mode is not Mode.CANARY or in_canary(request_id, policy.canary_percent),
        fallen_back=scheduler.observations.fallen(policy.name, now),
        advice=Advice(choice.route, choice.reason) if choice is not None else None,
    )
    decision = decide(prompt, conditions)
    chosen = None
    if choice is not None and choice.producer is not None:
        if shadow is not None and not trial and decision.would_be is Route.REMOTE:
            shadow.take(choice, prompt.tokens, side.cached_tokens, policy.wire, now)
        if decision.route is Route.REMOTE:
            engine = next(each for each in compatible if each.view is choice.producer)
            chosen = Pick(engine, intake.matches.of(engine.index))
    elif decision.route is Route.REMOTE:
        decision = Decision(Route.LOCAL, Reason.NO_PREFILL_ENGINE)
    uncached = prompt.uncached_tokens
    if intake.prepared is None:
        uncached = max(0, intake.expected_tokens - side.cached_tokens)
    return _placed(decision, prompt, chosen, choice, side, curve, uncached)


def _choose(
    intake: Intake,
    side: DecodeSide,
    producers: list[Producer],
    policy: RoutePolicy,
    age_seconds: float,
    services: Services,
) -> Choice | None:
    """What the scheduler says; None for a prompt that it has no say about."""
    if intake.prompt is None or intake.stays_local is not None or policy.threshold_tokens is None:
        return None
    if not producers:
        return None
    block_tokens = intake.model.block_tokens
    held = intake.matches.by_slot(services.scheduler.blocks)
    limit = intake.slo.ttft_seconds if intake.slo.ttft_seconds is not None else policy.ttft_seconds
    return schedule(
        Work(intake.prompt.tokens, limit - age_seconds if limit is not None else None),
        side,
        producers,
        {slot: blocks * block_tokens for slot, blocks in held.items()} if held else held,
        Rule(policy.threshold_tokens, policy.adaptive, policy.wire),
    )


def _placed(
    decision: Decision,
    prompt: Prompt,
    chosen: Pick[Prefiller] | None,
    choice: Choice | None,
    side: DecodeSide,
    curve: CompiledCurve | None,
    uncached_tokens: int,
) -> Placement:
    compute = curve.at(uncached_tokens) if curve is not None else None
    producer = choice.producer if choice is not None else None
    return Placement(
        decision,
        prompt,
        chosen,
        choice,
        side.queue_seconds + compute if compute is not None else None,
        compute,
        producer.prefill.at(prompt.tokens) if producer is not None and producer.prefill is not None else None,
    )


def other_prefillers(
    services: Services, intake: Intake, decoder: Decoder, tried: frozenset[str]
) -> list[Prefiller]:
    """Prefill engines that a failed transfer to this decode engine could be tried with again."""
    policy = decoder.route(intake.model.name)
    healthy = healthy_prefillers(
        services.fleet.prefillers,
        intake.model.name,
        services.clock(),
        tried,
        policy.prefill_pools,
        services.scheduler.links.closed,
    )
    return compatible_prefillers(healthy, decoder, policy)


def _tokenizes_alike(decoder: Decoder, model: ModelRuntime) -> bool:
    """Whether ids made here are the engine's own. Files may differ in ways that no sample shows."""
    if decoder.files and model.files and decoder.files != model.files:
        return False
    return decoder.tokenizer_agrees.get(model.name, True)


def _policy_prompt(intake: Intake, matched_tokens: int, threshold_tokens: int | None) -> Prompt:
    if intake.prompt is not None:
        return Prompt(intake.stays_local, intake.prompt.tokens, matched_tokens)
    most = intake.prepared.most_tokens if isinstance(intake.prepared, ShortPrompt) else 0
    if threshold_tokens is not None:
        # It was not worth tokenising under the threshold that held when it came, so it cannot be remote now.
        most = min(most, threshold_tokens)
    return Prompt(intake.stays_local, most, 0)
