"""Values that several of the demo's tests need."""

from __future__ import annotations

from prfaas_demo.client import Answer
from prfaas_demo.observer import Transfer
from prfaas_demo.prompts import Prompt
from prfaas_demo.regions import Ports, Region
from prfaas_demo.results import Request

REMOTE = {"x-prfaas-route": "remote", "x-prfaas-reason": "OverThreshold"}
LOCAL = {"x-prfaas-route": "local", "x-prfaas-reason": "UnderThreshold"}


def prompt(*, expects: str = "remote", cut: bool = False) -> Prompt:
    return Prompt("long", "text", expects, "a note", cut)


def answer(
    token_ids: tuple[int, ...] = (1, 2, 3),
    *,
    prompt_tokens: int = 1000,
    cached_tokens: int = 0,
    headers: dict[str, str] = REMOTE,
    first_token_seconds: float = 2.0,
    total_seconds: float = 4.0,
) -> Answer:
    return Answer(
        "text", token_ids, prompt_tokens, cached_tokens, first_token_seconds, total_seconds, headers
    )


def transfer(code: str | None = "complete", taken_tokens: int | None = 1000) -> Transfer:
    return Transfer(
        state="ended",
        code=code,
        bytes_wire=50_000_000,
        bytes_kv=48 << 20,
        taken_tokens=taken_tokens,
        opened_at=100.0,
        first_byte_at=101.0,
        last_byte_at=103.0,
        producer_done_at=102.75,
        ended_at=103.0,
    )


def row(name: str = "long", *, same_tokens: bool = True, local: bool = False) -> Request:
    """As wide as rows get."""
    return Request(
        name=name,
        tokens=8192,
        uncached_tokens=8192,
        landed_tokens=None if local else 8192,
        route="local" if local else "remote",
        reason="UnderThreshold" if local else "TokenizerMismatch",
        transfer_code=None if local else "complete",
        kv_bytes=None if local else 360 << 20,
        wire_bits_per_second=None if local else 987e6,
        prefill_seconds=None if local else 123.456,
        tail_seconds=None if local else 12.345,
        first_token_seconds=123.45,
        total_seconds=234.56,
        same_tokens=same_tokens,
        text="The ship came in.",
    )


def region(name: str) -> Region:
    """Of a loopback, with a set of ports for each name."""
    first = {"east": 20_000, "west": 21_000}[name]
    ports = Ports(*range(first, first + len(Ports.__dataclass_fields__)))
    return Region(name, "127.0.0.1", "127.0.0.1", "127.0.0.1", ports)
