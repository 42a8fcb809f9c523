"""What a CRD says beyond JSON schema, written beside the fields: CEL rules and how lists merge."""

from __future__ import annotations

from typing import Any, TypedDict

from pydantic.config import JsonDict

VALIDATIONS = "x-kubernetes-validations"


class Rule(TypedDict):
    """One CEL rule with the message that a rejected write gets."""

    rule: str
    message: str


def rules(*of: Rule) -> JsonDict:
    """Extra schema with these CEL rules."""
    return {VALIDATIONS: [dict[str, Any](each) for each in of]}


def immutable(what: str, instead: str) -> JsonDict:
    """Extra schema of a field that keeps the value it was created with."""
    return rules(Rule(rule="self == oldSelf", message=f"{what} is immutable: {instead}"))


def merged_by(*keys: str) -> JsonDict:
    """Extra schema of a list whose elements are known by these keys, so that several writers can share it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
