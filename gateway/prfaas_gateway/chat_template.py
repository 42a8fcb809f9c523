"""A model's chat template, rendered in a sandbox with the functions that templates expect.

Templates come with the model, so they are trusted as much as its weights; what the client writes is only ever
data to them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Never

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prfaas_gateway.chat_messages import ContentFormat, RenderError, conversation, tool_definitions

_FINAL_MARK = "\N{SYMBOL FOR END OF TEXT}prfaas-end-of-message "
"""Ends in a space: a template that trims messages trims it, and then the text before it is trimmed too."""
_RESERVED = frozenset({"chat_template", "tokenize", "return_dict", "messages", "tools", "conversation"})
_ALWAYS_PASSED = frozenset({"documents", "add_generation_prompt"})


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote; for rendering it is only a block."""

    tags = {"generation"}  # noqa: RUF012  read by jinja from the class

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> Never:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  engines use their local time here too


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """One template, compiled, with the special tokens it may use."""

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        defaults: dict[str, Any] | None = None,
        content_format: str = "auto",
    ) -> None:
        environment = _environment()
        self._template = environment.from_string(source)
        tree = environment.parse(source)
        self._source = source
        self._variables = jinja2.meta.find_undeclared_variables(tree)
        self._special_tokens = special_tokens
        self._defaults = dict(defaults or {})
        self.content_format: ContentFormat = "string"
        if content_format == "openai" or (content_format == "auto" and iterates_content(tree)):
            self.content_format = "openai"

    def render(self, fields: dict[str, Any]) -> str:
        """The prompt text of a chat request.

        Raises:
            RenderError: this request cannot be rendered here, or the template refuses it.
        """
        if self._whether_tools_show_is_unknown(fields):
            raise RenderError("whether tools that may not be called are shown is the engine's setting")
        arguments = self._arguments(fields)
        extending = bool(arguments.pop("continue_final_message", False))
        messages = conversation(fields["messages"], self.content_format)
        if extending:
            if arguments.get("add_generation_prompt"):
                raise RenderError("continue_final_message and add_generation_prompt exclude each other")
            _mark_end(messages)
        try:
            text = self._template.render(
                messages=messages,
                tools=tool_definitions(fields.get("tools")),
                **{**self._special_tokens, **arguments},
            )
        except (
            Exception
        ) as error:  # the template is the model's: it may fail in any way, endless recursion too
            raise RenderError(f"the chat template refused the request ({type(error).__name__})") from error
        return _cut_at_mark(text) if extending else text

    def _whether_tools_show_is_unknown(self, fields: dict[str, Any]) -> bool:
        """An engine with ``--exclude-tools-when-tool-choice-none`` shows none, others show all."""
        unused = fields.get("tools") is not None and fields.get("tool_choice") == "none"
        return unused and "tools" in self._variables

    def _arguments(self, fields: dict[str, Any]) -> dict[str, Any]:
        given = fields.get("chat_template_kwargs") or {}
        if not isinstance(given, dict) or _RESERVED & given.keys():
            raise RenderError("these chat_template_kwargs are rendered by the engine only")
        arguments = self._defaults | {
            name: value for name, value in given.items() if value not in (None, "auto")
        }
        arguments["add_generation_prompt"] = fields.get("add_generation_prompt", True)
        arguments["continue_final_message"] = fields.get("continue_final_message", False)
        effort = fields.get("reasoning_effort")
        if effort is not None:
            arguments["reasoning_effort"] = effort
            if "enable_thinking" not in given:
                arguments["enable_thinking"] = effort != "none"
        if fields.get("documents") is not None:
            arguments["documents"] = fields["documents"]
        wanted = self._variables | _ALWAYS_PASSED | {"continue_final_message"}
        return {"documents": None, **{name: value for name, value in arguments.items() if name in wanted}}


def _mark_end(messages: list[dict[str, Any]]) -> None:
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] = content + _FINAL_MARK
    elif content:
        content[-1]["text"] += _FINAL_MARK
    else:
        raise RenderError("the final message has no text to continue")


def _cut_at_mark(text: str) -> str:
    before, mark, after = text.rpartition(_FINAL_MARK.strip())
    if not mark:
        raise RenderError("the template does not keep the final message, so it cannot be continued")
    return before if after.startswith(" ") else before.rstrip()


def iterates_content(tree: jinja2.nodes.Template) -> bool:
    """Whether a template loops over the parts of a message's content, and so wants parts, not a string."""
    names = _content_names(tree)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(jinja2.nodes.For))


def _content_names(tree: jinja2.nodes.Template) -> set[str]:
    names = {"content"}
    for assign in tree.find_all(jinja2.nodes.Assign):
        if isinstance(assign.target, jinja2.nodes.Name) and _is_content(assign.node, set()):
            names.add(assign.target.name)
    macros = {macro.name: macro for macro in tree.find_all(jinja2.nodes.Macro)}
    for call in tree.find_all(jinja2.nodes.Call):
        macro = macros.get(call.node.name) if isinstance(call.node, jinja2.nodes.Name) else None
        if macro is not None:
            for parameter, argument in zip(macro.args, call.args, strict=False):
                if _is_content(argument, set()):
                    names.add(parameter.name)
    return names


def _is_content(node: jinja2.nodes.Node | None, names: set[str]) -> bool:
    while isinstance(node, jinja2.nodes.Filter):
        node = node.node
    if isinstance(node, jinja2.nodes.Name):
        return node.name in names
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return False


def load_chat_template(
    folder: Path,
    override: Path | None = None,
    defaults: dict[str, Any] | None = None,
    content_format: str = "auto",
) -> ChatTemplate | None:
    """The template of a model folder, or None when it has none or several without a default.

    Raises:
        OSError, ValueError, jinja2.TemplateSyntaxError: a file cannot be read or used.
    """
    settings = _json_file(folder / "tokenizer_config.json")
    source = _template_source(folder, override, settings)
    if source is None:
        return None
    tokens = _special_tokens(_json_file(folder / "special_tokens_map.json") | settings)
    return ChatTemplate(source, tokens, defaults, content_format)


def _template_source(folder: Path, override: Path | None, settings: dict[str, Any]) -> str | None:
    if override is not None:
        return override.read_text()
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    source = settings.get("chat_template")
    return source if isinstance(source, str) else None


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for name, value in settings.items():
        if not name.endswith("_token"):
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _json_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")  # noqa: TRY004  the file's content, not an argument
    return content
