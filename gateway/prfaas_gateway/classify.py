"""What kind of request this is: whether it can be prefilled remotely at all, and where its prompt is.

Wrong types are not judged here: such a request goes to the engine as it is, which answers with its own error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prfaas.routing import Reason

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_MEDIA_KEYS = frozenset(
    {
        "audio_embeds",
        "audio_url",
        "image_embeds",
        "image_pil",
        "image_url",
        "input_audio",
        "input_image",
        "prompt_embeds",
        "video_embeds",
        "video_url",
    }
)


class Endpoint(StrEnum):
    """The two generating endpoints."""

    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the gateway needs to know of a request before it looks at the prompt.

    Attributes:
        model: the model name that the client asked for, or None.
        stream: whether the answer is a stream of events.
        stays_local: why it is never prefilled remotely, or None.
        cache_salt: separates prefix caches of different users.
        text_prompt: a completion of text, not of token ids.
    """

    endpoint: Endpoint
    model: str | None
    stream: bool
    stays_local: Reason | None
    cache_salt: str
    text_prompt: bool


def classify(endpoint: Endpoint, fields: dict[str, Any]) -> Kind:
    """Read the kind of a request from its body."""
    model = fields.get("model")
    salt = fields.get("cache_salt")
    return Kind(
        endpoint=endpoint,
        model=model if isinstance(model, str) and model else None,
        stream=fields.get("stream") is True,
        stays_local=_stays_local(endpoint, fields),
        cache_salt=salt if isinstance(salt, str) else "",
        text_prompt=endpoint is Endpoint.COMPLETIONS and isinstance(fields.get("prompt"), str),
    )


def _stays_local(endpoint: Endpoint, fields: dict[str, Any]) -> Reason | None:
    sampling = _sampling_reason(fields)
    if sampling is not None:
        return sampling
    if endpoint is Endpoint.COMPLETIONS:
        return _completion_reason(fields)
    return _chat_reason(fields)


def _sampling_reason(fields: dict[str, Any]) -> Reason | None:
    if fields.get("n") not in (None, 1):
        return Reason.SEVERAL_CHOICES
    if fields.get("best_of") not in (None, 1):
        return Reason.BEST_OF
    if fields.get("use_beam_search"):
        return Reason.BEAM_SEARCH
    if fields.get("prompt_logprobs") is not None:
        return Reason.PROMPT_LOGPROBS
    if fields.get("echo"):
        return Reason.ECHO
    if fields.get("truncate_prompt_tokens") is not None:
        return Reason.TRUNCATION
    return None


def _completion_reason(fields: dict[str, Any]) -> Reason | None:
    if fields.get("prompt_embeds") is not None:
        return Reason.PROMPT_EMBEDS
    if fields.get("suffix") is not None:
        return Reason.SUFFIX
    prompt = fields.get("prompt")
    if isinstance(prompt, str) or _is_token_ids(prompt):
        return None
    return Reason.SEVERAL_PROMPTS if isinstance(prompt, list) and prompt else Reason.RENDERING


def _is_token_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(item) is int for item in prompt)


def _chat_reason(fields: dict[str, Any]) -> Reason | None:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        return Reason.RENDERING
    reasons = {_message_reason(message) for message in messages}
    if Reason.MEDIA in reasons:
        return Reason.MEDIA
    if Reason.RENDERING in reasons or fields.get("chat_template") is not None:
        return Reason.RENDERING
    return None


def _message_reason(message: Any) -> Reason | None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return Reason.RENDERING
    content = message.get("content")
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list):
        return Reason.RENDERING
    for part in content:
        if isinstance(part, str):
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            return Reason.RENDERING
        if kind in _MEDIA_KEYS or _MEDIA_KEYS & part.keys():
            return Reason.MEDIA
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            return Reason.RENDERING
    return None
