"""Prefill engines that are only thought of: what Observe decides with, and changes nothing.

Each has a queue of its own that fills with what would have been sent there, and so has its link. So a
decision sees the queues that its predecessors would have made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from prfaas.scheduling import Choice, Link, Producer, WireSize


@dataclass(slots=True, eq=False)
class ShadowFleet:
    """The engines of one route, and until when each would be busy, by the caller's clock.

    Attributes:
        originals: whose pace and links the shadows follow.
    """

    originals: list[Producer]
    producers: list[Producer] = field(init=False)
    _free_at: dict[int, float] = field(default_factory=dict)
    _link_free_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producers = [
            replace(producer, queued_tokens=0, queue_seconds=0.0, link=None) for producer in self.originals
        ]

    def at(self, now: float) -> list[Producer]:
        """The engines, with their queues as they would be now."""
        links: dict[int, Link] = {}
        for number, (original, shadow) in enumerate(zip(self.originals, self.producers, strict=True)):
            shadow.prefill = original.prefill
            shadow.queue_seconds = max(0.0, self._free_at.get(number, now) - now)
            link = original.link
            if link is None:
                shadow.link = None
                continue
            if id(link) not in links:
                waits = max(0.0, self._link_free_at.get(id(link), now) - now)
                links[id(link)] = replace(link, backlog_seconds=link.backlog_seconds + waits)
            shadow.link = links[id(link)]
        return self.producers

    def take(self, choice: Choice, tokens: int, held: int, wire: WireSize | None, now: float) -> None:
        """Let the chosen engine be busy as if the prompt had been sent there."""
        shadow = choice.producer
        if shadow is None or shadow.prefill is None:
            return
        number = next(each for each, other in enumerate(self.producers) if other is shadow)
        begin = now + shadow.queue_seconds
        self._free_at[number] = begin + shadow.prefill.at(tokens)
        original, link = self.originals[number].link, shadow.link
        if original is not None and link is not None and wire is not None:
            sent_from = max(begin, now + link.backlog_seconds)
            self._link_free_at[id(original)] = sent_from + link.seconds_for(wire.bytes_of(tokens, held))
