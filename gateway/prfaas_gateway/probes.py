"""Looking after engines and sidecars: do they answer, and do they tokenise as this gateway does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from typing import Any

import aiohttp
from yarl import URL

from prfaas_gateway.control import ControlError
from prfaas_gateway.fleet import Decoder, Member, Prefiller
from prfaas_gateway.services import ModelRuntime, Services
from prfaas_gateway.streams import TooMuchError
from prfaas_gateway.tls import Credentials

_log = logging.getLogger(__name__)
_MAX_TOKENIZE_BYTES = 1 << 20
_PROBES_AT_ONCE = 64

_PROBE_TEXT = "Hello, wörld! 12345\n\n  def f(x):\treturn x  # 日本語 🙂"
_PROBE_BODIES: tuple[dict[str, Any], ...] = (
    {"prompt": _PROBE_TEXT},
    {
        "messages": [
            {"role": "user", "content": _PROBE_TEXT},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And then?"},
        ]
    },
)


async def probe_forever(services: Services) -> None:
    """Probe everything, again and again, and at once whatever is asked for. Ends by being cancelled."""
    seconds = services.config.health.probe_seconds
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        if services.credentials is not None:
            tasks.create_task(_refresh_forever(services.credentials, seconds), name="certificates")
        probes = Probes(services, tasks)
        round_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(round_at):
                    await services.probe_now.wait()
            services.probe_now.clear()
            asked, services.to_probe = services.to_probe, {}
            for engine in asked.values():
                probes.start(engine, asked_for=True)
            if loop.time() >= round_at:
                for engine in services.fleet.engines():
                    probes.start(engine)
                round_at = loop.time() + seconds


async def probe_once(services: Services) -> None:
    """Probe every engine and sidecar side by side, each within its deadline."""
    if services.credentials is not None:
        await _refresh(services.credentials)
    await asyncio.gather(*(probe(services, engine) for engine in services.fleet.engines()))


class Probes:
    """Probes that run: at most one of each engine at a time, and none waits for one that gets no answer.

    Those that did not answer the last time wait for one another only.
    """

    def __init__(self, services: Services, tasks: asyncio.TaskGroup) -> None:
        self._services = services
        self._tasks = tasks
        self._again: dict[Decoder | Prefiller, bool] = {}
        self._answering = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._silent = asyncio.Semaphore(_PROBES_AT_ONCE)

    def start(self, engine: Decoder | Prefiller, *, asked_for: bool = False) -> None:
        """Probe an engine, unless that is under way. Who asks for it is given a probe that begins later."""
        if engine in self._again:
            self._again[engine] |= asked_for
            return
        self._again[engine] = False
        turn = self._answering if asked_for or _answers(engine) else self._silent
        self._tasks.create_task(self._run(engine, turn), name=f"probe {engine.name}")

    async def _run(self, engine: Decoder | Prefiller, turn: asyncio.Semaphore) -> None:
        try:
            async with turn:
                self._again[engine] = False
                await probe(self._services, engine)
        finally:
            again = self._again.pop(engine)
        if again:
            self.start(engine, asked_for=True)


async def probe(services: Services, engine: Decoder | Prefiller) -> None:
    """Probe an engine and its sidecar. What goes wrong is noted there, and never raised."""
    try:
        # The sidecar first: it says which files to compare the engine's tokens with.
        await _probe_sidecar(services, engine)
        if isinstance(engine, Decoder):
            await _probe_decoder(services, engine)
    except Exception:  # noqa: BLE001  a bug, and what others answer must not end the gateway through it
        _log.exception("a probe failed inside the gateway", extra={"engine": engine.name})


def _answers(engine: Decoder | Prefiller) -> bool:
    """Whether it did the last time, as far as is known."""
    silent = engine.sidecar.reachable is False
    return not silent and not (isinstance(engine, Decoder) and engine.engine.reachable is False)


async def _refresh_forever(credentials: Credentials, seconds: float) -> None:
    while True:
        await _refresh(credentials)
        await asyncio.sleep(seconds)


async def _refresh(credentials: Credentials) -> None:
    try:
        if await asyncio.to_thread(credentials.refresh):
            _log.info("certificates were read again")
    except (OSError, ssl.SSLError) as error:
        _log.warning("new certificates cannot be used", extra={"reason": type(error).__name__})


async def _probe_decoder(services: Services, decoder: Decoder) -> None:
    seconds = services.config.timeouts.control_seconds
    try:
        reachable = await services.decode.get(URL(decoder.config.url + "/health"), seconds) == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        reachable = False
    if decoder.engine.reachable and not reachable:
        decoder.index.forget()
        # What answers next may be another version with another template.
        decoder.tokenizer_agrees.clear()
    _note(decoder, decoder.engine, reachable, "engine")
    if reachable and services.config.health.check_tokenizer:
        for model in services.runtimes():
            if decoder.serves(model.name) and model.name not in decoder.tokenizer_agrees:
                await compare_tokenizers(services, decoder, model)


async def _probe_sidecar(services: Services, engine: Decoder | Prefiller) -> None:
    target = engine.target
    if services.control is None or target is None or target.region is not None:
        # Pods of other regions are looked after by their own gateways, which tell.
        return
    try:
        if services.cluster is None:
            await services.control.probe(target)
        else:
            report = await services.control.engine(target)
            engine.take_load(report)
            services.cluster.heard(engine.uid, report)
    except ControlError as error:
        _note(engine, engine.sidecar, False, "sidecar", error.code)
        if services.cluster is not None:
            services.cluster.lost(engine.uid)
        return
    _note(engine, engine.sidecar, True, "sidecar")


def _note(engine: Decoder | Prefiller, member: Member, reachable: bool, part: str, code: str = "") -> None:
    if member.reachable is not reachable:
        # A pod that starts or ends does not answer either, and nobody has to look after it.
        level = logging.WARNING if engine.open and not reachable else logging.INFO
        text = "answers" if reachable else "does not answer"
        _log.log(level, text, extra={"engine": engine.name, "part": part, "code": code})
    member.reachable = reachable


async def compare_tokenizers(services: Services, decoder: Decoder, model: ModelRuntime) -> None:
    """Compare once per engine start; an engine that cannot be asked is trusted, and asked again next time."""
    if model.maker is None:
        return
    for body in _PROBE_BODIES:
        if "messages" in body and not model.maker.renders_chat:
            continue
        ours = model.maker.encode_for_comparison(body)
        theirs = await _tokens_of_engine(services, decoder, {"model": model.name, **body})
        if theirs is None or ours is None:
            return
        if theirs != ours:
            if services.models.get(model.name) is not model:
                return
            decoder.tokenizer_agrees[model.name] = False
            _log.error(
                "the engine tokenises differently from this gateway, so its requests stay local; "
                "compare the tokenizer folder and the chat template settings",
                extra={"engine": decoder.name, "model": model.name, "chat": "messages" in body},
            )
            return
    if services.models.get(model.name) is model:
        decoder.tokenizer_agrees[model.name] = True


async def _tokens_of_engine(services: Services, decoder: Decoder, body: dict[str, Any]) -> list[int] | None:
    try:
        status, answer = await services.decode.post_json(
            URL(decoder.config.url + "/tokenize"),
            body,
            services.config.timeouts.control_seconds,
            _MAX_TOKENIZE_BYTES,
        )
        tokens = json.loads(answer)["tokens"] if status == 200 else None
    except (aiohttp.ClientError, OSError, TooMuchError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tokens if isinstance(tokens, list) else None
