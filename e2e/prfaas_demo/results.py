"""What is known of a request in the end, and whether it went as it should. Pure: values in, values out."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from prfaas_demo.client import Answer
from prfaas_demo.observer import Transfer
from prfaas_demo.prompts import Prompt

MIB = 1 << 20


@dataclass(frozen=True)
class Request:
    """One row of the table. Fields that only a transfer has are None without one.

    Attributes:
        tokens: length of the prompt.
        uncached_tokens: of these, not in the decode engine's cache before.
        landed_tokens: of these, taken from the transfer.
        kv_bytes: that reached the consumer's memory.
        wire_bits_per_second: from its first to its last byte, waiting for the prefill included.
        prefill_seconds: from the prefill engine's start to its last layer's KV.
        tail_seconds: from there to the last byte at the consumer.
        first_token_seconds: until the client had the first token.
        same_tokens: whether the token ids equal the reference's.
    """

    name: str
    tokens: int
    uncached_tokens: int
    landed_tokens: int | None
    route: str
    reason: str
    transfer_code: str | None
    kv_bytes: int | None
    wire_bits_per_second: float | None
    prefill_seconds: float | None
    tail_seconds: float | None
    first_token_seconds: float
    total_seconds: float
    same_tokens: bool
    text: str


def request(
    prompt: Prompt,
    answer: Answer,
    reference: Answer,
    consumer: Transfer | None,
    producer: Transfer | None,
) -> Request:
    """Put together what client and sidecars saw."""
    return Request(
        name=prompt.name,
        tokens=answer.prompt_tokens,
        uncached_tokens=answer.prompt_tokens - answer.cached_tokens,
        landed_tokens=consumer.taken_tokens if consumer else None,
        route=answer.headers.get("x-prfaas-route", "?"),
        reason=answer.headers.get("x-prfaas-reason", "?"),
        transfer_code=consumer.code if consumer else None,
        kv_bytes=consumer.bytes_kv if consumer else None,
        wire_bits_per_second=_wire_rate(consumer) if consumer else None,
        prefill_seconds=_between(producer.opened_at, producer.producer_done_at) if producer else None,
        tail_seconds=_between(producer.producer_done_at, consumer.last_byte_at)
        if producer and consumer and consumer.code == "complete"
        else None,
        first_token_seconds=answer.first_token_seconds,
        total_seconds=answer.total_seconds,
        same_tokens=answer.token_ids == reference.token_ids,
        text=answer.text,
    )


def _wire_rate(transfer: Transfer) -> float | None:
    seconds = _between(transfer.first_byte_at, transfer.last_byte_at)
    return transfer.bytes_wire * 8 / seconds if seconds else None


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def problems(prompt: Prompt, got: Request, *, transfers_pay: bool = True) -> list[str]:
    """What went otherwise than it should; empty when nothing did.

    Args:
        transfers_pay: whether the link is one over which waiting for KV is known to pay. Where it is not, an
            engine may well compute all of a prompt itself, and before the link is cut.
    """
    found = []
    if not got.same_tokens:
        found.append("the tokens differ from the reference")
    if got.route != prompt.expects:
        found.append(f"should have been {prompt.expects}, and was {got.route} ({got.reason})")
    elif prompt.expects == "remote":
        landed = got.landed_tokens or 0
        if not prompt.cut and got.transfer_code not in _GOOD_ENDS:
            found.append(f"the transfer ended with {got.transfer_code}")
        elif transfers_pay and not landed:
            found.append("nothing was taken from the transfer")
        elif prompt.cut and landed >= got.uncached_tokens:
            found.append("everything was taken from the transfer, although the link should have been cut")
    return found


_GOOD_ENDS = ("complete", "Cancelled")
"""The second is the engine's own choice: computing the rest was quicker than waiting for it."""


def local_problems(got: Request) -> list[str]:
    """The same for a request of the all-local course."""
    found = [] if got.same_tokens else ["all local, the tokens differ from the reference"]
    if got.route != "local":
        found.append(f"all local, it was {got.route} ({got.reason})")
    return found


@dataclass(frozen=True)
class Comparison:
    """The same prompt with remote prefill and all local."""

    name: str
    first_token_seconds: float
    local_first_token_seconds: float
    total_seconds: float
    local_total_seconds: float

    @property
    def first_token_ratio(self) -> float:
        """Above 1: the first token came sooner with remote prefill."""
        return self.local_first_token_seconds / self.first_token_seconds

    @property
    def total_ratio(self) -> float:
        return self.local_total_seconds / self.total_seconds


def compare(prfaas: list[Request], local: list[Request]) -> list[Comparison]:
    """Row by row."""
    return [
        Comparison(
            ours.name,
            ours.first_token_seconds,
            theirs.first_token_seconds,
            ours.total_seconds,
            theirs.total_seconds,
        )
        for ours, theirs in zip(prfaas, local, strict=True)
    ]


@dataclass(frozen=True)
class Outcome:
    """All that the demo found out.

    Attributes:
        facts: how the demo was run, each a name and a sentence.
        cut: when the link was cut, in words.
        problems: by request name; empty when all went as it should.
    """

    facts: dict[str, str]
    prfaas: list[Request]
    local: list[Request]
    problems: dict[str, list[str]]
    cut: str = ""

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def comparisons(self) -> list[Comparison]:
        return compare(self.prfaas, self.local)

    def median_first_token_ratio(self) -> float | None:
        """Over the requests whose transfer was complete; None when there is none."""
        complete = {each.name for each in self.prfaas if each.transfer_code == "complete"}
        ratios = [each.first_token_ratio for each in self.comparisons if each.name in complete]
        return statistics.median(ratios) if ratios else None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        ratio = self.median_first_token_ratio()
        return {
            "passed": self.passed,
            "facts": self.facts,
            "cut": self.cut,
            "requests": [asdict(each) for each in self.prfaas],
            "all_local": [asdict(each) for each in self.local],
            "comparison": [
                {
                    **asdict(each),
                    "first_token_ratio": round(each.first_token_ratio, 3),
                    "total_ratio": round(each.total_ratio, 3),
                }
                for each in self.comparisons
            ],
            "median_first_token_ratio": None if ratio is None else round(ratio, 3),
            "problems": self.problems,
        }
