"""A decision in the making: what each step knows of a pool and may change."""

from __future__ import annotations

from dataclasses import dataclass, field

from prfaas.autoscaling.decision import Cause, Input, Limit
from prfaas.autoscaling.links import Reach
from prfaas.autoscaling.needs import Need
from prfaas.autoscaling.observation import PoolObservation
from prfaas.autoscaling.settings import PoolSettings
from prfaas.autoscaling.state import PoolState


@dataclass(slots=True)
class Draft:
    """Attributes:
    needed: what the load needs, whatever stands in the way.
    wanted: the same behind the links that there are.
    desired: what is asked for.
    refused: instances of `needed` that this pool cannot have, and others might serve.
    by_model: the need is the capacity model's.
    """

    pool: PoolObservation
    own: PoolSettings
    memory: PoolState
    start_seconds: float
    reach: Reach
    need: Need | None = None
    by_model: bool = False
    needed: int = 0
    wanted: int = 0
    desired: int = 0
    refused: int = 0
    converted: int = 0
    cause: Cause = Cause.STEADY
    sentence: str = ""
    limit: Limit | None = None
    limit_sentence: str = ""
    inputs: list[Input] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.pool.name

    @property
    def replicas(self) -> int:
        return self.pool.replicas

    @property
    def active(self) -> bool:
        """Whether anything is known to decide on."""
        return self.cause is not Cause.LOAD_UNKNOWN

    def limited(self, limit: Limit, sentence: str) -> None:
        """Note what stands in the way; the first one counts."""
        if self.limit is None:
            self.limit, self.limit_sentence = limit, sentence

    def because(self, cause: Cause, sentence: str) -> None:
        self.cause, self.sentence = cause, sentence
