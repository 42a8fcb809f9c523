"""Names, ports and paths of what prfaas adds to a pod (docs/control-plane.md "A pod of a pool")."""

from __future__ import annotations

from typing import Final

RESERVED_PREFIX: Final = "prfaas-"

SIDECAR: Final = "prfaas-sidecar"
CARRIER: Final = "prfaas-connector"

RUN_VOLUME: Final = "prfaas-run"
CONNECTOR_VOLUME: Final = "prfaas-connector"
TLS_VOLUME: Final = "prfaas-tls"
PEERS_VOLUME: Final = "prfaas-peers"

RUN_PATH: Final = "/run/prfaas"
SOCKET_PATH: Final = "/run/prfaas/engine.sock"
KV_EVENTS_ENDPOINT: Final = "ipc://@prfaas-kv-events"
KV_REPLAY_ENDPOINT: Final = "ipc://@prfaas-kv-replay"
KV_EVENTS_BUFFER_STEPS: Final = 4096
CONNECTOR_PATH: Final = "/opt/prfaas"
TLS_PATH: Final = "/etc/prfaas/tls"
PEERS_PATH: Final = "/etc/prfaas/peers"
PEERS_KEY: Final = "peers.yaml"

PEER_PORT: Final = 7400
CONTROL_PORT: Final = 7401
HEALTH_PORT: Final = 7402
SIDECAR_PORTS: Final = {
    "prfaas-peer": PEER_PORT,
    "prfaas-control": CONTROL_PORT,
    "prfaas-health": HEALTH_PORT,
}
ENGINE_PORT_NAME: Final = "prfaas-engine"
NODE_PORT_NAME: Final = "prfaas-kv"

SIDECAR_CONFIG_VARIABLE: Final = "PRFAAS_SIDECAR_CONFIG"

KUBERNETES_GRACE_SECONDS: Final = 30
"""Grace period of a pod that names none."""
SHUTDOWN_SECONDS: Final = 30
"""Part of the grace period that is left for engine and sidecar to end after the drain."""
SIDECAR_DRAIN_SECONDS: Final = 15
"""How long the sidecar, told to end after the engine has ended, waits for consumers to fetch their KV."""
