"""Pools for the tests of the injection."""

from __future__ import annotations

import copy
from typing import Any

from prfaas.api.v1alpha1 import POOL_CLASSES, Pool
from prfaas_operator.injection import Injected, Refusals, Settings, inject

SETTINGS = Settings(
    region="eu",
    trust_domain="example.org",
    sidecar_image="registry.example.org/prfaas/sidecar@sha256:" + "a" * 64,
    connector_image="registry.example.org/prfaas/connector@sha256:" + "b" * 64,
    version="1.2.3",
)


def container(**fields: Any) -> dict[str, Any]:
    """The engine's container, as small as it can be."""
    return {"name": "engine", "image": "vllm/vllm-openai:v0.32.0", "args": ["org/model"], **fields}


def template(engine: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod template of one engine; `spec` adds fields of the pod."""
    return {"spec": {"containers": [engine if engine is not None else container()], **spec}}


def pool(kind: str = "PrefillPool", pod_template: dict[str, Any] | None = None, **spec: Any) -> Pool:
    """A pool of that template; `spec` overrides."""
    return POOL_CLASSES[kind].model_validate(  # type: ignore[index]  # the tests' own constants
        {
            "apiVersion": "prfaas.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": "long", "namespace": "serving", "uid": "6d1f0c9e"},
            "spec": {
                "model": {"name": "chat"},
                "engine": {"type": "VLLM"},
                "workload": {
                    "template": copy.deepcopy(pod_template if pod_template is not None else template())
                },
                **spec,
            },
        }
    )


def injected(made: Pool, settings: Settings = SETTINGS) -> dict[str, Any]:
    """The template, for pools that are not refused."""
    result = inject(made, settings)
    assert isinstance(result, Injected), result.message
    return result.template


def engine_after(made: Pool, settings: Settings = SETTINGS) -> dict[str, Any]:
    """The engine's container after the injection."""
    pod = injected(made, settings)["spec"]
    return next(one for one in pod["containers"] if one["name"] == made.spec.engine.container)


def sidecar_after(made: Pool, settings: Settings = SETTINGS) -> dict[str, Any]:
    """The sidecar's container."""
    return next(
        one for one in injected(made, settings)["spec"]["initContainers"] if one["name"] == "prfaas-sidecar"
    )


def refused(made: Pool, settings: Settings = SETTINGS) -> list[tuple[str, str, str]]:
    """Field, reason and message of every refusal."""
    result = inject(made, settings)
    assert isinstance(result, Refusals), "was not refused"
    return [(one.field, str(one.reason), one.message) for one in result.refusals]
