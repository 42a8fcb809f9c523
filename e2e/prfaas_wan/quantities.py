"""Rates, times, fractions and sizes as people write them (`1Gbit`, `50ms`, `0.1%`, `256KiB`), and back."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z%/]*)\s*")

_RATES = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SIZES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def _split(text: str, kind: str, example: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a {kind}; write it like {example}")
    return float(match[1]), match[2].lower()


def parse_rate(text: str) -> float | None:
    """Bits per second; None for `unlimited`. Accepts `1Gbit`, `1Gbit/s`, `1Gbps`, case ignored."""
    if text.strip().lower() == "unlimited":
        return None
    number, unit = _split(text, "rate", "1Gbit, 200Mbit or unlimited")
    if unit.endswith("bps"):
        unit = f"{unit.removesuffix('bps')}bit"
    scale = _RATES.get(unit.removesuffix("/s"))
    if scale is None or number == 0:
        raise ValueError(f"{text!r} is not a rate; write it like 1Gbit, 200Mbit or unlimited")
    return number * scale


def parse_time(text: str) -> float:
    """Seconds. A unit is required, except for `0`."""
    number, unit = _split(text, "time", "50ms, 1.5s or 200us")
    if number == 0 and not unit:
        return 0.0
    if unit not in _TIMES:
        raise ValueError(f"{text!r} is not a time; write it like 50ms, 1.5s or 200us")
    return number * _TIMES[unit]


def parse_fraction(text: str) -> float:
    """A fraction from 0 to 1, written `0.1%` or `0.001`."""
    number, unit = _split(text, "fraction", "0.1% or 0.001")
    fraction = number / 100 if unit == "%" else number
    if unit not in ("", "%") or fraction > 1:
        raise ValueError(f"{text!r} is not a fraction; write it like 0.1% or 0.001")
    return fraction


def parse_queue(text: str) -> tuple[float | None, int | None]:
    """A queue's length, as (seconds, None) or (None, bytes): `50ms` or `256KiB`."""
    number, unit = _split(text, "queue length", "50ms or 256KiB")
    if unit in _TIMES and number > 0:
        return number * _TIMES[unit], None
    if unit in _SIZES and number > 0:
        return None, max(1, round(number * _SIZES[unit]))
    raise ValueError(f"{text!r} is not a queue length; write it like 50ms or 256KiB")


def format_rate(bits_per_second: float | None) -> str:
    if bits_per_second is None:
        return "unlimited"
    for unit, scale in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits_per_second >= scale:
            return f"{bits_per_second / scale:.4g} {unit}"
    return f"{bits_per_second:.4g} bit/s"


def format_time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.4g} s"
    return f"{seconds * 1e3:.4g} ms"


def format_size(size_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.4g} {unit}"
    return f"{math.ceil(size_bytes)} B"
