"""The gateway and vLLM's own request path make the same tokens of the same request."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import prfaas_setup
from prfaas_gateway.chat_template import load_chat_template
from prfaas_gateway.classify import Endpoint, classify
from prfaas_gateway.prefix_index import Scope
from prfaas_gateway.prompt import PreparedPrompt, PromptMaker
from prfaas_gateway.tokenizer import Tokenizer
from tests.gateway.tokenizers_for_tests import CHATML

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ODD = "Grüße, 日本語 🙂 <|im_start|>user\n\n  tabs\tand  spaces \r\n e\u0301 \ufb01 1234567890"
USER = {"role": "user", "content": ODD}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "find", "arguments": '{"q": "x<y", "n": [1, 2]}'},
        }
    ],
}
RESULT = {
    "role": "tool",
    "tool_call_id": "c1",
    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
            "name": "find",
            "description": "Finds <things> & more",
        },
    },
    {"type": "function", "function": {"name": "bare", "strict": True}},
]
EVERYTHING = """
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}
{%- for m in messages %}
    [{{ m | tojson }}|{{ m.content if m.content is string else m.content | length }}]
    {%- for call in m.tool_calls or [] %}<{{ call.function.name }}
    {{- call.function.arguments | tojson }}>{% endfor %}
{% endfor %}
{%- if add_generation_prompt %}GO{% endif %}
{{- documents | tojson }}{{ enable_thinking }}{{ bos_token }}{{ eos_token }}"""
PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for p in m.content %}({{ p.type }}={{ p.text }}){% endfor %}"
    "{% endfor %}"
)
TRIMMED = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
OPEN = {"add_generation_prompt": False, "continue_final_message": True}

CASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "text": (TEXT, {"prompt": ODD}, None),
    "text-no-special": (TEXT, {"prompt": ODD, "add_special_tokens": False}, None),
    "text-empty-salt": (TEXT, {"prompt": ODD, "cache_salt": "s"}, None),
    "ids": (TEXT, {"prompt": [5, 6, 7]}, None),
    "chat": (CHAT, {"messages": [USER]}, None),
    "chat-special": (CHAT, {"messages": [USER], "add_special_tokens": True}, None),
    "chat-system": (
        CHAT,
        {"messages": [{"role": "system", "content": "S"}, USER, {"role": "assistant", "content": "A"}, USER]},
        None,
    ),
    "chat-billing": (
        CHAT,
        {"messages": [{"role": "system", "content": "x-anthropic-billing-header: 1\nS"}, USER]},
        None,
    ),
    "chat-parts": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": ODD}, {"type": "text", "text": "2"}]}
            ]
        },
        None,
    ),
    "chat-no-generation": (CHAT, {"messages": [USER], "add_generation_prompt": False}, None),
    "chat-continue": (CHAT, {"messages": [USER, {"role": "assistant", "content": "So "}], **OPEN}, None),
    "continue-trimmed": (
        CHAT,
        {"messages": [USER, {"role": "assistant", "content": "So "}], **OPEN},
        TRIMMED,
    ),
    "continue-parts": (CHAT, {"messages": [USER, {"role": "assistant", "content": "So "}], **OPEN}, PARTS),
    "parts-template": (CHAT, {"messages": [{"role": "system", "content": "S"}, USER]}, PARTS),
    "parts-template-null": (CHAT, {"messages": [USER, {"role": "assistant", "content": None}, USER]}, PARTS),
    "tools": (CHAT, {"messages": [USER, CALL, RESULT], "tools": TOOLS, "tool_choice": "auto"}, EVERYTHING),
    "tools-unused": (CHAT, {"messages": [USER], "tools": TOOLS, "tool_choice": "none"}, CHATML),
    "no-tools": (CHAT, {"messages": [USER]}, EVERYTHING),
    "reasoning": (
        CHAT,
        {"messages": [{"role": "assistant", "content": "A", "reasoning": "R"}, USER]},
        EVERYTHING,
    ),
    "reasoning-old": (
        CHAT,
        {"messages": [{"role": "assistant", "content": "A", "reasoning_content": "R"}, USER]},
        EVERYTHING,
    ),
    "names": (CHAT, {"messages": [{"role": "user", "name": "n", "content": "x", "extra": 1}]}, EVERYTHING),
    "documents": (CHAT, {"messages": [USER], "documents": [{"title": "T", "text": "x"}]}, EVERYTHING),
    "kwargs": (CHAT, {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}}, EVERYTHING),
    "effort": (CHAT, {"messages": [USER], "reasoning_effort": "low"}, EVERYTHING),
    "chatml": (CHAT, {"messages": [USER, {"role": "assistant", "content": ""}]}, CHATML),
    "bad-arguments": (
        CHAT,
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1"}}
                    ],
                },
            ]
        },
        EVERYTHING,
    ),
    "call-with-index": (
        CHAT,
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "1",
                            "type": "function",
                            "function": {"arguments": "{}", "name": "f"},
                        }
                    ],
                },
            ]
        },
        EVERYTHING,
    ),
    "no-calls": (
        CHAT,
        {"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": []}]},
        EVERYTHING,
    ),
}


@pytest.fixture(scope="module")
def model() -> Path:
    """The real model's folder."""
    return prfaas_setup.model_path("smollm2-135m")


@pytest.fixture(scope="module")
def of_vllm(model: Path) -> dict[str, Any]:
    """What vLLM makes of every case, by one process, since starting it takes long."""
    cases = [{"path": path, "body": body, "template": template} for path, body, template in CASES.values()]
    done = subprocess.run(
        [prfaas_setup.engine_python(), Path(__file__).with_name("vllm_tokens.py")],
        input=json.dumps({"model": str(model), "cases": cases}),
        env={**os.environ, **prfaas_setup.engine_env()},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stderr[-2000:]
    return dict(zip(CASES, json.loads(lines[-1].removeprefix("RESULTS ")), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_same_tokens(model: Path, of_vllm: dict[str, Any], name: str, tmp_path: Path) -> None:
    path, body, template = CASES[name]
    override = None
    if template is not None:
        override = tmp_path / "template.jinja"
        override.write_text(template)
    maker = PromptMaker(
        Tokenizer(model / "tokenizer.json"),
        load_chat_template(model, override),
        threshold_tokens=0,
        block_tokens=16,
    )
    prepared = maker.prepare(classify(Endpoint(path), body), body, Scope("m"))
    assert isinstance(prepared, PreparedPrompt), prepared
    assert json.loads(prepared.ids_json) == of_vllm[name]
