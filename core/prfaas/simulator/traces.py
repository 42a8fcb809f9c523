"""Traces from files: lines in, arrivals out, and the line number of whatever is wrong.

Three forms, described for users in docs/simulator.md: the project's own, the published Mooncake traces and
the published Azure LLM inference traces. Nothing is downloaded here and no file is opened.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prfaas.capacity import InvalidInputError
from prfaas.simulator.request import BLOCK_TOKENS, Request
from prfaas.simulator.settings import Trace, TraceForm

TOKENS_MAX = 2**24
OWN_COLUMNS = ("arrival_seconds", "input_tokens", "output_tokens")
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One line of a trace.

    Attributes:
        at_seconds: since the first arrival of the file.
        blocks: identities of the prompt's blocks of 512 tokens where the trace knows them.
        session: what requests of one conversation have in common; None for none.
    """

    at_seconds: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    session: str | None = None


def parsed(name: str, lines: Iterable[str], form: TraceForm) -> tuple[Arrival, ...]:
    """All arrivals of a file, by time.

    Raises:
        InvalidInputError: the first line that is no arrival: its number, what is wrong, what was expected.
    """
    if form is TraceForm.MOONCAKE:
        found = list(_json_lines(name, lines, _mooncake))
    elif form is TraceForm.AZURE_LLM:
        found = list(_csv(name, lines, AZURE_COLUMNS, _azure))
    else:
        found = list(_own(name, lines))
    if not found:
        raise InvalidInputError(name, "holds no request", "give at least one line")
    found.sort(key=lambda each: each.at_seconds)
    first = found[0].at_seconds
    return tuple(
        Arrival(each.at_seconds - first, each.input_tokens, each.output_tokens, each.blocks, each.session)
        for each in found
    )


def played(
    arrivals: tuple[Arrival, ...], trace: Trace, decode: int, duration_seconds: float, blocks: Iterator[int]
) -> Iterator[Request]:
    """The arrivals as requests of a decode pool, faster and again as the trace says.

    A conversation's prompt begins with its last prompt, as far as it is longer.
    """
    known: dict[tuple[int, object], int] = {}
    sessions: dict[str, tuple[int, ...]] = {}
    length = arrivals[-1].at_seconds / trace.speed + _mean_gap(arrivals) / trace.speed
    begun, lap = 0.0, 0
    while True:
        for each in arrivals:
            at = begun + each.at_seconds / trace.speed
            if at >= duration_seconds:
                return
            if each.blocks:
                own = tuple(_identity(known, lap, block, blocks) for block in each.blocks)
                own = own[: each.input_tokens // BLOCK_TOKENS]
            else:
                wanted = each.input_tokens // BLOCK_TOKENS
                before = sessions.get(each.session, ()) if each.session is not None else ()
                own = before[:wanted] + tuple(next(blocks) for _ in range(max(0, wanted - len(before))))
                if each.session is not None:
                    sessions[each.session] = own
            yield Request(decode, at, each.input_tokens, each.output_tokens, own)
        if not trace.repeat:
            return
        begun += length
        lap += 1
        sessions.clear()


def _identity(known: dict[tuple[int, object], int], lap: int, block: int, blocks: Iterator[int]) -> int:
    key = (lap, block)
    found = known.get(key)
    if found is None:
        found = known[key] = next(blocks)
    return found


def _mean_gap(arrivals: tuple[Arrival, ...]) -> float:
    return max(1e-3, arrivals[-1].at_seconds / max(1, len(arrivals) - 1))


def _own(name: str, lines: Iterable[str]) -> Iterator[Arrival]:
    """CSV with a header, or JSON lines: whichever the first line is."""
    remaining = iter(lines)
    first = next(remaining, "")
    together = _chained(first, remaining)
    if first.lstrip().startswith("{"):
        yield from _json_lines(name, together, _own_row)
    else:
        yield from _csv(name, together, OWN_COLUMNS, _own_row)


def _chained(first: str, remaining: Iterator[str]) -> Iterator[str]:
    yield first
    yield from remaining


def _json_lines(name: str, lines: Iterable[str], row: Any) -> Iterator[Arrival]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad(name, number, f"is not JSON ({error.msg})", "write one JSON object a line") from error
        if not isinstance(value, dict):
            raise _bad(name, number, "is not a JSON object", "write one JSON object a line")
        yield row(name, number, value)


def _csv(name: str, lines: Iterable[str], columns: tuple[str, ...], row: Any) -> Iterator[Arrival]:
    reader = csv.DictReader(lines)
    header = [column.strip() for column in reader.fieldnames or ()]
    missing = [column for column in columns if column not in header]
    if missing:
        raise _bad(name, 1, f"has no column {', '.join(missing)}", f"begin with {','.join(columns)}")
    reader.fieldnames = header
    for value in reader:
        yield row(name, reader.line_num, value)


def _own_row(name: str, number: int, value: dict[str, Any]) -> Arrival:
    session = value.get("session")
    return Arrival(
        _seconds(name, number, "arrival_seconds", value.get("arrival_seconds"), 1.0),
        _tokens(name, number, "input_tokens", value.get("input_tokens")),
        _tokens(name, number, "output_tokens", value.get("output_tokens")),
        session=None if session in (None, "") else str(session),
    )


def _mooncake(name: str, number: int, value: dict[str, Any]) -> Arrival:
    blocks = value.get("hash_ids", [])
    if not isinstance(blocks, list) or not all(isinstance(each, int) for each in blocks):
        raise _bad(
            name, number, "hash_ids is no list of whole numbers", "leave it out, or give one per block"
        )
    return Arrival(
        _seconds(name, number, "timestamp", value.get("timestamp"), 1e-3),
        _tokens(name, number, "input_length", value.get("input_length")),
        _tokens(name, number, "output_length", value.get("output_length")),
        blocks=tuple(blocks),
    )


def _azure(name: str, number: int, value: dict[str, Any]) -> Arrival:
    text = value.get("TIMESTAMP") or ""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise _bad(
            name, number, f"TIMESTAMP is {text!r}", "write a time such as 2023-11-16 18:17:03.97"
        ) from error
    seconds = at.toordinal() * 86400.0 + at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6
    return Arrival(
        seconds,
        _tokens(name, number, "ContextTokens", value.get("ContextTokens")),
        _tokens(name, number, "GeneratedTokens", value.get("GeneratedTokens")),
    )


def _seconds(name: str, number: int, field: str, value: object, unit: float) -> float:
    try:
        seconds = float(value) * unit  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < 0:
        raise _bad(name, number, f"{field} is {value!r}", "give a finite number of at least 0")
    return seconds


def _tokens(name: str, number: int, field: str, value: object) -> int:
    try:
        tokens = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        tokens = math.nan
    if isinstance(value, bool) or not (1 <= tokens <= TOKENS_MAX) or tokens != int(tokens):
        raise _bad(name, number, f"{field} is {value!r}", f"give a whole number of 1 to {TOKENS_MAX} tokens")
    return int(tokens)


def _bad(name: str, number: int, problem: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(f"{name}, line {number}", problem, remedy)
