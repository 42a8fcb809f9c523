"""The demo's identities: one pool per region, the gateway, and the demo itself as an observer."""

from __future__ import annotations

_DOMAIN = "spiffe://demo/region"

EAST_POOL = f"{_DOMAIN}/east/ns/demo/pool/PrefillPool/long"
WEST_POOL = f"{_DOMAIN}/west/ns/demo/pool/DecodePool/chat"
GATEWAY = f"{_DOMAIN}/west/ns/demo/gateway/main"
OBSERVER = f"{_DOMAIN}/west/ns/demo/gateway/demo"
"""May ask the sidecars what became of a transfer, which gateways may."""

MODEL = "smollm2-135m"
