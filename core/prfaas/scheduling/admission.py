"""What is refused when nothing can meet the objective: by SLO class, to whom, and when to come back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from prfaas.capacity.errors import InvalidInputError, require_positive

LONGEST_RETRY_SECONDS = 60


class Shed(StrEnum):
    """What a class prefers when its objective cannot be met."""

    REFUSE = "Refuse"
    """An answer at once, so that the client can go elsewhere."""
    LATE = "Late"
    """To be served, late."""


@dataclass(frozen=True, slots=True)
class SloClass:
    """A kind of traffic.

    Attributes:
        ttft_seconds: the objective for the time to the first token; None for no objective.
        priority: a higher class is served before a lower one.
        shed: what to do when the objective cannot be met.
    """

    name: str
    ttft_seconds: float | None = None
    priority: int = 0
    shed: Shed = Shed.LATE

    def __post_init__(self) -> None:
        if self.ttft_seconds is not None:
            require_positive("ttft_seconds", self.ttft_seconds)
        elif self.shed is Shed.REFUSE:
            raise InvalidInputError(
                "shed", "Refuse without ttft_seconds refuses nothing", "give ttft_seconds, or shed Late"
            )


@dataclass(frozen=True, slots=True)
class Demand:
    """A request at the door.

    Attributes:
        best_seconds: the shortest predicted time to its first token, its wait included; None while nothing is
            known, and then nothing is refused: a guess must not turn clients away.
        tenant_share: share of what waits and of what runs that is the tenant's own.
        fair_share: what the tenant is entitled to of it.
    """

    best_seconds: float | None
    tenant_share: float = 0.0
    fair_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of service.

    Attributes:
        status: 429 when the tenant itself is over its share, 503 when everybody is too much.
    """

    status: int
    code: str
    retry_after_seconds: int
    message: str


def admit(demand: Demand, slo: SloClass) -> Refusal | None:
    """Refuse a request that is certain to be late, or None to let it in.

    Retry-After is what the objective is missed by: about then as much has been served.
    """
    best, limit = demand.best_seconds, slo.ttft_seconds
    if slo.shed is not Shed.REFUSE or limit is None or best is None or best <= limit:
        return None
    retry = max(1, min(LONGEST_RETRY_SECONDS, math.ceil(best - limit)))
    if demand.tenant_share > demand.fair_share:
        return Refusal(
            429,
            "TenantOverShare",
            retry,
            f"this tenant has {demand.tenant_share:.0%} of what waits, more than its share; the first token "
            f"would take {best:.1f} s and class {slo.name} allows {limit:g} s: send less at a time",
        )
    return Refusal(
        503,
        "SloUnreachable",
        retry,
        f"the first token would take {best:.1f} s, and class {slo.name} allows {limit:g} s; try again",
    )
