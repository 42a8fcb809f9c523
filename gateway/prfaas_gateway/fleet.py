"""The engines that this gateway knows, what it believes of them, and which one it picks.

State lives in the event loop's thread only. Picking is a function of that state and of the time passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prfaas_gateway.config import DecodeEngine, Health, PrefillEngine
from prfaas_gateway.health import FailureScore
from prfaas_gateway.prefix_index import PrefixIndex

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


@dataclass(slots=True, eq=False)
class Decoder:
    """A decode engine with its sidecar."""

    config: DecodeEngine
    engine: Member
    sidecar: Member
    index: PrefixIndex
    in_flight: int = 0
    tokenizer_agrees: dict[str, bool] = field(default_factory=dict)
    """Per model, once it has been compared."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self.config.name

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


@dataclass(slots=True, eq=False)
class Prefiller:
    """A prefill engine behind its sidecar."""

    config: PrefillEngine
    sidecar: Member
    index: PrefixIndex
    in_flight_tokens: int = 0

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self.config.name

    def serves(self, model: str) -> bool:
        """Whether this engine has the model."""
        return not self.config.models or model in self.config.models

    @contextmanager
    def work(self, tokens: int) -> Iterator[None]:
        """Counts ``tokens`` as being prefilled."""
        self.in_flight_tokens += tokens
        try:
            yield
        finally:
            self.in_flight_tokens -= tokens


EngineT = TypeVar("EngineT")


@dataclass(frozen=True, slots=True)
class Pick(Generic[EngineT]):
    """A chosen engine and how many blocks of the prompt it is believed to hold."""

    engine: EngineT
    matched_blocks: int


def pick_decoder(
    engines: Iterable[Decoder],
    model: str,
    hashes: Sequence[int],
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
        if engine.serves(model)
        and engine.name not in tried
        and engine.in_flight < engine.config.max_in_flight
    ]
    candidates = [engine for engine in open_ if engine.engine.healthy(now)] or open_
    if not candidates:
        return None
    least = min(engine.in_flight for engine in candidates)
    picks = [
        Pick(engine, engine.index.matched_blocks(hashes))
        for engine in candidates
        if engine.in_flight <= least + _LOAD_SLACK
    ]
    return max(picks, key=lambda pick: (pick.matched_blocks, -pick.engine.in_flight))


def healthy_prefillers(
    engines: Iterable[Prefiller], model: str, now: float, tried: frozenset[str] = frozenset()
) -> list[Prefiller]:
    """Prefill engines that could be asked for this model."""
    return [
        engine
        for engine in engines
        if engine.serves(model) and engine.name not in tried and engine.sidecar.healthy(now)
    ]


def pick_prefiller(
    engines: Iterable[Prefiller],
    model: str,
    hashes: Sequence[int],
    tokens: int,
    block_tokens: int,
    now: float,
    tried: frozenset[str] = frozenset(),
) -> Pick[Prefiller] | None:
    """The prefill engine that would be done first: its queue plus what it does not hold of this prompt.

    None when none is healthy, untried and below its bound of tokens in flight.
    """
    picks = [
        Pick(engine, engine.index.matched_blocks(hashes))
        for engine in healthy_prefillers(engines, model, now, tried)
    ]
    fitting = [
        pick
        for pick in picks
        if pick.engine.in_flight_tokens == 0
        or pick.engine.in_flight_tokens + tokens <= pick.engine.config.max_in_flight_tokens
    ]
    if not fitting:
        return None
    return min(
        fitting, key=lambda pick: pick.engine.in_flight_tokens + tokens - pick.matched_blocks * block_tokens
    )
