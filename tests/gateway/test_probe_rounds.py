"""When engines are probed: each in its own time, whatever others do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.fleet import Decoder
from prfaas_gateway.probes import _PROBES_AT_ONCE, probe_forever
from prfaas_gateway.services import Services
from tests.helpers import eventually_async

SILENT = 2 * _PROBES_AT_ONCE


class Engines:
    """Some hundred engines, of which those in ``hanging`` let their probes wait."""

    def __init__(self) -> None:
        self.hanging: dict[str, asyncio.Event] = {}
        self.asked: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()

    async def get(self, url: URL, _: float) -> int:
        name = str(url.host)
        self.asked[name] += 1
        self.at_once[name] += 1
        assert self.at_once[name] == 1
        try:
            if name in self.hanging:
                await self.hanging[name].wait()
                raise TimeoutError
        finally:
            self.at_once[name] -= 1
        return 200


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
async def services(
    tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Services]:
    config = Config.model_validate(
        {
            "region": "here",
            "models": [{"name": "m", "tokenizer": tmp_path, "max_model_tokens": 1, "threshold_tokens": 1}],
            "decode_engines": [
                {"name": f"e{number}", "url": f"http://e{number}:1"} for number in range(SILENT + 2)
            ],
            "health": {"probe_seconds": 0.05},
        }
    )
    made = build_services(config, {}, None)
    monkeypatch.setattr(made.decode, "get", engines.get)
    yield made
    await close_services(made)


@pytest.fixture
async def probing(services: Services) -> AsyncIterator[None]:
    task = asyncio.create_task(probe_forever(services))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def decoder(services: Services, name: str) -> Decoder:
    return next(each for each in services.fleet.decoders if each.name == name)


async def test_engines_that_do_not_answer_delay_no_other(
    services: Services, engines: Engines, probing: Any
) -> None:
    await eventually_async(lambda: all(each.engine.reachable for each in services.fleet.decoders))
    released = asyncio.Event()
    released.set()
    dead = [f"e{number}" for number in range(SILENT)]
    engines.hanging = dict.fromkeys(dead, released)
    await eventually_async(lambda: not any(decoder(services, name).engine.reachable for name in dead))
    # From here on their probes take as long as a deadline may.
    engines.hanging = dict.fromkeys(dead, asyncio.Event())
    before = engines.asked[f"e{SILENT}"]
    await eventually_async(lambda: engines.asked[f"e{SILENT}"] >= before + 5)
    assert decoder(services, f"e{SILENT + 1}").engine.reachable


async def test_who_is_asked_for_is_probed_at_once_and_never_twice_at_a_time(
    services: Services, engines: Engines, probing: Any
) -> None:
    waiting = asyncio.Event()
    engines.hanging = {"e0": waiting}
    await eventually_async(lambda: engines.at_once["e0"] == 1)
    before = engines.asked["e0"]
    for _ in range(3):
        services.to_probe["uid"] = decoder(services, "e0")
        services.probe_now.set()
        await eventually_async(lambda: not services.to_probe)
    assert engines.asked["e0"] == before
    # What was asked for while a probe ran gets one of its own: the world may have changed since it began.
    engines.hanging = {}
    waiting.set()
    await eventually_async(lambda: engines.asked["e0"] > before and decoder(services, "e0").engine.reachable)
