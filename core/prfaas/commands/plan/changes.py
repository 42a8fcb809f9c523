"""`--set`: one number of a scenario before it is checked."""

from __future__ import annotations

import re
from typing import Any

from prfaas.capacity import InvalidInputError

HOW = (
    "write link.NAME=Gbit/s, demand.NAME=requests/s, output.NAME=tokens, pool.NAME.replicas=N, "
    "pool.NAME.minimum=N or pool.NAME.maximum=N"
)
_TABLES = {
    "link": ("links", "gbitsPerSecond"),
    "demand": ("decodePools", "arrivalsPerSecond"),
    "output": ("decodePools", "outputTokens"),
}
_POOL_FIELDS = ("replicas", "minimum", "maximum")
_RATE = re.compile(r"([0-9.eE+-]+?)\s*(?:(T|G|M|k)bit(?:/s|ps)?)?")
_GIGABITS = {"T": 1e3, "G": 1.0, "M": 1e-3, "k": 1e-6, None: 1.0}


def apply(document: dict[str, Any], change: str) -> None:
    """Make one change, such as `link.us-eu=5`, `link.us-eu=500Mbit` or `pool.long.replicas=3`.

    Raises:
        InvalidInputError: it is not understood, or names nothing in the document.
    """
    what, _, number = change.partition("=")
    kind, _, name = what.partition(".")
    if kind == "pool":
        _resize(document, change, name, number)
        return
    if kind not in _TABLES or not name:
        raise InvalidInputError("--set", f"{change!r} is not understood", HOW)
    table, field = _TABLES[kind]
    value = gigabits(change, number) if kind == "link" else _number(change, number)
    _entry(document, (table,), name)[field] = value


def link_of(change: str) -> tuple[str, float] | None:
    """Name and Gbit/s, of a change that is about a link."""
    what, _, number = change.partition("=")
    return (what.removeprefix("link."), gigabits(change, number)) if what.startswith("link.") else None


def gigabits(change: str, text: str) -> float:
    """5, 5Gbit, 500Mbit, 5Gbit/s."""
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise InvalidInputError("--set", f"{text!r} in {change!r} is no number", "write 5, 5Gbit or 500Mbit")
    return _number(change, found[1]) * _GIGABITS[found[2]]


def _resize(document: dict[str, Any], change: str, name: str, number: str) -> None:
    name, _, field = name.rpartition(".")
    if field not in _POOL_FIELDS or not name:
        raise InvalidInputError("--set", f"{change!r} is not understood", HOW)
    value = _number(change, number)
    if value < 0 or int(value) != value:
        raise InvalidInputError(
            "--set", f"{number!r} in {change!r} is no number of instances", "write 0, 1, …"
        )
    pool = _entry(document, ("prefillPools", "decodePools"), name)
    owner = pool.get("instancesOf")
    if owner is not None:
        raise InvalidInputError("--set", f"{name} uses the instances of {owner}", f"change {owner}")
    instances = pool.setdefault("instances", {})
    if not isinstance(instances, dict):
        raise InvalidInputError("--set", f"instances of {name} has no fields", "see docs/planner.md")
    # More than can be had at present is what is asked about.
    instances.pop("available", None)
    for each in ("minimum", "maximum") if field == "replicas" else (field,):
        instances[each] = int(value)


def _number(change: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError("--set", f"{text!r} in {change!r} is no number", "write a number") from None


def _entry(document: dict[str, Any], tables: tuple[str, ...], name: str) -> dict[str, Any]:
    for table in tables:
        entries = document.get(table)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("name") == name:
                return entry
    has = ", ".join(
        str(entry["name"])
        for table in tables
        for entry in document.get(table) or ()
        if isinstance(entry, dict) and "name" in entry
    )
    raise InvalidInputError(
        "--set", f"{' or '.join(tables)} has no {name}", f"name one that is there: {has or 'none'}"
    )
