"""One real sidecar as a process of its own, and a gateway's calls to it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from prfaas_demo.certificates import Authority
from prfaas_lab.polling import eventually

GATEWAY = "spiffe://test/region/west/ns/default/gateway/main"


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
            "arena_bytes": "512MiB",
            "listen": {"peer": "127.0.0.1:0", "control": "127.0.0.1:0", "health": "127.0.0.1:0"},
            "tls": {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)},
            "gateways": [GATEWAY],
            "link": {"connect_seconds": 2, "resume_seconds": 2},
            "drain_seconds": 5,
            **settings,
            "engine": {"socket": str(self.socket), **settings.get("engine", {})},
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
        # An engine that was killed has left the copies of its tokenizer's files.
        shutil.rmtree(self.socket.with_suffix(".model"), ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """What `/status` shows."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['health']}/status", timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def model_file(self, name: str) -> bytes:
        """A file of the engine's model, as a gateway gets it."""
        url = f"https://127.0.0.1:{self.ports['control']}/v1/model-files/{name}"
        with urllib.request.urlopen(url, context=self._tls, timeout=30) as answer:
            return bytes(answer.read())
