"""The sidecar's configuration, which is fixed for the revision. Its peers are not: `planning.peers`."""

from __future__ import annotations

from typing import Any

from prfaas.api.keys import PREFILL_POOL
from prfaas.api.v1alpha1 import Pool, quantity_bytes
from prfaas_operator.injection import names
from prfaas_operator.injection.settings import Settings
from prfaas_operator.injection.yaml_text import yaml_text


def sidecar_config(pool: Pool, settings: Settings, drain_token: str | None) -> str:
    """YAML for `PRFAAS_SIDECAR_CONFIG`.

    Args:
        drain_token: who knows it may drain the pod; None: nobody outside it.
    """
    config: dict[str, Any] = {
        "engine": {
            "socket": names.SOCKET_PATH,
            # The socket's folder is mounted by the engine and the sidecar alone: that is the boundary, not
            # the file's mode. The engine runs as root, as its image's user, or as the number that OpenShift
            # gives it. A group for both would need fsGroup, which changes the owner of files in the user's
            # volumes.
            "socket_mode": 0o666,
            "url": f"http://127.0.0.1:{pool.spec.engine.port}",
        },
        "arena_bytes": quantity_bytes(pool.spec.kv.arena),
        "arena_charged_to": "engine" if pool.kind == PREFILL_POOL else "sidecar",
        "listen": {
            "peer": _listener(settings, names.PEER_PORT),
            "control": _listener(settings, names.CONTROL_PORT),
            "health": _listener(settings, names.HEALTH_PORT),
        },
        "tls": {
            "certificate": f"{names.TLS_PATH}/tls.crt",
            "key": f"{names.TLS_PATH}/tls.key",
            "ca": f"{names.TLS_PATH}/ca.crt",
        },
        "peers_file": f"{names.PEERS_PATH}/{names.PEERS_KEY}",
        "link": {"streams": pool.spec.transport.streams},
        "drain_seconds": names.SIDECAR_DRAIN_SECONDS,
        "log_level": settings.log_level,
    }
    if drain_token is not None:
        config["drain_token"] = drain_token
    return yaml_text(config)


def _listener(settings: Settings, port: int) -> str:
    host = settings.listen_address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
