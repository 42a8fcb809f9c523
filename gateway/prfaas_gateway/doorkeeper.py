"""Who may begin now, who waits, and who is turned away: between a request's arrival and its first leg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prfaas.routing import Route
from prfaas.scheduling import Claim, Demand, Shed, admit
from prfaas_gateway.errors import GatewayError, unavailable
from prfaas_gateway.fleet import Decoder, Pick, pick_decoder
from prfaas_gateway.intake import Intake
from prfaas_gateway.paces import queue_seconds
from prfaas_gateway.placement import Placement, place
from prfaas_gateway.services import Services
from prfaas_gateway.waiting_room import RoomFullError


def pick(services: Services, intake: Intake, tried: frozenset[str] = frozenset()) -> Pick[Decoder] | None:
    """The decode engine for a request, whether it has room for another prefill or not."""
    return pick_decoder(services.fleet.decoders, intake.model.name, intake.matches, services.clock(), tried)


def local_tokens(intake: Intake, chosen: Pick[Decoder]) -> int:
    """Tokens that the decode engine would have to prefill; an estimate when the prompt was not tokenised."""
    return max(1, intake.expected_tokens - chosen.matched_blocks * intake.model.block_tokens)


async def turn(
    services: Services, intake: Intake, request_id: str, age_seconds: float, tried: frozenset[str]
) -> Pick[Decoder] | None:
    """The decode engine that a request may begin at, once it is its turn; None when all stayed full.

    Raises:
        GatewayError: nobody serves the model, nothing can meet its class's objective, or there is no place to
            wait.
    """
    model, room = intake.model.name, services.scheduler.room
    if not any(decoder.open and decoder.serves(model) for decoder in services.fleet.decoders):
        raise unavailable("NoDecodeEngine", "no decode engine of this model is ready; try again", 5)
    claim = _claim(services, intake)
    _turn_away(services, intake, claim, request_id, age_seconds)
    if not room.busy(model):
        chosen = _begin_at(services, intake, request_id, tried)
        if chosen is not None:
            return chosen
    limit = services.config.timeouts.waiting_seconds
    if intake.slo.shed is Shed.REFUSE and intake.slo.ttft_seconds is not None:
        limit = min(limit, max(0.0, intake.slo.ttft_seconds - age_seconds))
    try:
        called = await room.wait(
            model, claim, limit, lambda: _begin_at(services, intake, request_id, tried) is not None
        )
    except RoomFullError as error:
        services.metrics.refused.labels(model, intake.slo.name, "Overloaded").inc()
        raise _no_place(services, model, claim) from error
    return _begin_at(services, intake, request_id, tried) if called else None


@contextmanager
def prefilling(
    services: Services, intake: Intake, decoder: Decoder, tokens: int, *, local: bool
) -> Iterator[None]:
    """A request between its start and its first byte: it takes room, and counts as its tenant's."""
    room = services.scheduler.room
    ended = room.started(intake.model.name, intake.tenant, tokens)
    try:
        with decoder.prefill(tokens if local else 0):
            yield
    finally:
        ended()
        room.wake(intake.model.name)


def _claim(services: Services, intake: Intake) -> Claim:
    slo = intake.slo
    chosen = pick(services, intake)
    cost = local_tokens(intake, chosen) if chosen is not None else max(1, intake.expected_tokens)
    deadline = services.clock() + slo.ttft_seconds if slo.ttft_seconds is not None else float("inf")
    return Claim(intake.tenant, float(cost), slo.priority, deadline)


def _begin_at(
    services: Services, intake: Intake, request_id: str, tried: frozenset[str]
) -> Pick[Decoder] | None:
    """An engine that would take the request now: with room for its prefill, or with nothing to prefill."""
    with_room = pick_decoder(
        (each for each in services.fleet.decoders if each.has_room(_cost_at(intake, each))),
        intake.model.name,
        intake.matches,
        services.clock(),
    )
    if with_room is not None:
        return with_room
    chosen = pick(services, intake)
    if chosen is None:
        return None
    placement = place(services, intake, chosen, tried, request_id, trial=True)
    return chosen if placement.decision.route is Route.REMOTE else None


def _cost_at(intake: Intake, decoder: Decoder) -> int:
    return local_tokens(intake, Pick(decoder, intake.matches.of(decoder.index)))


def _turn_away(services: Services, intake: Intake, claim: Claim, request_id: str, age_seconds: float) -> None:
    """Refuse what is certain to be late, if its class wants that."""
    if intake.slo.shed is not Shed.REFUSE:
        return
    best = _best_seconds(services, intake, claim, request_id)
    share, fair = services.scheduler.room.shares(intake.model.name, claim)
    refusal = admit(Demand(None if best is None else best + age_seconds, share, fair), intake.slo)
    if refusal is not None:
        services.metrics.refused.labels(intake.model.name, intake.slo.name, refusal.code).inc()
        raise GatewayError(
            refusal.status,
            refusal.code,
            refusal.message,
            retryable=True,
            retry_after_seconds=refusal.retry_after_seconds,
        )


def _best_seconds(services: Services, intake: Intake, claim: Claim, request_id: str) -> float | None:
    """The shortest predicted time to the first token, what waits before it included; None while unknown."""
    serving = [each for each in services.fleet.decoders if each.open and each.serves(intake.model.name)]
    idlest = min(serving, key=lambda each: (each.prefill_tokens, each.in_flight))
    chosen = pick(services, intake) or Pick(idlest, intake.matches.of(idlest.index))
    placement: Placement = place(services, intake, chosen, frozenset(), request_id, trial=True)
    best = placement.best_seconds
    if best is None:
        return None
    ahead = services.scheduler.room.ahead_cost(intake.model.name, claim)
    curve = services.scheduler.paces.curve(chosen.engine.kind)
    return best + queue_seconds(curve, int(ahead)) / len(serving)


def _no_place(services: Services, model: str, claim: Claim) -> GatewayError:
    share, fair = services.scheduler.room.shares(model, claim)
    if share > fair:
        return GatewayError(
            429,
            "TenantOverShare",
            "this tenant has as many requests waiting as it may; send less at a time",
            retryable=True,
            retry_after_seconds=2,
        )
    return unavailable("Overloaded", "as many requests wait as may; try again", 2)
