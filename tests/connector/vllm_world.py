"""A sidecar and the engines around it, for the contract tests with vLLM's real schedulers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from prfaas_connector.request import prompt_digest
from tests.connector.loopback import LoopbackSidecar
from tests.connector.vllm_configs import LAYOUTS, Settings
from tests.connector.vllm_engine import Engine, settle, until

KINDS = {
    "v1": Settings(),
    "v1 async": Settings(asynchronous=True),
    "v2": Settings(v2=True),
    "v2 async": Settings(asynchronous=True, v2=True),
}
"""Scheduler and AsyncScheduler, with the outputs that each of vLLM's model runners gets."""

STATEFUL = [name for name in LAYOUTS if "state" in name or name == "all"]
CACHING = [name for name in LAYOUTS if name != "state"]

_numbers = itertools.count(1)


def prompt_of(length: int, seed: int = 1) -> list[int]:
    """Tokens that no other seed shares, from the first one on."""
    return [(seed * 131 + 7 * index + index * index // 5) % 1000 for index in range(length)]


def legs(prompt: Sequence[int], deadline_seconds: float = 20.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the prefill leg and the decode leg of a new transfer."""
    common = {
        "version": 1,
        "transfer_id": f"{next(_numbers):032x}",
        "prompt_digest": prompt_digest(prompt, None),
        "deadline_seconds": deadline_seconds,
    }
    producer = {"address": "192.0.2.1:7400", "identity": "spiffe://t/pool/PrefillPool/long"}
    return (
        {**common, "leg": "prefill", "consumer": "spiffe://t/pool/DecodePool/chat"},
        {**common, "leg": "decode", "producer": producer},
    )


class World:
    """One sidecar for both sides."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self.sidecar = LoopbackSidecar(self.socket)
        self.engines: list[Engine] = []

    def engine(self, settings: Settings, **changed: Any) -> Engine:
        """A new engine, connected."""
        made = Engine(replace(settings, **changed), self.socket)
        self.engines.append(made)
        made.wait_until_connected()
        return made

    def pair(self, kind: str = "v1", layout: str = "attention", **changed: Any) -> tuple[Engine, Engine]:
        """A producing and a consuming engine."""
        settings = replace(KINDS[kind], layout=layout, **changed)
        return self.engine(settings), self.engine(settings)

    def replace_sidecar(self) -> None:
        """Kills the sidecar and starts another one, with another arena."""
        self.sidecar.close()
        self.sidecar = LoopbackSidecar(self.socket)

    def settle(self) -> None:
        """Lets every engine finish, and checks that nothing is left of any request."""
        settle(*self.engines)
        until(self.sidecar.has_read_everything, what="the sidecar does not keep up")
        assert self.sidecar.violations == []


@contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Closes what was opened."""
    made = World(folder)
    with mock.patch("prfaas_connector.client.RECONNECT_SECONDS", 0.01):
        try:
            yield made
        finally:
            for engine in made.engines:
                engine.close()
            made.sidecar.close()
