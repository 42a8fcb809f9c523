"""Amounts of resources in a pod, read exactly as Kubernetes reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prfaas.api.v1alpha1 import quantity_value

_EXPONENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([+-]?[0-9]{1,2})")
_TINY = {"n": Decimal("1e-9"), "u": Decimal("1e-6")}
_STEPS = (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


def amount(quantity: str | int | float) -> Decimal:
    """The number that a pod's quantity stands for. Exponents (`1e9`) count, which a pool's own fields lack.

    Raises:
        ValueError: it is no quantity.
    """
    text = str(quantity).strip()
    if match := _EXPONENT.fullmatch(text):
        return Decimal(match[1]).scaleb(int(match[2]))
    if text[-1:] in _TINY:
        return quantity_value(text[:-1]) * _TINY[text[-1]]
    return quantity_value(text)


def text_of_bytes(size: int) -> str:
    """Bytes in the largest binary unit that holds them exactly: 4563402752 is `4352Mi`."""
    for unit, factor in _STEPS:
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def limits_of(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """`resources.limits`, empty where there are none."""
    return _resources(container).get("limits") or {}


def requests_of(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """`resources.requests` as they count: a limit without a request is one too."""
    return {**limits_of(container), **(_resources(container).get("requests") or {})}


def is_guaranteed(containers: list[Mapping[str, Any]]) -> bool:
    """Whether a pod of these containers (init containers among them) has the QoS class Guaranteed.

    Raises:
        ValueError: an amount is no quantity.
    """
    for container in containers:
        limits, requests = limits_of(container), requests_of(container)
        for resource in ("cpu", "memory"):
            if resource not in limits or amount(limits[resource]) == 0:
                return False
            if amount(limits[resource]) != amount(requests[resource]):
                return False
    return bool(containers)


def _resources(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return container.get("resources") or {}
