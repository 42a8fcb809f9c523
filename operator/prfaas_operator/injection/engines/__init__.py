"""One file per engine: what its command line needs, and what of the user's prfaas cannot combine with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prfaas.api.v1alpha1 import EngineType, Pool
from prfaas_operator.injection.engines import vllm
from prfaas_operator.injection.results import Refusal

EngineArguments = Callable[[Pool, Mapping[str, Any], str], list[str] | tuple[Refusal, ...]]


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """How an engine is told of prfaas.

    Attributes:
        arguments: (pool, the engine's container, the container's field in the pool) -> what to append to the
            container's `args`, or why that cannot be.
        names_model: whether the command line says which model to load; else prfaas adds it.
        health_path: of the engine's HTTP API, without authentication.
    """

    arguments: EngineArguments
    health_path: str
    names_model: Callable[[Pool, Mapping[str, Any]], bool]


ADAPTERS: Final[Mapping[EngineType, EngineAdapter]] = {
    EngineType.VLLM: EngineAdapter(vllm.arguments, vllm.HEALTH_PATH, vllm.names_model)
}
