"""The parts of `kv_events`, put together."""

from __future__ import annotations

import secrets

from prfaas_sidecar.config import KvEventsSection
from prfaas_sidecar.kv_events.follower import Follower
from prfaas_sidecar.kv_events.ledger import Ledger
from prfaas_sidecar.kv_events.serving import HeldBlocksApi
from prfaas_sidecar.node import Node


class KvEvents:
    """What one sidecar keeps of its engine's events.

    Attributes:
        ledger: what is held.
        follower: to be run in the background.
        api: for the control port.
    """

    def __init__(self, node: Node, settings: KvEventsSection) -> None:
        self.ledger = Ledger(settings.max_blocks, lambda: secrets.token_hex(8))
        self.follower = Follower(node, self.ledger, lambda: self.api.changed())
        self.api = HeldBlocksApi(settings, self.ledger, self.follower, node.clock)
