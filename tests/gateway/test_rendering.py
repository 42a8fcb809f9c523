"""Chats as a template sees them, and bounds of token counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from prfaas_gateway.chat_messages import RenderError
from prfaas_gateway.chat_template import ChatTemplate, load_chat_template
from prfaas_gateway.tokenizer import Tokenizer, UntokenisableError
from tests.gateway.tokenizers_for_tests import CHATML, byte_tokenizer, write_model

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
PARTS_TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}[{{ part.text }}]{% endfor %}{% endfor %}"
)


def render(source: str, fields: dict[str, Any], **settings: Any) -> str:
    """A chat request through a template."""
    return ChatTemplate(source, {"bos_token": "<s>"}, **settings).render({"messages": [USER], **fields})


@pytest.mark.parametrize(
    ("source", "fields", "expected"),
    [
        pytest.param(CHATML, {}, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", id="chatml"),
        pytest.param(
            CHATML,
            {"add_generation_prompt": False},
            "<|im_start|>user\nHi<|im_end|>\n",
            id="no-generation-prompt",
        ),
        pytest.param(
            CHATML,
            {"add_generation_prompt": False, "continue_final_message": True},
            "<|im_start|>user\nHi",
            id="continue",
        ),
        pytest.param(
            "{{ messages[0].content | trim }}!",
            {
                "messages": [{"role": "user", "content": "Hi  "}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
            "Hi",
            id="continue-trimmed",
        ),
        pytest.param("{{ bos_token }}{{ eos_token }}|", {}, "<s>|", id="special-tokens"),
        pytest.param(
            "{% if x %}\n  y\n{% endif %}\nz",
            {"chat_template_kwargs": {"x": 1}},
            "  y\nz",
            id="trimmed-blocks",
        ),
        pytest.param("{{ x }}", {"chat_template_kwargs": {"x": "auto"}}, "", id="auto-is-unset"),
        pytest.param("{{ tools | tojson }}", {}, "null", id="no-tools"),
        pytest.param(
            "{{ tools[0] | tojson }}",
            {
                "tools": [
                    {
                        "type": "function",
                        "x": 1,
                        "function": {"parameters": {"a": "<ö>"}, "name": "f", "y": 2},
                    }
                ]
            },
            '{"type": "function", "function": '
            '{"name": "f", "description": null, "parameters": {"a": "<ö>"}}}',
            id="tools",
        ),
        pytest.param(
            "{{ tools | length }}", {"tools": [TOOL], "tool_choice": "auto"}, "1", id="tools-by-choice"
        ),
        pytest.param(
            "no use", {"tools": [TOOL], "tool_choice": "none"}, "no use", id="a-template-without-tools"
        ),
        pytest.param("{{ tools }}", {"tool_choice": "none"}, "None", id="no-tools-no-choice"),
        pytest.param("{{ documents[0].title }}", {"documents": [{"title": "T"}]}, "T", id="documents"),
        pytest.param(
            "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}",
            {"messages": [USER, USER]},
            "x",
            id="loop-controls",
        ),
        pytest.param("{% generation %}a{% endgeneration %}b", {}, "ab", id="generation-block"),
        pytest.param("{{ strftime_now('%%') }}", {}, "%", id="strftime"),
        pytest.param("{{ enable_thinking }}", {"reasoning_effort": "none"}, "False", id="effort-none"),
        pytest.param("{{ enable_thinking }}", {"reasoning_effort": "low"}, "True", id="effort"),
        pytest.param(
            "{{ messages[0].content }}",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]},
            "a\nb",
            id="parts-joined",
        ),
        pytest.param(PARTS_TEMPLATE, {}, "[Hi]", id="parts-wanted"),
        pytest.param(
            "{{ messages[0].tool_calls[0].function.arguments.city }}",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "1",
                                "type": "function",
                                "function": {"name": "f", "arguments": '{"city": "Ulm"}'},
                            }
                        ],
                    }
                ]
            },
            "Ulm",
            id="arguments-parsed",
        ),
    ],
)
def test_rendered(source: str, fields: dict[str, Any], expected: str) -> None:
    assert render(source, fields) == expected


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("{{ raise_exception('no') }}", {}),
        ("{{ messages.append(1) }}", {}),
        ("{{ ''.__class__.__mro__ }}", {}),
        ("{{ messages[0].content + 1 }}", {}),
        (CHATML, {"continue_final_message": True}),
        ("x", {"continue_final_message": True, "add_generation_prompt": False}),
        (CHATML, {"chat_template_kwargs": {"messages": []}}),
        (CHATML, {"chat_template_kwargs": 5}),
        (CHATML, {"tools": "x"}),
        ("{{ tools | length }}", {"tools": [TOOL], "tool_choice": "none"}),
        (CHATML, {"tools": [{"type": "other"}]}),
        (CHATML, {"messages": [{"role": "developer", "content": "x"}]}),
        (CHATML, {"messages": [{"role": "assistant", "tool_calls": [{"type": "other"}]}]}),
        (CHATML, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]}]}),
    ],
)
def test_not_rendered_here(source: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RenderError):
        render(source, fields)


def test_rendering_does_not_change_the_request() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    fields = {
        "messages": [{"role": "assistant", "content": "x", "tool_calls": [call]}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    render(CHATML, fields)
    assert call["function"] == {"name": "f", "arguments": "{}"}
    assert fields["messages"][0]["content"] == "x"  # type: ignore[index]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, "string"),
        (PARTS_TEMPLATE, "openai"),
        ("{% for m in messages %}{% set c = m.content %}{% for p in c %}x{% endfor %}{% endfor %}", "openai"),
        (
            "{% macro show(c) %}{% for p in c %}x{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            "openai",
        ),
        (
            "{% for m in messages %}{% for c in m.tool_calls %}x{% endfor %}{{ m.content }}{% endfor %}",
            "string",
        ),
    ],
)
def test_whether_a_template_wants_parts(source: str, expected: str) -> None:
    assert ChatTemplate(source, {}).content_format == expected
    assert ChatTemplate(source, {}, content_format="string").content_format == "string"
    assert ChatTemplate(source, {}, content_format="openai").content_format == "openai"


def test_a_template_file_wins_over_the_settings(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ eos_token }}")
    template = load_chat_template(folder)
    assert template is not None
    assert template.render({"messages": [USER]}) == "<|im_end|>"
    override = tmp_path / "other.jinja"
    override.write_text("{{ y }}")
    overridden = load_chat_template(folder, override, {"y": 7})
    assert overridden is not None
    assert overridden.render({"messages": [USER]}) == "7"


def test_a_model_without_a_template(tmp_path: Path) -> None:
    assert load_chat_template(write_model(tmp_path / "m", template=None)) is None


def tokenizer(folder: Path, made: RustTokenizer) -> Tokenizer:
    """Through a file, as in production."""
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def nfc(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Normalising can lengthen a text, which the bound has to allow for."""
    made = byte_tokenizer()
    made.normalizer = normalizers.NFC()
    return tokenizer(tmp_path_factory.mktemp("nfc"), made)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes."""
    return tokenizer(tmp_path_factory.mktemp("plain"), byte_tokenizer())


@given(text=st.text() | st.text(alphabet="\u0958\U0001d160\u0344\ufb2c<|im_start|>"))
def test_no_prompt_has_more_tokens_than_the_bound(nfc: Tokenizer, plain: Tokenizer, text: str) -> None:
    for made in (nfc, plain):
        try:
            count = len(made.encode(text, add_special_tokens=True))
        except UntokenisableError:
            continue
        most = made.most_tokens(text)
        assert most is not None
        assert count <= most


def test_half_a_surrogate_pair_is_no_text(plain: Tokenizer) -> None:
    with pytest.raises(UntokenisableError):
        plain.encode("\ud800", add_special_tokens=False)
    assert plain.most_tokens("\ud800") is None


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda t: setattr(t, "normalizer", normalizers.NFKC()), id="nfkc"),
        pytest.param(
            lambda t: setattr(
                t, "normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
            ),
            id="sequence",
        ),
    ],
)
def test_bytes_bound_nothing_where_a_normaliser_adds_to_them(tmp_path: Path, made: Any) -> None:
    changed = byte_tokenizer()
    made(changed)
    assert tokenizer(tmp_path, changed).most_tokens("x") is None


def test_bytes_bound_nothing_in_a_vocabulary_of_words(tmp_path: Path) -> None:
    words = RustTokenizer(models.WordLevel({"x": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert tokenizer(tmp_path, words).most_tokens("x") is None


def test_a_file_that_truncates_does_not_truncate_here(tmp_path: Path) -> None:
    made = byte_tokenizer()
    made.enable_truncation(2)
    assert len(tokenizer(tmp_path, made).encode("abcdef", add_special_tokens=True)) == 6
