"""One real vLLM as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prfaas_setup
from prfaas_lab.polling import eventually

DRIVER = Path(__file__).parent / "driver.py"
START_SECONDS = 240.0
ANSWER_SECONDS = 120.0


@dataclass
class Answer:
    """What an engine answered."""

    tokens: list[int]
    logprobs: list[float]
    cached_tokens: int
    params: dict[str, Any] | None
    finish: str | None


class Engine:
    """One vLLM in a process of its own (driver.py)."""

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

    def abort(self, name: str) -> bool:
        """As when a client goes away. Whether the request was still there."""
        self._command(do="abort", id=name)
        return bool(self._receive(f"abort {name}", ANSWER_SECONDS)["ended"])

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
