"""The simulator beside real engines: what it predicts of a run of `prfaas demo --json`, and what it was.

Each request is predicted from the others alone: prefill times of both engines are straight lines through what
the other requests took, the decode step is their median, and the link is the one that the demo emulated.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prfaas.capacity import Curve, DecodeRate, InvalidInputError, KVSize, LengthSketch
from prfaas.planner import DecodePool, Goal, Instances, Link, Options, PrefillPool, Problem, direct_routes
from prfaas.simulator import Arrival, Demand, Policy, Settings, Sizing, Trace, simulate

_LINK = re.compile(r"([\d.]+) Mbit/s, ([\d.]+) ms RTT")
_THRESHOLD = re.compile(r"more than (\d+) uncached tokens")
_ANSWER = re.compile(r"(\d+) tokens each")
UNLIMITED_BITS_PER_SECOND = 1e12
SECONDS_PER_REQUEST = 600.0
LONGEST_TOKENS = 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """One request: predicted and measured time to first token in seconds.

    Attributes:
        given_prefill_seconds: predicted with the prefill time that this request itself had: what is left is
            the error of transfer, round trip and first step. None for local requests.
    """

    name: str
    route: str
    uncached_tokens: int
    predicted_seconds: float
    measured_seconds: float
    given_prefill_seconds: float | None = None

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted_seconds / self.measured_seconds - 1


@dataclass(frozen=True, slots=True)
class _Measured:
    name: str
    route: str
    uncached_tokens: int
    first_token_seconds: float
    step_seconds: float
    prefill_seconds: float | None
    kv_bytes: float | None


def compared(document: Mapping[str, Any]) -> list[Row]:
    """Every request of the demo that went as it should, those with a cut link left out.

    Raises:
        InvalidInputError: not the JSON of the demo, or too few requests to predict one from the others.
    """
    try:
        facts = {str(key): str(value) for key, value in document["facts"].items()}
        tokens = int(_found(_ANSWER, facts, "Model")[0])
        mine = [_measured(each, tokens) for each in document["requests"] if _went_well(each)]
        alone = [_measured(each, tokens) for each in document["all_local"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            "demo", f"is not what `prfaas demo --json` prints ({error!r})", "make it with that command"
        ) from error
    threshold = int(_found(_THRESHOLD, facts, "Policy")[0])
    wide, rtt = UNLIMITED_BITS_PER_SECOND, 0.0
    link = _LINK.search(facts.get("Regions", ""))
    if link is not None:
        wide, rtt = float(link[1]) * 1e6, float(link[2]) / 1e3
    rows = []
    for each in mine:
        others = [other for other in (*mine, *alone) if other.name != each.name]
        row = _predicted(each, others, threshold, wide, rtt)
        if each.prefill_seconds:
            given = _predicted(each, others, threshold, wide, rtt, own_prefill=True)
            row = replace(row, given_prefill_seconds=given.predicted_seconds)
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """For the terminal, the mean error last."""
    head = [
        "request",
        "route",
        "uncached",
        "predicted s",
        "measured s",
        "error",
        "given its prefill",
        "error",
    ]
    lines = [
        [
            row.name,
            row.route,
            str(row.uncached_tokens),
            f"{row.predicted_seconds:.3f}",
            f"{row.measured_seconds:.3f}",
            f"{100 * row.error:+.0f} %",
            *_given(row),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    ]
    errors = [abs(row.error) for row in rows]
    given = [
        abs(row.given_prefill_seconds / row.measured_seconds - 1)
        for row in rows
        if row.given_prefill_seconds is not None
    ]
    return "\n".join(
        [
            *text,
            "",
            f"each predicted from the other requests: mean error {_percent(statistics.fmean(errors))}, "
            f"median {_percent(statistics.median(errors))}",
            *(
                []
                if not given
                else [f"given its own prefill time: mean error {_percent(statistics.fmean(given))}"]
            ),
        ]
    )


def _given(row: Row) -> tuple[str, str]:
    if row.given_prefill_seconds is None:
        return "-", "-"
    error = row.given_prefill_seconds / row.measured_seconds - 1
    return f"{row.given_prefill_seconds:.3f}", f"{100 * error:+.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _went_well(request: Mapping[str, Any]) -> bool:
    return bool(request["route"] == "local" or request["transfer_code"] == "complete")


def _measured(request: Mapping[str, Any], tokens: int) -> _Measured:
    first, total = float(request["first_token_seconds"]), float(request["total_seconds"])
    return _Measured(
        str(request["name"]),
        str(request["route"]),
        int(request["uncached_tokens"]),
        first,
        max(1e-6, (total - first) / max(1, tokens - 1)),
        request["prefill_seconds"],
        request["kv_bytes"],
    )


def _found(pattern: re.Pattern[str], facts: Mapping[str, str], name: str) -> tuple[str, ...]:
    found = pattern.search(facts[name])
    if found is None:
        raise InvalidInputError(f"demo.facts.{name}", f"is {facts[name]!r}", "use a demo of this version")
    return found.groups()


def _predicted(
    each: _Measured,
    others: Sequence[_Measured],
    threshold: int,
    bits_per_second: float,
    rtt: float,
    *,
    own_prefill: bool = False,
) -> Row:
    step = statistics.median(other.step_seconds for other in others)
    near = _line(
        each.name,
        "locally",
        [
            (other.uncached_tokens, max(1e-3, other.first_token_seconds - step))
            for other in others
            if other.route == "local"
        ],
    )
    remote = [other for other in others if other.prefill_seconds]
    per_token = statistics.median((other.kv_bytes or 0.0) / other.uncached_tokens for other in remote)
    if own_prefill:
        remote = [
            replace(other, uncached_tokens=each.uncached_tokens, prefill_seconds=each.prefill_seconds)
            for other in remote
        ]
    far = _line(
        each.name, "remotely", [(other.uncached_tokens, other.prefill_seconds or 0.0) for other in remote]
    )
    one = Instances(maximum=1, current=1)
    prefill = (PrefillPool("east", "east", "m", far, one), PrefillPool("west", "west", "m", near, one))
    decode = DecodePool(
        "chat",
        "west",
        "m",
        kv=KVSize.per_token(max(per_token, 1.0), to_tokens=LONGEST_TOKENS),
        decode=DecodeRate(step, 1, 1),
        lengths=LengthSketch.of([float(each.uncached_tokens)]),
        arrivals_per_second=1 / SECONDS_PER_REQUEST,
        instances=one,
    )
    links = (Link("wan", "east", "west", bits_per_second, rtt_seconds=rtt),)
    problem = Problem(prefill, (decode,), direct_routes(prefill, [decode], links), links)
    settings = Settings(
        duration_seconds=SECONDS_PER_REQUEST,
        demand={"chat": Demand(pattern=Trace(kind="Trace", file="demo"))},
        policy=Policy(sizing=Sizing.STATIC, threshold_tokens=threshold, control_seconds=SECONDS_PER_REQUEST),
    )
    arrival = Arrival(0.0, each.uncached_tokens, 1)
    found = simulate(
        problem, Options(goal=Goal.MOST_SERVED, buckets=1), settings, traces={"demo": (arrival,)}
    )
    seconds = found.total.ttft_seconds.mean
    if seconds is None:
        raise InvalidInputError(f"demo.requests.{each.name}", "was not answered within 600 s", "look into it")
    return Row(each.name, each.route, each.uncached_tokens, seconds, each.first_token_seconds)


def _line(name: str, side: str, points: Sequence[tuple[float, float]]) -> Curve:
    """A straight line through the points; through the origin where the best one would be below zero."""
    if not points:
        raise InvalidInputError(
            f"demo.requests.{name}", f"no other request was prefilled {side}", "run the whole demo"
        )
    try:
        return Curve.fitted(points, degree=1, to_tokens=LONGEST_TOKENS)
    except InvalidInputError:
        per_token = statistics.median(seconds / tokens for tokens, seconds in points)
        return Curve.polynomial(0.0, per_token, to_tokens=LONGEST_TOKENS)
