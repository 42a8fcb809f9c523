"""Looking after engines and sidecars: do they answer, and do they tokenise as this gateway does."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Iterable
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
    """Probe everything, again and again. Ends by being cancelled."""
    while True:
        await probe_once(services)
        await asyncio.sleep(services.config.health.probe_seconds)


async def probe_once(services: Services) -> None:
    """Probe every engine and sidecar side by side, each within its deadline."""
    if services.credentials is not None:
        await _refresh(services.credentials)
    fleet = services.fleet
    await probe_engines(services, (*fleet.decoders, *fleet.prefillers))


async def probe_engines(services: Services, engines: Iterable[Decoder | Prefiller]) -> None:
    """Probe these and their sidecars, a bounded number at a time."""
    turn = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def probe(engine: Decoder | Prefiller) -> None:
        async with turn:
            # The sidecar first: it says which files to compare the engine's tokens with.
            await _probe_sidecar(services, engine)
            if isinstance(engine, Decoder):
                await _probe_decoder(services, engine)

    await asyncio.gather(*map(probe, engines))


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
    if services.control is None or target is None:
        return
    try:
        if services.cluster is None:
            await services.control.probe(target)
        else:
            services.cluster.heard(engine.uid, await services.control.engine(target))
    except ControlError as error:
        _note(engine, engine.sidecar, False, "sidecar", error.code)
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
    except (aiohttp.ClientError, OSError, TimeoutError, TooMuchError, ValueError, KeyError, TypeError):
        return None
    return tokens if isinstance(tokens, list) else None
