"""What an engine or a sidecar says may be anything: it costs its own requests, never the gateway."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from prfaas_gateway.chat_messages import RenderError
from prfaas_gateway.chat_template import ChatTemplate
from prfaas_gateway.cluster.tokenizers import TokenizerCache
from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.control import ControlError, _record, _refusal
from prfaas_gateway.engine_report import ModelFile
from prfaas_gateway.probes import _tokens_of_engine, probe_once
from prfaas_gateway.services import Services
from tests.gateway.tokenizers_for_tests import byte_tokenizer

DEEP = b"[" * 200_000
NESTED_LOOPS = "".join(f"{{% for a{n} in b %}}" for n in range(40)) + "{% endfor %}" * 40


class Answer:
    """As much of a response as readers use."""

    def __init__(self, body: bytes, status: int = 500) -> None:
        self.status = status
        self.content = self
        self._parts = [body]

    async def readany(self) -> bytes:
        return self._parts.pop() if self._parts else b""


def shared(folder: Path, files: dict[str, bytes]) -> tuple[list[ModelFile], str]:
    """Files as a gateway has fetched them before, and the name of their folder."""
    (folder / "d").mkdir()
    found = []
    for name, content in files.items():
        (folder / "d" / name).write_bytes(content)
        found.append(ModelFile(name, len(content), hashlib.sha256(content).hexdigest()))
    return found, "d"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": DEEP},
        {"tokenizer_config.json": b"\xff\xfe"},
        {"special_tokens_map.json": DEEP, "chat_template.jinja": b"{{ 1 }}"},
        {"chat_template.jinja": NESTED_LOOPS.encode()},
        {"chat_template.jinja": b"{{ " + b"(" * 50_000},
        {"chat_template.jinja": b"{{ " + b"-" * 50_000 + b"1 }}"},
        {"chat_template.jinja": b"{% extends 'x' %}"},
    ],
    ids=["deep-config", "no-text", "deep-map", "loops", "parentheses", "signs", "another-template"],
)
async def test_a_template_that_cannot_be_used_costs_chats_only(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    found, digest = shared(tmp_path, {"tokenizer.json": byte_tokenizer().to_str().encode(), **files})
    loaded = await TokenizerCache(tmp_path, 1 << 30).load(None, [], found, digest)  # type: ignore[arg-type]
    assert loaded.tokenizer.encode("a", add_special_tokens=False)
    if loaded.template is not None:
        with pytest.raises(RenderError):
            loaded.template.render({"messages": [{"role": "user", "content": "a"}]})


@pytest.mark.parametrize(
    "source",
    [
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ [1, 2, 3].pop(7) }}",
        "{{ messages[0].content.index('zz') }}",
        "{{ range(10 ** 9) }}",
        "{{ 'a'.encode('utf-77') }}",
        "{{ namespace(a=1).b.c }}",
        "{{ '%(a)s' % messages }}",
    ],
)
def test_whatever_a_template_does_is_the_prompts_trouble(source: str) -> None:
    with pytest.raises(RenderError):
        ChatTemplate(source, {}).render({"messages": [{"role": "user", "content": "a"}]})


@pytest.fixture
async def services(tmp_path: Path) -> Any:
    config = Config.model_validate(
        {
            "region": "here",
            "models": [{"name": "m", "tokenizer": tmp_path, "max_model_tokens": 1, "threshold_tokens": 1}],
            "decode_engines": [{"name": name, "url": "http://192.0.2.1:1"} for name in ("a", "b")],
        }
    )
    made = build_services(config, {}, None)
    yield made
    await close_services(made)


@pytest.mark.parametrize("body", [DEEP, b"{}", b"[]", b'{"tokens": 1}', b"\xff", b'{"tokens": "' + b"a" * 99])
async def test_tokens_that_are_none(services: Services, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    async def post_json(*_: Any) -> tuple[int, bytes]:
        return 200, body

    monkeypatch.setattr(services.decode, "post_json", post_json)
    assert await _tokens_of_engine(services, services.fleet.decoders[0], {}) is None


async def test_a_probe_that_fails_in_an_unknown_way_is_that_engines_own(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([ZeroDivisionError("a bug"), None])

    async def get(*_: Any) -> int:
        if (error := next(answers)) is not None:
            raise error
        return 200

    monkeypatch.setattr(services.decode, "get", get)
    await probe_once(services)
    assert [decoder.engine.reachable for decoder in services.fleet.decoders] == [None, True]
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    "body", [DEEP, b'{"error": ' + DEEP, b"\xff", b"[]", json.dumps({"error": 1}).encode()]
)
async def test_a_refusal_in_another_shape_is_known_by_its_status(body: bytes) -> None:
    error = await _refusal(Answer(body))  # type: ignore[arg-type]
    assert (error.code, error.retryable) == ("Http500", True)


@pytest.mark.parametrize("body", [DEEP, b"[]", b"\xff", b'{"units_landed": "x"}', b'{"units_landed": 1e999}'])
def test_a_record_in_another_shape_is_an_error_of_the_sidecar(body: bytes) -> None:
    with pytest.raises(ControlError) as caught:
        _record(body)
    assert caught.value.code == "ProtocolError"
