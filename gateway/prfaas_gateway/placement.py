"""Where one prompt is prefilled, given the decode engine: the world at this moment, put before the policy."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas.routing import Conditions, Decision, Mode, Prompt, Reason, Route, decide, in_canary
from prfaas_gateway.fleet import (
    Decoder,
    Pick,
    Prefiller,
    compatible_prefillers,
    healthy_prefillers,
    pick_prefiller,
)
from prfaas_gateway.intake import Intake
from prfaas_gateway.prompt import ShortPrompt
from prfaas_gateway.services import ModelRuntime, Services


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision, and the prefill engine if it is remote.

    Attributes:
        prompt: as the policy saw it.
    """

    decision: Decision
    prompt: Prompt
    prefiller: Pick[Prefiller] | None


def place(
    services: Services, intake: Intake, pick: Pick[Decoder], tried: frozenset[str], request_id: str
) -> Placement:
    """Decide local or remote, and pick the prefill engine."""
    decoder, model = pick.engine, intake.model
    policy, now = decoder.route(model.name), services.clock()
    prompt = _policy_prompt(intake, pick.matched_blocks * model.block_tokens, policy.threshold_tokens)
    healthy = healthy_prefillers(services.fleet.prefillers, model.name, now, tried, policy.prefill_pools)
    compatible = compatible_prefillers(healthy, decoder, policy)
    decision = decide(
        prompt,
        Conditions(
            threshold_tokens=policy.threshold_tokens,
            remote_enabled=services.config.remote_prefill
            and services.control is not None
            and policy.remote_enabled(services.wall_clock()),
            tokenizer_agrees=_tokenizes_alike(decoder, model),
            decode_sidecar_healthy=decoder.can_receive(now),
            healthy_prefill_engines=len(healthy),
            compatible_prefill_engines=len(compatible),
            mode=policy.mode,
            in_canary=policy.mode is not Mode.CANARY or in_canary(request_id, policy.canary_percent),
        ),
    )
    chosen = None
    if decision.route is Route.REMOTE and intake.prompt is not None:
        chosen = pick_prefiller(
            compatible, model.name, intake.block_hashes, intake.prompt.tokens, model.block_tokens, now
        )
        if chosen is None:
            decision = Decision(Route.LOCAL, Reason.NO_PREFILL_ENGINE)
    return Placement(decision, prompt, chosen)


def other_prefillers(
    services: Services, intake: Intake, decoder: Decoder, tried: frozenset[str]
) -> list[Prefiller]:
    """Prefill engines that a failed transfer to this decode engine could be tried with again."""
    policy = decoder.route(intake.model.name)
    healthy = healthy_prefillers(
        services.fleet.prefillers, intake.model.name, services.clock(), tried, policy.prefill_pools
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
