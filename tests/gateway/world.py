"""A gateway with engines and sidecars around it, all on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from prfaas_bench.fake_engine import FakeEngine
from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.app import client_runner, health_app
from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.probes import probe_once
from prfaas_gateway.services import Services, load_models
from prfaas_gateway.tls import Credentials
from tests.gateway.fake_sidecar import FakeSidecar, transfer
from tests.gateway.tokenizers_for_tests import write_model
from tests.helpers import eventually_async

TRUST = "spiffe://test"
GATEWAY = f"{TRUST}/region/here/ns/llm/gateway/main"
THRESHOLD_TOKENS = 100
BLOCK_TOKENS = 16

SHORT = "x" * 20
LONG = "The quick brown fox jumps over the lazy dog. " * 10
"""450 tokens with the tests' tokenizer."""


def decode_identity(number: int = 0) -> str:
    """Identity of a decode sidecar."""
    return f"{TRUST}/region/here/ns/llm/pool/DecodePool/decode-{number}"


def prefill_identity(number: int = 0) -> str:
    """Identity of a prefill sidecar."""
    return f"{TRUST}/region/there/ns/llm/pool/PrefillPool/prefill-{number}"


@dataclass
class World:
    """Everything, running."""

    services: Services
    url: str
    health_url: str
    client: aiohttp.ClientSession
    engines: list[FakeEngine]
    decode_sidecars: list[FakeSidecar]
    prefill_sidecars: list[FakeSidecar]
    authority: Authority
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def engine(self) -> FakeEngine:
        """The first decode engine."""
        return self.engines[0]

    @property
    def decode_sidecar(self) -> FakeSidecar:
        """Its sidecar."""
        return self.decode_sidecars[0]

    @property
    def prefill_sidecar(self) -> FakeSidecar:
        """The sidecar of the first prefill engine."""
        return self.prefill_sidecars[0]

    def complete(self, prompt: str | list[int] = LONG, **fields: Any) -> Any:
        """A completion request, to be used with ``async with``."""
        body = {"model": "chat", "prompt": prompt, "max_tokens": 3, **fields}
        return self.client.post(f"{self.url}/v1/completions", json=body)

    def counted(self, name: str, **labels: str) -> float:
        """Value of a metric, 0 when it was never counted."""
        return self.services.metrics.registry.get_sample_value(f"prfaas_gateway_{name}", labels) or 0.0

    async def settled(self) -> None:
        """Wait until all background jobs of ended requests are done."""
        await eventually_async(lambda: not len(self.services.supervisor), what="no background job")


@asynccontextmanager
async def running(
    folder: Path,
    *,
    decoders: int = 1,
    prefillers: int = 1,
    probe: bool = True,
    settings: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
) -> AsyncIterator[World]:
    """A world with that many engines."""
    authority = ca()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine().run()) for _ in range(decoders)]
        decode_sidecars = [FakeSidecar(decode_identity(n)) for n in range(decoders)]
        prefill_sidecars = [FakeSidecar(prefill_identity(n)) for n in range(prefillers)]
        for sidecar in (*decode_sidecars, *prefill_sidecars):
            await stack.enter_async_context(sidecar.run(authority, folder / "tls"))
        for sidecar in decode_sidecars:
            sidecar.default_transfer = transfer()
        config = await asyncio.to_thread(
            configuration,
            folder,
            authority,
            engines,
            decode_sidecars,
            prefill_sidecars,
            settings or {},
            model or {},
        )
        assert config.tls is not None
        credentials = await asyncio.to_thread(Credentials, config.tls, config.sidecar_identities)
        services = build_services(config, await asyncio.to_thread(load_models, config), credentials)
        stack.push_async_callback(close_services, services)
        if probe:
            await probe_once(services)
        urls = []
        for runner in (client_runner(services), web.AppRunner(health_app(services), access_log=None)):
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append("http://{}:{}".format(*runner.addresses[0][:2]))
        client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        yield World(services, urls[0], urls[1], client, engines, decode_sidecars, prefill_sidecars, authority)


def configuration(
    folder: Path,
    authority: Authority,
    engines: list[FakeEngine],
    decode_sidecars: list[FakeSidecar],
    prefill_sidecars: list[FakeSidecar],
    settings: dict[str, Any],
    model: dict[str, Any],
) -> Config:
    """The configuration of such a world."""
    tls = authority.leaf(GATEWAY).write(folder / "tls", "gateway")
    return Config.model_validate(
        {
            "region": "here",
            "identity": GATEWAY,
            "tls": {"certificate": tls.certificate, "key": tls.key, "trust_bundle": tls.ca},
            "models": [
                {
                    "name": "chat",
                    "tokenizer": write_model(folder / "model"),
                    "max_model_tokens": 4096,
                    "threshold_tokens": THRESHOLD_TOKENS,
                    "block_tokens": BLOCK_TOKENS,
                    "adapters": ["chat-lora"],
                    **model,
                }
            ],
            "decode_engines": [
                {
                    "name": f"decode-{number}",
                    "url": engine.url,
                    "control": sidecar.url,
                    "identity": sidecar.identity,
                }
                for number, (engine, sidecar) in enumerate(zip(engines, decode_sidecars, strict=True))
            ],
            "prefill_engines": [
                {
                    "name": f"prefill-{number}",
                    "control": sidecar.url,
                    "kv_address": f"192.0.2.{number + 1}:7400",
                    "identity": sidecar.identity,
                }
                for number, sidecar in enumerate(prefill_sidecars)
            ],
            **settings,
            "timeouts": {"drain_seconds": 1, **settings.get("timeouts", {})},
        }
    )
