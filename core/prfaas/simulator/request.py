"""One request on its way, and what the parts hand to one another about it."""

from __future__ import annotations

from dataclasses import dataclass, field

BLOCK_TOKENS = 512
"""Prefixes are cached in whole blocks of this many tokens, as in the published Mooncake trace."""


@dataclass(slots=True, eq=False)
class Request:
    """What came, and where it is. Times are seconds since the start; equality is identity.

    Attributes:
        decode: index of the decode pool.
        tokens: length of the prompt.
        blocks: identities of the prompt's full blocks; equal beginnings have equal blocks.
        compute_tokens: what the prefill pool has to compute of it.
        wire_bits: what has to cross the link; 0 when the prefill is in the decode pool's own cluster.
        prefill: index of the prefill pool in which it is or was; -1 before.
        link: index of the link that its KV crosses; -1 for none.
        session: number of the conversation that it belongs to; -1 for none.
        attempts: how often a prefill was begun for it.
    """

    decode: int
    arrived: float
    tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    session: int = -1
    compute_tokens: float = 0.0
    service_seconds: float = 0.0
    wire_bits: float = 0.0
    prefill: int = -1
    link: int = -1
    attempts: int = 0
    since: float = 0.0
    prefilled: bool = False
    landed: bool = False
    remote: bool = False
    first_token: float = field(default=-1.0)
