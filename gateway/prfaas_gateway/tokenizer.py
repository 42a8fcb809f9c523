"""Text to token ids with the model's own tokenizer.json, as the engine does it."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE

# A batch of one text gains nothing from the library's own pool of threads, and waits for it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_SPECIAL_TOKENS_MARGIN = 8
"""More than any known tokenizer adds around a prompt on its own."""

_GROWTH_OF_NORMALISER = {None: 1, "NFC": 3}
"""Factor by which a normaliser can lengthen UTF-8. Others (NFKC: eleven-fold) give no useful bound."""


class UntokenisableError(ValueError):
    """The text cannot be tokenised, for example because it holds half a surrogate pair."""


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads: nothing of it changes after loading."""

    def __init__(self, file: Path) -> None:
        """Load a tokenizer.json.

        Raises:
            ValueError: not a tokenizer file.
        """
        try:
            self._tokenizer = RustTokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a bad file
            raise ValueError(f"{file} is not a tokenizer: {error}") from error
        # A file may ask for truncation or padding; the engine overrides both per request.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._growth = _tokens_per_byte(self._tokenizer)

    def encode(self, text: str, *, add_special_tokens: bool) -> array[int]:
        """Token ids of ``text``. Releases the interpreter lock for most of its time.

        Raises:
            UntokenisableError: the text is not valid Unicode.
        """
        try:
            # The only entry that does not also compute where each token lies in the text.
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeEncodeError) as error:
            raise UntokenisableError("the prompt is not valid Unicode") from error
        return array("I", encoding.ids)

    def most_tokens(self, text: str) -> int | None:
        """An upper bound of the number of tokens without tokenising, or None where bytes bound nothing.

        Holds for byte-level vocabularies: every token stands for at least one byte.
        """
        if self._growth is None:
            return None
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError:
            return None
        return size_bytes * self._growth + _SPECIAL_TOKENS_MARGIN


def _tokens_per_byte(tokenizer: RustTokenizer) -> int | None:
    byte_level = any("ByteLevel" in _kinds(part) for part in (tokenizer.pre_tokenizer, tokenizer.decoder))
    if not byte_level or not isinstance(tokenizer.model, BPE):
        return None
    growth = 1
    for kind in _kinds(tokenizer.normalizer) or [None]:
        if kind not in _GROWTH_OF_NORMALISER:
            return None
        growth *= _GROWTH_OF_NORMALISER[kind]
    return growth


def _kinds(part: Any) -> list[Any]:
    """Types in a pipeline part, with sequences opened. Its pickled state is its part of tokenizer.json."""
    return [] if part is None else _kinds_of(json.loads(part.__getstate__()))


def _kinds_of(part: Any) -> list[Any]:
    if not isinstance(part, dict):
        return []
    if part.get("type") == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or part.get("decoders") or []
        return [kind for item in inner for kind in _kinds_of(item)]
    return [part.get("type")]
