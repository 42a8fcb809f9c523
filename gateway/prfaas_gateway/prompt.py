"""One prompt, prepared: rendered, tokenised, hashed and serialised once, for both legs.

Everything here may take milliseconds for a long prompt and runs in a worker thread.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from prfaas.prompt_digest import prompt_digest
from prfaas_gateway.chat_messages import RenderError
from prfaas_gateway.chat_template import ChatTemplate
from prfaas_gateway.classify import Endpoint, Kind
from prfaas_gateway.prefix_index import PromptBlocks, Scope, prompt_blocks
from prfaas_gateway.tokenizer import Tokenizer, UntokenisableError

_IDS = TypeAdapter(list[int])
"""Writes ids as JSON several times faster than the json module."""


@dataclass(frozen=True, slots=True)
class ShortPrompt:
    """A prompt that cannot be longer than the threshold; nobody needs its tokens.

    Attributes:
        most_tokens: upper bound of its length.
    """

    most_tokens: int


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt of known length.

    Attributes:
        tokens: its length.
        ids_json: the ids as a JSON array.
        digest: the prompt digest of docs/contracts.md.
        blocks: their names, for the prefix indexes.
    """

    tokens: int
    ids_json: bytes
    digest: str
    blocks: PromptBlocks


@dataclass(frozen=True, slots=True)
class Unrenderable:
    """A prompt that only the engine can turn into tokens, or refuse.

    Attributes:
        why: for a debug log; no prompt text.
    """

    why: str


Prepared = ShortPrompt | PreparedPrompt | Unrenderable


class PromptMaker:
    """Prepares prompts of one model."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, threshold_tokens: int, block_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._threshold_tokens = threshold_tokens
        self._block_tokens = block_tokens

    def prepare(self, kind: Kind, fields: dict[str, Any], scope: Scope) -> Prepared:
        """Turn the body of a request into a prompt. The body is not changed."""
        try:
            if kind.endpoint is Endpoint.CHAT:
                return self._chat(kind, fields, scope)
            return self._completion(kind, fields, scope)
        except (RenderError, UntokenisableError) as error:
            return Unrenderable(str(error))
        except UnicodeEncodeError:
            return Unrenderable("the cache salt is not valid Unicode")

    def encode_for_comparison(self, fields: dict[str, Any]) -> list[int] | None:
        """Ids of a body with ``messages`` or ``prompt``, of any length; None if unrenderable."""
        try:
            if "messages" in fields:
                text = self._render(fields)
                return self._tokenizer.encode(text, add_special_tokens=False).tolist()
            return self._tokenizer.encode(fields["prompt"], add_special_tokens=True).tolist()
        except (RenderError, UntokenisableError):
            return None

    @property
    def renders_chat(self) -> bool:
        """Whether chats can be rendered at all."""
        return self._template is not None

    def _render(self, fields: dict[str, Any]) -> str:
        if self._template is None:
            raise RenderError("the model has no chat template here")
        return self._template.render(fields)

    def _chat(self, kind: Kind, fields: dict[str, Any], scope: Scope) -> Prepared:
        return self._text(kind, self._render(fields), fields.get("add_special_tokens", False), scope)

    def _completion(self, kind: Kind, fields: dict[str, Any], scope: Scope) -> Prepared:
        prompt = fields["prompt"]
        if isinstance(prompt, str):
            return self._text(kind, prompt, fields.get("add_special_tokens", True), scope)
        if len(prompt) <= self._threshold_tokens:
            return ShortPrompt(len(prompt))
        try:
            return self._finish(kind, array("I", prompt), scope)
        except OverflowError:
            return Unrenderable("a token id is out of range")

    def _text(self, kind: Kind, text: str, add_special_tokens: object, scope: Scope) -> Prepared:
        if not isinstance(add_special_tokens, bool):
            return Unrenderable("add_special_tokens is not a boolean")
        most = self._tokenizer.most_tokens(text)
        if most is not None and most <= self._threshold_tokens:
            return ShortPrompt(most)
        return self._finish(kind, self._tokenizer.encode(text, add_special_tokens=add_special_tokens), scope)

    def _finish(self, kind: Kind, ids: array[int], scope: Scope) -> Prepared:
        return PreparedPrompt(
            tokens=len(ids),
            ids_json=_IDS.dump_json(ids.tolist()),
            digest=prompt_digest(ids, kind.cache_salt),
            blocks=prompt_blocks(ids, self._block_tokens, scope),
        )
