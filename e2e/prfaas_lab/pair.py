"""Two real engines, each with a real sidecar, joined by a link that the test can cut."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import prfaas_setup
from prfaas_connector.request import prompt_digest
from prfaas_demo.certificates import Authority, ca
from prfaas_lab.polling import eventually

DRIVER = Path(__file__).parent / "driver.py"
PRODUCER = "spiffe://test/region/east/ns/default/pool/PrefillPool/long"
CONSUMER = "spiffe://test/region/west/ns/default/pool/DecodePool/chat"
GATEWAY = "spiffe://test/region/west/ns/default/gateway/main"
START_SECONDS = 240.0
ANSWER_SECONDS = 120.0


class Link:
    """A TCP relay between the sidecars that counts what the producer sends and can be cut.

    ``cut_after_bytes``: when that many bytes have crossed, everything stops and new connections are refused
    until `restore`.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after_bytes: int | None = None
        self.bytes_crossed = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; new ones are accepted and closed at once."""
        with self._lock:
            self.cut_after_bytes = 0
            for channel in self._open:
                with contextlib.suppress(OSError):
                    channel.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Let connections through again, and count anew."""
        with self._lock:
            self.cut_after_bytes, self.bytes_crossed = None, 0

    def close(self) -> None:
        """End the relay."""
        self._closing = True
        self.cut()
        self._listener.close()

    def _is_cut(self) -> bool:
        return self.cut_after_bytes is not None and self.bytes_crossed >= self.cut_after_bytes

    def _accept(self) -> None:
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            try:
                while True:
                    for key, _ in selector.select():
                        source: Any = key.fileobj
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is far:
                            self.bytes_crossed += len(data)
                            if self._is_cut():
                                self.cut()
                                return
                        key.data.sendall(data)
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {near, far}
                near.close()
                far.close()


@dataclass
class Answer:
    """What an engine answered."""

    tokens: list[int]
    logprobs: list[float]
    cached_tokens: int
    params: dict[str, Any] | None
    finish: str | None


