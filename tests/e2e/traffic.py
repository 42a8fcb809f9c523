"""Clients of the gateway: one request, and a steady stream of them that counts what fails."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from prfaas_cluster.engine_pods import CLIENT_MODEL
from prfaas_lab.prompts import prompt

ANSWER_SECONDS = 180.0
WORKERS = 2
# Between two requests of a worker: engines that load meanwhile share the same cores.
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """What a client got. `failure` is None, or why there is no whole answer."""

    status: int
    token_ids: tuple[int, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def route(self) -> str:
        """`local` or `remote`, and the reason."""
        return f"{self.headers.get('x-prfaas-route', '?')} {self.headers.get('x-prfaas-reason', '?')}"


def ask(
    url: str,
    tokens: int,
    *,
    seed: int = 1,
    max_tokens: int = 8,
    within_seconds: float = ANSWER_SECONDS,
    request_id: str | None = None,
) -> Answer:
    """A greedy, streamed completion of a random prompt; the same prompt for the same `tokens` and `seed`."""
    body = {
        "model": CLIENT_MODEL,
        "prompt": prompt(tokens, seed),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=within_seconds)
    try:
        headers = {"content-type": "application/json"} | ({"x-request-id": request_id} if request_id else {})
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.status != 200:
            return Answer(
                response.status, headers=headers, failure=response.read(500).decode(errors="replace")
            )
        return _read_stream(response, headers, max_tokens)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(0, failure=f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def _read_stream(response: http.client.HTTPResponse, headers: dict[str, str], max_tokens: int) -> Answer:
    ids: list[int] = []
    for line in response:
        data = line.strip().removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            failure = None if len(ids) == max_tokens else f"{len(ids)} of {max_tokens} tokens"
            return Answer(200, tuple(ids), headers, failure)
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            return Answer(200, tuple(ids), headers, str(event["error"]))
        for choice in event.get("choices", ()):
            ids += choice.get("token_ids") or ()
    return Answer(200, tuple(ids), headers, "the stream ended without [DONE]")


class Traffic:
    """Asks again and again, from several threads, until the block ends.

    Every third prompt is long enough to be prefilled elsewhere.
    """

    def __init__(self, url: str, *, short_tokens: int = 60, long_tokens: int = 600) -> None:
        self._url = url
        self._lengths = (short_tokens, short_tokens, long_tokens)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.routes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number,), daemon=True) for number in range(WORKERS)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)

    @property
    def remote(self) -> int:
        """Of these, prefilled elsewhere."""
        with self._lock:
            return sum(count for route, count in self.routes.items() if route.startswith("remote "))

    @property
    def answered(self) -> int:
        """Requests that were answered in full so far."""
        with self._lock:
            return sum(self.routes.values())

    def _ask_on(self, worker: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            answer = ask(self._url, self._lengths[count % 3], seed=worker * 10_000 + count)
            with self._lock:
                if answer.failure is None:
                    self.routes[answer.route] += 1
                else:
                    self.failures.append(f"{time.strftime('%H:%M:%S')} {answer.status} {answer.failure}")
            self._stop.wait(PAUSE_SECONDS)
