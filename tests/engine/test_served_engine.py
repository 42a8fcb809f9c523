"""A whole `vllm serve` beside a sidecar, as in a pod: what its API server alone knows, and the drain before
its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prfaas_setup
from prfaas_demo.certificates import ca
from prfaas_lab.sidecar import Sidecar
from tests.helpers import eventually, free_port

pytestmark = [pytest.mark.engine, pytest.mark.restarts_processes, pytest.mark.timeout(400)]

IDENTITY = "spiffe://test/region/east/ns/default/pool/PrefillPool/long"
TOKEN = "the-token-of-the-revision"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
START_SECONDS = 240
MANY_TOKENS = 300


def ask(port: int, path: str, body: dict[str, Any] | None = None, within_seconds: float = 20) -> str:
    """What a server of this machine answers, whatever its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within_seconds)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(
            "GET" if body is None else "POST", path, data, {"content-type": "application/json"}
        )
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@dataclass
class Pod:
    """An engine's API and its sidecar."""

    port: int
    sidecar: Sidecar
    process: subprocess.Popen[bytes]

    def complete(self, max_tokens: int) -> dict[str, Any]:
        """A local completion of exactly so many tokens."""
        body = {"model": "chat-latest", "prompt": "Once", "max_tokens": max_tokens, "ignore_eos": True}
        found: dict[str, Any] = json.loads(ask(self.port, "/v1/completions", body, 120))
        return found

    def drain(self, seconds: float) -> str:
        """As the kubelet calls it."""
        path = f"/drain?seconds={seconds:g}&token={TOKEN}"
        return ask(self.sidecar.ports["health"], path, within_seconds=seconds + 20)

    def running(self) -> float:
        """Requests that the engine shows as running."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in ask(self.port, "/metrics").splitlines()
            if line.startswith("vllm:num_requests_running{")
        )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "own.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    port = free_port()
    settings = {"engine": {"url": f"http://127.0.0.1:{port}"}, "drain_token": TOKEN}
    sidecar = Sidecar(folder, "sidecar", ca("served engine"), IDENTITY, settings)
    transfer = {
        "kv_connector": "PrfaasConnector",
        "kv_connector_module_path": "prfaas_connector.vllm",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"socket": str(sidecar.socket)},
    }
    python = Path(prfaas_setup.engine_python())
    log = folder / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(python.parent / "vllm"), "serve", str(prfaas_setup.model_path("smollm2-135m")),
                "--served-model-name", "chat", "chat-latest", "--chat-template", str(template),
                "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
                "--max-model-len", "1024", "--max-num-seqs", "4",
                "--kv-transfer-config", json.dumps(transfer),
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, **prfaas_setup.engine_env(), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    running = Pod(port, sidecar, process)

    def healthy() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            return ask(port, "/health") == ""
        except OSError:
            return False

    try:
        eventually(healthy, within_seconds=START_SECONDS, what="the engine serves")
        eventually(sidecar.ready, within_seconds=20, what="the engine has greeted its sidecar")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        sidecar.stop()


def test_what_only_the_command_line_says_is_told(pod: Pod, template: Path) -> None:
    """The engine's core, in which the connector lives, is another process than its API server."""
    eventually(lambda: pod.sidecar.status()["block_tokens"], what="the facts came")
    shown = pod.sidecar.status()
    assert shown["served_models"] == ["chat", "chat-latest"]
    assert shown["max_model_tokens"] == 1024
    assert pod.sidecar.model_file("chat_template.jinja") == template.read_bytes()


def test_a_drain_waits_for_what_the_engine_still_answers(pod: Pod) -> None:
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(pod.complete(MANY_TOKENS)))
    client.start()
    try:
        eventually(lambda: pod.running() == 1, within_seconds=30)
        assert pod.drain(0.5).startswith("not drained after 0.5 s: the engine has 1 requests running")
        assert pod.drain(100) == "drained\n"
        # Nothing is lost: the drain ends after the answer.
        client.join(5)
        assert answers
        assert answers[0]["usage"]["completion_tokens"] == MANY_TOKENS
        assert not pod.sidecar.ready()
        assert pod.sidecar.status()["draining"] is True
    finally:
        client.join(120)
