"""The connector's part of ``--kv-transfer-config``: ``kv_connector_extra_config``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prfaas_connector.anytime import MAX_PATIENCE_SECONDS

DEFAULT_SOCKET = "/run/prfaas/engine.sock"


class SettingsError(ValueError):
    """A setting is not one that the connector knows, or has a value that it cannot use. The text names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Attributes:
        socket: path of the sidecar's Unix socket. Default: the variable PRFAAS_ENGINE_SOCKET, else
        /run/prfaas/engine.sock.
        model_identity: text that is equal on engines with the same weights. Default: a digest of the model's
        files, or its name and
            revision where they are not in a local folder.
        local_prefill_tokens_per_second: this engine's prefill rate for one prompt; measured while it is not
        given.
        max_patience_seconds: longest that a request waits without a sign of life from its transfer, whatever
        computing it
            here would take.
        device: "auto", or "lazy" to put copies off as long as allowed, which shows ordering bugs in tests.
        layerwise: set by producers on GPUs, so that vLLM uses piecewise CUDA graphs (full graphs skip the
        layer hook).
    """

    socket: str
    model_identity: str | None
    local_prefill_tokens_per_second: float | None
    max_patience_seconds: float
    device: str
    layerwise: bool

    @classmethod
    def from_extra_config(cls, extra: Mapping[str, Any]) -> Settings:
        """
        Raises:
            SettingsError: an unknown name or an unusable value.
        """
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(extra) - known):
            raise SettingsError(
                f"kv_connector_extra_config: {unknown[0]!r} is unknown; known: {', '.join(sorted(known))}"
            )
        socket = extra.get("socket") or os.environ.get("PRFAAS_ENGINE_SOCKET") or DEFAULT_SOCKET
        identity = extra.get("model_identity")
        rate = extra.get("local_prefill_tokens_per_second")
        patience = extra.get("max_patience_seconds", MAX_PATIENCE_SECONDS)
        device = extra.get("device", "auto")
        layerwise = extra.get("layerwise", False)
        if not isinstance(socket, str):
            raise SettingsError("kv_connector_extra_config.socket: a path")
        if identity is not None and not isinstance(identity, str):
            raise SettingsError("kv_connector_extra_config.model_identity: a text")
        if rate is not None and (type(rate) not in (int, float) or not rate > 0):
            raise SettingsError("kv_connector_extra_config.local_prefill_tokens_per_second: a number above 0")
        if type(patience) not in (int, float) or not patience > 0:
            raise SettingsError("kv_connector_extra_config.max_patience_seconds: a number above 0")
        if device not in ("auto", "lazy"):
            raise SettingsError("kv_connector_extra_config.device: auto or lazy")
        if type(layerwise) is not bool:
            raise SettingsError("kv_connector_extra_config.layerwise: true or false")
        return cls(socket, identity, rate, float(patience), device, layerwise)
