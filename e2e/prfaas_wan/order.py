"""What a keeper is started with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from prfaas_wan.settings import WanConfig


class KeeperOrder(BaseModel):
    """Descriptors are inherited; without an owner it runs until told to stop."""

    model_config = ConfigDict(extra="forbid")

    config: WanConfig
    ready_descriptor: int
    owner_pid: int | None
    owner_descriptor: int | None
