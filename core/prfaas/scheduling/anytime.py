"""How long a decode engine should wait for KV, from what was predicted when the prompt was sent away.

The engine's connector decides while it waits (`prfaas_connector.anytime`); what it cannot know is how long
the queue at the other end is. It is told when the first KV can be expected. Without that it would take a
queue for silence, and compute beside a prefill that is about to start.
"""

from __future__ import annotations

from prfaas.scheduling.decision import Choice

FIRST_KV_MARGIN = 1.5
"""Queues are predicted from tokens; one and a half times covers a neighbour's prompt that is longer than
average."""


def first_kv_patience_seconds(choice: Choice, most_seconds: float) -> float | None:
    """How long silence is to be expected before the first KV; None when nothing is known.

    Never longer than the local prefill would take beyond the rest of the remote one: after that, stopping to
    wait is the better choice whatever still comes. Bounded by `most_seconds`.
    """
    first, local = choice.first_kv_seconds, choice.local_seconds
    if first is None or choice.remote_seconds is None:
        return None
    expected = first * FIRST_KV_MARGIN
    if local is not None:
        expected = min(expected, max(first, local))
    return min(expected, most_seconds)
