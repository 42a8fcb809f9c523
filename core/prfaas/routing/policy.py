"""The decision between local and remote prefill, with its reason.

The rule is one comparison, uncached prompt length against a threshold; everything else says why a request
cannot take part in it. Reasons are part of the interface: they are metric labels, log fields and response
headers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

CANARY_SLOTS = 10_000
"""Canary shares are decided in hundredths of a percent."""


class Route(StrEnum):
    """Where the prompt is prefilled."""

    LOCAL = "local"
    REMOTE = "remote"


class Mode(StrEnum):
    """How far a route's decisions are carried out."""

    OBSERVE = "Observe"
    """Decide and count; do everything locally."""
    CANARY = "Canary"
    """Carry out a share of the remote decisions."""
    ENFORCE = "Enforce"
    """Carry out all of them."""


class Reason(StrEnum):
    """Why a request went where it went."""

    OVER_THRESHOLD = "OverThreshold"
    CACHED_ELSEWHERE = "CachedElsewhere"
    DECODE_BUSY = "DecodeBusy"
    DEADLINE = "Deadline"

    OBSERVED = "Observed"
    NOT_IN_CANARY = "NotInCanary"

    UNDER_THRESHOLD = "UnderThreshold"
    CACHED_HERE = "CachedHere"
    PREFILL_BUSY = "PrefillBusy"
    PREFILL_FULL = "PrefillFull"
    LINK_BUSY = "LinkBusy"
    LINK_SCARCE = "LinkScarce"
    BUDGET_SPENT = "BudgetSpent"
    SLO_FALLBACK = "SloFallback"
    NO_ROUTE = "NoRoute"
    REMOTE_DISABLED = "RemoteDisabled"
    NO_PREFILL_ENGINE = "NoPrefillEngine"
    INCOMPATIBLE_KV = "IncompatibleKV"
    NO_DECODE_SIDECAR = "NoDecodeSidecar"
    TOKENIZER_PENDING = "TokenizerPending"
    TOKENIZER_MISMATCH = "TokenizerMismatch"

    SEVERAL_CHOICES = "SeveralChoices"
    BEST_OF = "BestOf"
    BEAM_SEARCH = "BeamSearch"
    SEVERAL_PROMPTS = "SeveralPrompts"
    PROMPT_LOGPROBS = "PromptLogprobs"
    ECHO = "Echo"
    MEDIA = "Media"
    PROMPT_EMBEDS = "PromptEmbeds"
    ADAPTER = "Adapter"
    TRUNCATION = "Truncation"
    SUFFIX = "Suffix"
    RENDERING = "Rendering"

    PREFILL_FAILED = "PrefillFailed"
    DECODE_FAILED = "DecodeFailed"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy needs to know of one prompt. Lengths are in tokens.

    Attributes:
        stays_local: set when requests of this kind are never prefilled remotely, whatever their length.
        tokens: prompt length, or an upper bound of it when the exact length was not worth computing.
        cached_tokens: how much of it the decode engine is believed to hold already.
    """

    stays_local: Reason | None
    tokens: int
    cached_tokens: int

    @property
    def uncached_tokens(self) -> int:
        """Tokens that somebody has to prefill."""
        return max(0, self.tokens - self.cached_tokens)


@dataclass(frozen=True, slots=True)
class Advice:
    """What the scheduler found for a request, in place of the bare comparison with the threshold."""

    route: Route
    reason: Reason


@dataclass(frozen=True, slots=True)
class Conditions:
    """The world at the moment of the decision.

    Attributes:
        threshold_tokens: uncached length up to which prefill stays local; None when no route says any, and
            then nothing is remote.
        remote_enabled: False when an operator has switched remote prefill off.
        tokenizer_agrees: False when the decode engine tokenises differently from whoever counted the prompt.
        decode_sidecar_healthy: whether the decode side can receive KV at all.
        healthy_prefill_engines: how many could be asked now, whatever their KV is like.
        compatible_prefill_engines: how many of them make KV that the decode engine can take.
        budget_spent: there are such engines, all of them behind links whose budget is spent.
        mode: how far a remote decision is carried out.
        in_canary: whether this request belongs to the share of Canary mode.
        fallen_back: True while the route's objective was broken by remote prefill.
        advice: of the scheduler; None leaves it to the threshold.
    """

    threshold_tokens: int | None
    remote_enabled: bool = True
    tokenizer_agrees: bool = True
    decode_sidecar_healthy: bool = True
    healthy_prefill_engines: int = 1
    compatible_prefill_engines: int = 1
    budget_spent: bool = False
    mode: Mode = Mode.ENFORCE
    in_canary: bool = True
    fallen_back: bool = False
    advice: Advice | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A route and the one reason for it.

    Attributes:
        would_be: the route without the mode's restraint: always set in Observe mode, and for what Canary
            holds back.
    """

    route: Route
    reason: Reason
    would_be: Route | None = None


def decide(prompt: Prompt, conditions: Conditions) -> Decision:
    """Choose the route of one request. The first thing that keeps it local is the reason.

    What is true of the request itself is named before what is true of the moment, so that reasons stay
    comparable when engines come and go.
    """
    local = _why_local(prompt, conditions)
    if conditions.mode is Mode.OBSERVE:
        if local is not None:
            return Decision(Route.LOCAL, local, would_be=Route.LOCAL)
        return Decision(Route.LOCAL, Reason.OBSERVED, would_be=Route.REMOTE)
    if local is not None:
        return Decision(Route.LOCAL, local)
    if conditions.mode is Mode.CANARY and not conditions.in_canary:
        return Decision(Route.LOCAL, Reason.NOT_IN_CANARY, would_be=Route.REMOTE)
    if conditions.fallen_back:
        return Decision(Route.LOCAL, Reason.SLO_FALLBACK, would_be=Route.REMOTE)
    return Decision(
        Route.REMOTE, Reason.OVER_THRESHOLD if conditions.advice is None else conditions.advice.reason
    )


def in_canary(request_id: str, percent: float) -> bool:
    """Whether a request belongs to a share of that many percent: the same everywhere for the same id."""
    digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % CANARY_SLOTS < percent * (CANARY_SLOTS / 100)


def _why_local(prompt: Prompt, conditions: Conditions) -> Reason | None:
    if prompt.stays_local is not None:
        return prompt.stays_local
    threshold_tokens = conditions.threshold_tokens
    if threshold_tokens is None:
        return Reason.NO_ROUTE
    if conditions.advice is not None:
        if conditions.advice.route is Route.LOCAL:
            return conditions.advice.reason
    elif prompt.tokens <= threshold_tokens:
        return Reason.UNDER_THRESHOLD
    elif prompt.uncached_tokens <= threshold_tokens:
        return Reason.CACHED_HERE
    if not conditions.remote_enabled:
        return Reason.REMOTE_DISABLED
    if not conditions.tokenizer_agrees:
        return Reason.TOKENIZER_MISMATCH
    if not conditions.decode_sidecar_healthy:
        return Reason.NO_DECODE_SIDECAR
    if conditions.budget_spent:
        return Reason.BUDGET_SPENT
    if conditions.healthy_prefill_engines < 1:
        return Reason.NO_PREFILL_ENGINE
    if conditions.compatible_prefill_engines < 1:
        return Reason.INCOMPATIBLE_KV
    return None
