"""docs/api.md: every field, every condition and every reason, from the models and the enums."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from prfaas.api.condition_texts import REASON_TEXTS
from prfaas.api.conditions import TYPE_TEXTS
from prfaas.api.crds.definitions import KINDS, Kind, root_schema
from prfaas.api.keys import CATEGORY, GROUP, VERSION
from prfaas.api.v1alpha1.schema import VALIDATIONS

WIDTH = 110

_INTRODUCTION = f"""\
<!-- Generated from the models of prfaas.api by `make crds`; do not edit. -->

# The API: `{GROUP}/{VERSION}`

Four namespaced kinds and two cluster-scoped ones, all in the category `{CATEGORY}`: `kubectl get {CATEGORY}`
lists them together.
Changes are additive: fields and reasons are added, never renamed or removed. Defaults and rules are the API
server's own, by schema and CEL, so a wrong object is refused when it is applied. What needs to look at other
objects becomes a condition.

Amounts marked *quantity* are written as everywhere in Kubernetes (`4Gi`, `500m`). Times are RFC 3339 in UTC.
"""

_CONDITIONS = """\
## Conditions

Each has `type`, `status` (True, False or Unknown), `reason`, `message`, `observedGeneration` and
`lastTransitionTime`, which moves with the status only. `Ready`, `Reconciling` and `Stalled` mean what
[kstatus](https://pkg.go.dev/sigs.k8s.io/cli-utils/pkg/kstatus) says, so Flux and `kubectl wait` need no
plug-in: *Stalled* is a failure that somebody has to mend, *Reconciling* is progress, *Ready* is the sum. When
`Ready` is False or `Stalled` is True because of one of the other conditions, it carries that one's reason and
message. Reasons are for programs and stay; messages are for people and may change.
"""


def api_reference() -> str:
    """The whole page."""
    parts = [
        _filled(_INTRODUCTION),
        *(_kind(kind) for kind in KINDS),
        _filled(_CONDITIONS),
        *_condition_parts(),
    ]
    return "\n".join(parts)


def _kind(kind: Kind) -> str:
    schema = root_schema(kind)
    lines = [f"## {kind.name}", "", *_wrapped(schema["description"]), ""]
    short = f"`kubectl get {kind.short_name}`"
    scale = "; it has `/scale`, counted in engine instances" if kind.scale else ""
    lines += [*_wrapped(f"Short name: {short}{scale}."), ""]
    lines += [f"- {rule}" for rule in _rules(schema)]
    lines += [""] if _rules(schema) else []
    for part in ("spec", "status"):
        twin = _twin(kind, part)
        if twin is not None:
            lines += [f"### {kind.name} {part}", "", f"The same fields as those of {twin.name}, above.", ""]
        elif part in schema["properties"]:
            lines += [f"### {kind.name} {part}", "", "| field | type | what it says |", "|---|---|---|"]
            lines += list(_rows(schema["properties"][part], part))
            lines += [""]
    return "\n".join(lines)


def _twin(kind: Kind, part: str) -> Kind | None:
    """An earlier kind with the very same fields."""
    own = root_schema(kind)["properties"].get(part)
    earlier = KINDS[: KINDS.index(kind)]
    return next(
        (other for other in earlier if own and root_schema(other)["properties"].get(part) == own), None
    )


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    required = set(schema.get("required", ()))
    if "properties" in schema:
        for rule in _rules(schema):
            yield f"| `{path}` | | *Rule:* {rule}. |"
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield f"| `{below}` | {_type(field)} | {_text(field, needed=name in required)} |"
        items = field.get("items")
        if name != "conditions" and isinstance(items, dict) and not _is_open(items):
            yield from _rows(items, f"{below}[]")
        if not _is_open(field):
            yield from _rows(field, below)


def _is_open(schema: dict[str, Any]) -> bool:
    return bool(schema.get("x-kubernetes-preserve-unknown-fields"))


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        keys = field.get("x-kubernetes-list-map-keys")
        return f"list of {_type(field['items'])}" + (
            f", by {' and '.join(f'`{key}`' for key in keys)}" if keys else ""
        )
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    if field.get("format") == "date-time":
        return "time"
    return {"object": "object"}.get(field["type"], str(field["type"]))


def _text(field: dict[str, Any], *, needed: bool) -> str:
    parts = [field.get("description", "")]
    if needed:
        parts.append("**Required.**")
    if "default" in field and not isinstance(field["default"], dict):
        default = field["default"]
        parts.append(f"Default: `{default if isinstance(default, str) else json.dumps(default)}`.")
    bounds = _bounds(field)
    if bounds:
        parts.append(bounds)
    if "properties" not in field:
        parts += [f"*Rule:* {rule}." for rule in _rules(field)]
    return " ".join(part.replace("|", "\\|") for part in parts if part)


def _bounds(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if high is not None:
        return f"{'More than ' if field.get('exclusiveMinimum') else ''}{low or 0:,} to {high:,}."
    low, high = field.get("minItems"), field.get("maxItems")
    if high is not None:
        return f"{low or 0} to {high} elements."
    return f"At most {field['maxProperties']} entries." if "maxProperties" in field else ""


def _rules(schema: dict[str, Any]) -> list[str]:
    return [str(rule["message"]) for rule in schema.get(VALIDATIONS, [])]


def _condition_parts() -> Iterator[str]:
    for type_, text in TYPE_TEXTS.items():
        rows = [
            f"| `{reason}` | {status} | {meaning} |"
            for reason, (status, meaning) in REASON_TEXTS[type_].items()
        ]
        yield "\n".join(
            [
                f"### {type_}",
                "",
                *_wrapped(text),
                "",
                "| reason | status | meaning |",
                "|---|---|---|",
                *rows,
                "",
            ]
        )


def _filled(text: str) -> str:
    """Paragraphs that fill their lines; headings and comments stay as they are."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join("\n".join(_wrapped(" ".join(part.split("\n")))) for part in paragraphs) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
