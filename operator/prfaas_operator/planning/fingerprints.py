"""In what two fingerprints differ, for people."""

from __future__ import annotations

from collections.abc import Mapping

FIELDS_NAMED_MAX = 6


def difference(
    one: Mapping[str, str] | None, other: Mapping[str, str] | None, *, one_has: str, other_has: str
) -> str:
    """`; they differ in dtype (a with one_has, b with other_has), …`; empty where a side does not tell its
    fields.
    """
    if not one or not other:
        return ""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if not names:
        return ""
    told = [
        f"{name} ({one.get(name, 'nothing')} {one_has}, {other.get(name, 'nothing')} {other_has})"
        for name in names[:FIELDS_NAMED_MAX]
    ]
    more = f" and {len(names) - FIELDS_NAMED_MAX} more" if len(names) > FIELDS_NAMED_MAX else ""
    return f"; they differ in {', '.join(told)}{more}"