class Engine:
    """One vLLM in a process of its own (tests/engine/driver.py)."""

    def __init__(self, folder: Path, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        read_end, write_end = os.pipe()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [prfaas_setup.engine_python(), DRIVER, str(write_end), json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                text=True,
                env={**os.environ, **prfaas_setup.engine_env(), "OMP_NUM_THREADS": "1"},
            )
        os.close(write_end)
        if self.process.stdin is None:
            raise RuntimeError("the engine was started without a pipe to its standard input")
        self._commands = self.process.stdin
        self._answers: dict[str, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(read_end,), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Raises AssertionError with the end of the log when the engine does not come up."""
        self._receive("ready", START_SECONDS)

    def start(self, prompt: list[int], max_tokens: int, params: dict[str, Any] | None = None) -> str:
        """Send a request; `finish` waits for it."""
        name = secrets.token_hex(4)
        self._command(do="generate", id=name, prompt=prompt, max_tokens=max_tokens, params=params)
        return name

    def finish(self, name: str) -> Answer:
        """The answer to a request."""
        body = self._receive(name, ANSWER_SECONDS)
        return Answer(body["tokens"], body["logprobs"], body["cached"], body["params"], body["finish"])

    def generate(self, prompt: list[int], max_tokens: int, params: dict[str, Any] | None = None) -> Answer:
        """`start` and `finish`."""
        return self.finish(self.start(prompt, max_tokens, params))

    def abort(self, name: str) -> None:
        """As when a client goes away."""
        self._command(do="abort", id=name)

    def reset(self) -> None:
        """Empty the prefix cache. Fails when a request still holds blocks: a leak."""
        eventually(self._reset_once, within_seconds=20, what=f"{self.name} holds no blocks any more")

    def _reset_once(self) -> bool:
        self._command(do="reset")
        return bool(self._receive("reset", 20)["reset"])

    def log(self) -> str:
        """The last lines of the engine's output."""
        return self._log.read_text()[-4000:]

    def greetings(self) -> int:
        """How often the scheduler side and the worker have connected to a sidecar, in all."""
        return self._log.read_text().count("connected to the sidecar; arena")

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._command(do="stop")
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        with contextlib.suppress(BrokenPipeError):
            self._commands.close()
        self._reader.join(5)

    def _command(self, **fields: Any) -> None:
        self._commands.write(json.dumps(fields) + "\n")
        self._commands.flush()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor) as answers:
            for line in answers:
                body = json.loads(line)
                key = body.get("id") or ("ready" if "ready" in body else "reset")
                self._channel(key).put(body)
        self._gone.set()
        with self._lock:
            for channel in self._answers.values():
                channel.put(None)

    def _channel(self, key: str) -> queue.SimpleQueue[dict[str, Any] | None]:
        with self._lock:
            return self._answers.setdefault(key, queue.SimpleQueue())

    def _receive(self, key: str, within_seconds: float) -> dict[str, Any]:
        channel = self._channel(key)
        if self._gone.is_set():
            channel.put(None)
        try:
            body = channel.get(timeout=within_seconds)
        except queue.Empty:
            body = None
        if body is None:
            raise AssertionError(
                f"{self.name} gave no {key} in {within_seconds} s; its log ends:\n{self.log()}"
            )
        return body


class Sidecar:
    """One sidecar process on fixed loopback ports, so that it can be killed and started again."""

    def __init__(
        self, folder: Path, name: str, authority: Authority, identity: str, settings: dict[str, Any]
    ) -> None:
        self._folder = folder
        self.name = name
        self.socket = Path(f"/tmp/prfaas-{os.getpid()}-{secrets.token_hex(4)}.sock")  # noqa: S108 - socket paths are short
        files = authority.leaf(identity).write(folder, name)
        config: dict[str, Any] = {
            "engine": {"socket": str(self.socket)},
            "arena_bytes": "512MiB",
            "listen": {"peer": "127.0.0.1:0", "control": "127.0.0.1:0", "health": "127.0.0.1:0"},
            "tls": {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)},
            "gateways": [GATEWAY],
            "link": {"connect_seconds": 2, "resume_seconds": 2},
            "drain_seconds": 5,
            **settings,
        }
        self._config = folder / f"{name}.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self.ports: dict[str, int] = {}
        self.process = self._start()
        # From here on the ports stay the same.
        config["listen"] = {listener: f"127.0.0.1:{port}" for listener, port in self.ports.items()}
        self._config.write_text(yaml.safe_dump(config))
        gateway = authority.leaf(GATEWAY).write(folder, f"{name}-gateway")
        self._tls = ssl.create_default_context(cafile=str(gateway.ca))
        self._tls.load_cert_chain(gateway.certificate, gateway.key)

    def _start(self) -> subprocess.Popen[str]:
        log = self._folder / f"{self.name}-{secrets.token_hex(2)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "prfaas_sidecar", "--config", str(self._config)],
                stdout=output,
                stderr=output,
                text=True,
            )

        def started() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the sidecar ended: {log.read_text()[-3000:]}")
            for line in log.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    body = json.loads(line)
                    if body.get("message") == "sidecar started":
                        self.ports = body["ports"]
                        return True
            return False

        try:
            eventually(started, within_seconds=60, what=f"the sidecar started; its log: {log}")
        except BaseException:
            process.kill()
            process.wait(10)
            raise
        return process

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A gateway's call to the control listener."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.ports['control']}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, context=self._tls, timeout=10) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else {}

    def ready(self) -> bool:
        """Whether /readyz says so: the engine has said hello."""
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.ports['health']}/readyz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def metric(self, name: str) -> float:
        """Sum of all samples of a metric."""
        url = f"http://127.0.0.1:{self.ports['health']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition("{")[0].partition(" ")[0] == name
        )

    def wait_until_empty(self) -> None:
        """Returns when no byte of the arena is held.

        Raises:
            TimeoutError: memory is still held after 20 seconds.
        """
        eventually(
            lambda: self.metric("prfaas_sidecar_arena_used_bytes") == 0,
            within_seconds=20,
            what=f"the arena of the {self.name} is empty again",
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> None:
        """After `kill`: the same configuration and ports."""
        self.process = self._start()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not obeyed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        self.socket.unlink(missing_ok=True)


@dataclass
class Legs:
    """Both legs of one request. ``started_at`` is monotonic."""

    transfer_id: str
    prefill: str
    decode: str
    started_at: float = field(default_factory=time.monotonic)


@dataclass
class Pair:
    """Producer and consumer, engines and sidecars, and the link between the sidecars."""

    prefill: Engine
    decode: Engine
    producer: Sidecar
    consumer: Sidecar
    link: Link

    def start(self, prompt: list[int], max_tokens: int, *, deadline_seconds: float = 60.0) -> Legs:
        """Both legs at once, as a gateway does."""
        transfer_id = secrets.token_hex(16)
        digest = prompt_digest(prompt, None)
        common = {
            "version": 1,
            "transfer_id": transfer_id,
            "prompt_digest": digest,
            "deadline_seconds": deadline_seconds,
        }
        producer = {"address": f"127.0.0.1:{self.link.port}", "identity": PRODUCER}
        decode = self.decode.start(
            prompt, max_tokens, {"prfaas": {**common, "leg": "decode", "producer": producer}}
        )
        prefill = self.prefill.start(
            prompt, 1, {"prfaas": {**common, "leg": "prefill", "consumer": CONSUMER}}
        )
        return Legs(transfer_id, prefill, decode)

    def finish(self, legs: Legs) -> tuple[Answer, dict[str, Any]]:
        """The decode leg's answer, and what the consumer's sidecar knows of the transfer."""
        answer = self.decode.finish(legs.decode)
        self.prefill.finish(legs.prefill)
        return answer, self.ended(legs.transfer_id)

    def ended(self, transfer_id: str) -> dict[str, Any]:
        """The consumer side's record, once it has ended."""

        def record() -> dict[str, Any] | None:
            found = self.consumer.call("GET", f"/v1/transfers/{transfer_id}")
            return found if found["ended_at"] is not None else None

        return eventually(record, within_seconds=20, what="the transfer's record has ended") or {}

    def run(self, prompt: list[int], max_tokens: int) -> tuple[Answer, dict[str, Any]]:
        """`start` and `finish`."""
        return self.finish(self.start(prompt, max_tokens))

    def local(self, prompt: list[int], max_tokens: int) -> Answer:
        """The decode engine alone, with an empty prefix cache before and after."""
        self.decode.reset()
        answer = self.decode.generate(prompt, max_tokens)
        self.reset()
        return answer

    def reset(self) -> None:
        """Empty both prefix caches; fails if blocks are still held."""
        self.decode.reset()
        self.prefill.reset()

    def assert_nothing_held(self) -> None:
        """Both arenas are empty and both engines hold no blocks."""
        for sidecar in (self.producer, self.consumer):
            sidecar.wait_until_empty()
        self.reset()


@contextlib.contextmanager
def pair(folder: Path, model: str, **arguments: Any) -> Iterator[Pair]:
    """Start everything; engines in parallel. ``arguments`` go to vLLM's EngineArgs; ``device`` to the
    connector."""
    authority = ca("engine tests")
    device = arguments.pop("device", "auto")
    # These tests are about what crosses, so engines wait for it: a busy machine must not make them compute
    # early.
    waiting = arguments.pop("waiting", {"max_patience_seconds": 60.0, "local_prefill_tokens_per_second": 0.1})
    sidecar_settings = arguments.pop("sidecar", {})
    producer = Sidecar(
        folder, "producer", authority, PRODUCER, {"peers": {"accept": [CONSUMER]}, **sidecar_settings}
    )
    with contextlib.ExitStack() as stack:
        stack.callback(producer.stop)
        link = Link(producer.ports["peer"])
        stack.callback(link.close)
        dial = [{"identity": PRODUCER, "addresses": [f"127.0.0.1:{link.port}"]}]
        consumer = Sidecar(
            folder, "consumer", authority, CONSUMER, {"peers": {"dial": dial}, **sidecar_settings}
        )
        stack.callback(consumer.stop)
        engines = []
        for name, role, sidecar in (
            ("prefill", "kv_producer", producer),
            ("decode", "kv_consumer", consumer),
        ):
            transfer = {
                "kv_connector": "PrfaasConnector",
                "kv_connector_module_path": "prfaas_connector.vllm",
                "kv_role": role,
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {"socket": str(sidecar.socket), "device": device, **waiting},
            }
            defaults = {
                "model": str(prfaas_setup.model_path(model)),
                "dtype": "float32",
                "enforce_eager": True,
                "max_model_len": 4096,
                "max_num_seqs": 8,
                "max_num_batched_tokens": 256,
                "enable_prefix_caching": True,
                "kv_transfer_config": transfer,
            }
            engine = Engine(folder, name, {**defaults, **arguments})
            stack.callback(engine.stop)
            engines.append(engine)
        for engine, sidecar in zip(engines, (producer, consumer), strict=True):
            engine.wait_until_ready()
            eventually(sidecar.ready, within_seconds=20, what="the engine has greeted its sidecar")
        yield Pair(engines[0], engines[1], producer, consumer, link)
