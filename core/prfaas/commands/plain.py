"""Words of others on somebody's terminal."""

from __future__ import annotations

import unicodedata

# Controls (escape sequences begin with one), formats (some turn the line around), halves of surrogates.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs"})


def plain(text: str) -> str:
    """`text` without what would change the terminal instead of being shown there; line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if _is_safe(each) else "\N{REPLACEMENT CHARACTER}" for each in text)


def _is_safe(character: str) -> bool:
    return character == "\n" or unicodedata.category(character) not in _UNSAFE_CATEGORIES
