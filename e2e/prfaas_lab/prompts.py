"""Prompts as token ids, the same in every run."""

from __future__ import annotations

import random


def prompt(tokens: int, seed: int = 1) -> list[int]:
    """Random ids of the SmolLM2 vocabulary, without its special tokens."""
    source = random.Random(seed * 100_003 + tokens)  # noqa: S311 - text for engines, not a secret
    return [source.randrange(100, 40_000) for _ in range(tokens)]
