"""The decision between local and remote prefill, with its reason.

The rule is one comparison, uncached prompt length against a threshold; everything else says why a request
cannot take part in it. Reasons are part of the interface: they are metric labels, log fields and response
headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Route(StrEnum):
    """Where the prompt is prefilled."""

    LOCAL = "local"
    REMOTE = "remote"


class Reason(StrEnum):
    """Why a request went where it went."""

    OVER_THRESHOLD = "OverThreshold"

    UNDER_THRESHOLD = "UnderThreshold"
    CACHED_HERE = "CachedHere"
    REMOTE_DISABLED = "RemoteDisabled"
    NO_PREFILL_ENGINE = "NoPrefillEngine"
    NO_DECODE_SIDECAR = "NoDecodeSidecar"
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
class Conditions:
    """The world at the moment of the decision.

    Attributes:
        threshold_tokens: uncached length up to which prefill stays local.
        remote_enabled: False when an operator has switched remote prefill off.
        tokenizer_agrees: False when the decode engine tokenises differently from whoever counted the prompt.
        decode_sidecar_healthy: whether the decode side can receive KV at all.
        healthy_prefill_engines: how many could be asked now.
    """

    threshold_tokens: int
    remote_enabled: bool = True
    tokenizer_agrees: bool = True
    decode_sidecar_healthy: bool = True
    healthy_prefill_engines: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """A route and the one reason for it."""

    route: Route
    reason: Reason


def decide(prompt: Prompt, conditions: Conditions) -> Decision:
    """Choose the route of one request. The first thing that keeps it local is the reason.

    What is true of the request itself is named before what is true of the moment, so that reasons stay
    comparable when engines come and go.
    """
    if prompt.stays_local is not None:
        return Decision(Route.LOCAL, prompt.stays_local)
    if prompt.tokens <= conditions.threshold_tokens:
        return Decision(Route.LOCAL, Reason.UNDER_THRESHOLD)
    if prompt.uncached_tokens <= conditions.threshold_tokens:
        return Decision(Route.LOCAL, Reason.CACHED_HERE)
    if not conditions.remote_enabled:
        return Decision(Route.LOCAL, Reason.REMOTE_DISABLED)
    if not conditions.tokenizer_agrees:
        return Decision(Route.LOCAL, Reason.TOKENIZER_MISMATCH)
    if not conditions.decode_sidecar_healthy:
        return Decision(Route.LOCAL, Reason.NO_DECODE_SIDECAR)
    if conditions.healthy_prefill_engines < 1:
        return Decision(Route.LOCAL, Reason.NO_PREFILL_ENGINE)
    return Decision(Route.REMOTE, Reason.OVER_THRESHOLD)
