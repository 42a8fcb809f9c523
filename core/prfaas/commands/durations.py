"""Lengths of time as people write and read them: `2h`, `90m`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def parse_duration(text: str) -> timedelta:
    """`1h30m` as a length of time.

    Raises:
        ValueError: not such a text, or nothing in it.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise ValueError(f"{text!r} is not a duration such as 2h, 90m or 1h30m")
    amounts = zip(found.groups(), _UNITS_SECONDS.values(), strict=True)
    return timedelta(seconds=sum(int(amount) * unit for amount, unit in amounts if amount))


def short_duration(length: timedelta) -> str:
    """At most two units, rounded down: `45s`, `12m`, `3h05m`, `2d4h`. Nothing below zero."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3_600:
        return f"{seconds // 60}m"
    if seconds < 86_400:
        return f"{seconds // 3_600}h{seconds % 3_600 // 60:02}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3_600}h"
