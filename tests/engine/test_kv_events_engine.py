"""What a real engine publishes of its cache, as gateways come to know it: stored, evicted, cleared."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import prfaas_setup
from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.blocks_feed import follow
from prfaas_gateway.config import DecodeEngine, Health, Tls
from prfaas_gateway.control import ControlClient
from prfaas_gateway.fleet import Decoder, Member
from prfaas_gateway.prefix_index import PrefixIndex, PromptBlocks, Scope, prompt_blocks
from prfaas_gateway.tls import Credentials
from prfaas_lab.sidecar import GATEWAY, Sidecar
from tests.helpers import eventually, eventually_async, free_port

pytestmark = [pytest.mark.engine, pytest.mark.restarts_processes, pytest.mark.timeout(400)]

IDENTITY = "spiffe://test/region/east/ns/default/pool/DecodePool/chat"
START_SECONDS = 240
BLOCK = 32
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_SERVER_DEV_MODE": "1"}
"""The mode has `/reset_prefix_cache`."""
CACHE_BLOCKS = 40
"""So few that a handful of prompts push one another out."""


@dataclass
class Pod:
    """An engine's API and its sidecar."""

    port: int
    sidecar: Sidecar
    authority: Authority
    folder: Path

    def post(self, path: str, body: dict[str, object]) -> int:
        """Status of the engine's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def prefill(self, ids: list[int], cache_salt: str = "") -> None:
        """Let the engine compute a prompt."""
        body: dict[str, object] = {"model": "chat", "prompt": ids, "max_tokens": 1}
        if cache_salt:
            body["cache_salt"] = cache_salt
        assert self.post("/v1/completions", body) == 200


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("kv-events")
    port, authority = free_port(), ca("kv events")
    sidecar = Sidecar(folder, "sidecar", authority, IDENTITY, {"engine": {"url": f"http://127.0.0.1:{port}"}})
    transfer = {
        "kv_connector": "PrfaasConnector",
        "kv_connector_module_path": "prfaas_connector.vllm",
        "kv_role": "kv_consumer",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"socket": str(sidecar.socket)},
    }
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://@prfaas-test-{os.getpid()}-events",
        "replay_endpoint": f"ipc://@prfaas-test-{os.getpid()}-replay",
    }
    log = folder / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(Path(prfaas_setup.engine_python()).parent / "vllm"), "serve",
                str(prfaas_setup.model_path("smollm2-135m")), "--served-model-name", "chat",
                "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
                "--block-size", str(BLOCK), "--num-gpu-blocks-override", str(CACHE_BLOCKS + 1),
                "--max-model-len", "1024", "--max-num-seqs", "2",
                "--kv-transfer-config", json.dumps(transfer), "--kv-events-config", json.dumps(events),
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, **prfaas_setup.engine_env(), **ENVIRONMENT},
        )  # fmt: skip

    def healthy() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        eventually(healthy, within_seconds=START_SECONDS, what="the engine serves")
        eventually(sidecar.ready, within_seconds=20, what="the engine has greeted its sidecar")
        yield Pod(port, sidecar, authority, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        sidecar.stop()


def credentials_of(pod: Pod, name: str) -> Credentials:
    """A gateway's, for the pod's sidecar."""
    files = pod.authority.leaf(GATEWAY).write(pod.folder, name)
    return Credentials(Tls(certificate=files.certificate, key=files.key, trust_bundle=files.ca), {IDENTITY})


@asynccontextmanager
async def gateway(pod: Pod, name: str) -> AsyncIterator[PrefixIndex]:
    """A gateway's index of the engine, kept up to date by its own feed."""
    credentials = await asyncio.to_thread(credentials_of, pod, name)
    control = ControlClient(credentials, connect_seconds=5, call_seconds=5)
    config = DecodeEngine(
        name=name,
        url=f"http://127.0.0.1:{pod.port}",
        control=f"https://127.0.0.1:{pod.sidecar.ports['control']}",
        identity=IDENTITY,
    )
    decoder = Decoder(config, Member(Health()), Member(Health()), PrefixIndex(10_000))
    feed = asyncio.create_task(follow(control, decoder, lambda: {BLOCK}))
    try:
        await eventually_async(
            lambda: decoder.index.tells_all, within_seconds=20, what="the engine tells all"
        )
        yield decoder.index
    finally:
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)
        await control.close()


def prompt(number: int, blocks: int = 6) -> list[int]:
    """A prompt of whole blocks and a few tokens more, that begins like no other."""
    return [1000 + number, *(2000 + index for index in range(blocks * BLOCK + 4))]


def blocks_of(ids: list[int], cache_salt: str = "") -> PromptBlocks:
    """As a gateway names them."""
    return prompt_blocks(array("I", ids), BLOCK, Scope("chat", cache_salt=cache_salt))


async def test_gateways_know_what_the_engine_holds(pod: Pod) -> None:
    first, others = blocks_of(prompt(0)), [blocks_of(prompt(number)) for number in range(1, 12)]
    async with gateway(pod, "one") as one, gateway(pod, "other") as other:
        await asyncio.to_thread(pod.prefill, prompt(0))
        for index in (one, other):
            # Neither of them has sent it.
            await eventually_async(lambda index=index: index.matched_blocks(first) == 6)
        assert one.matched_blocks(blocks_of(prompt(0), "somebody's salt")) == 0

        for number in range(1, 12):
            await asyncio.to_thread(pod.prefill, prompt(number))
        await eventually_async(lambda: other.matched_blocks(others[-1]) == 6)
        await eventually_async(lambda: one.matched_blocks(first) == 0, what="the first one was pushed out")
        assert len(one) <= CACHE_BLOCKS

        assert await asyncio.to_thread(pod.post, "/reset_prefix_cache", {}) == 200
        # The engine publishes what happened with its next step.
        await asyncio.to_thread(pod.prefill, prompt(50))
        await eventually_async(lambda: (len(one), len(other)) == (6, 6), what="only the last one is left")


async def test_salts_keep_what_is_held_apart(pod: Pod) -> None:
    ids = prompt(60)
    async with gateway(pod, "salted") as index:
        await asyncio.to_thread(pod.prefill, ids, "one tenant's")
        await eventually_async(lambda: index.matched_blocks(blocks_of(ids, "one tenant's")) == 6)
        assert index.matched_blocks(blocks_of(ids)) == 0


async def test_a_sidecar_that_starts_again_is_told_everything_anew(pod: Pod) -> None:
    ids = prompt(70)
    await asyncio.to_thread(pod.prefill, ids)
    await asyncio.to_thread(pod.sidecar.kill)
    await asyncio.to_thread(pod.sidecar.restart)
    await asyncio.to_thread(eventually, pod.sidecar.ready, within_seconds=20)
    async with gateway(pod, "again") as index:
        await eventually_async(lambda: index.matched_blocks(blocks_of(ids)) == 6)
        assert index.tells_all
