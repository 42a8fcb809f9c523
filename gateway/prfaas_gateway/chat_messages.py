"""Chat messages in the shape that the engine hands to a template.

The engine does not give the client's messages to the template as they came: it keeps certain fields, flattens
content parts, and parses tool arguments. The same has to happen here, or both would count different prompts.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

ContentFormat = Literal["string", "openai"]

_VOLATILE_SYSTEM_LINE = "x-anthropic-billing-header"
"""A line of this kind changes with every request; the engine drops it from system messages."""


class RenderError(ValueError):
    """The messages cannot be rendered here; the engine may still be able to."""


def conversation(messages: list[dict[str, Any]], content_format: ContentFormat) -> list[dict[str, Any]]:
    """The client's messages as a template sees them. The input is not changed.

    Raises:
        RenderError: a message has a form that is not rendered here.
    """
    return [_message(message, content_format) for message in messages]


def _message(message: dict[str, Any], content_format: ContentFormat) -> dict[str, Any]:
    role = message["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise RenderError(f"messages of role {role[:32]!r} are rendered by the engine only")
    parts = _parts(message.get("content"))
    if role == "system":
        parts = _without_volatile_line(parts)
    result: dict[str, Any] = {"role": role}
    if content_format == "openai" and role != "tool":
        result["content"] = [{"type": "text", **extra, "text": text} for text, extra in parts]
    else:
        result["content"] = "\n".join(text for text, _ in parts)
    if role == "assistant":
        _add_assistant_fields(result, message)
    elif role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    for name in ("name", "task"):
        if isinstance(message.get(name), str):
            result[name] = message[name]
    return result


def _parts(content: Any) -> list[tuple[str, dict[str, Any]]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [(content, {})]
    parts: list[tuple[str, dict[str, Any]]] = []
    for part in content:
        if isinstance(part, str):
            parts.append((part, {}))
            continue
        if part.keys() - {"type", "text"}:
            raise RenderError("text parts with further fields are rendered by the engine only")
        parts.append((part["text"], {}))
    return parts


def _without_volatile_line(parts: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    kept = []
    for text, extra in parts:
        if text.startswith(_VOLATILE_SYSTEM_LINE):
            rest = text.partition("\n")[2]
            if rest:
                kept.append((rest, extra))
        else:
            kept.append((text, extra))
    return kept


def _add_assistant_fields(result: dict[str, Any], message: dict[str, Any]) -> None:
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")
    if reasoning is not None:
        result["reasoning"] = result["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise RenderError("tool_calls must be a list")
    if calls:
        result["tool_calls"] = [_tool_call(call) for call in calls]


def _tool_call(call: Any) -> dict[str, Any]:
    """A tool call with parsed arguments, its keys in the order in which the engine's validation leaves them.

    Templates that print a whole call as JSON show that order.
    """
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function":
        raise RenderError("only tool calls of type function are rendered here")
    if not all(
        isinstance(value, str) for value in (call.get("id"), function.get("name"), function.get("arguments"))
    ):
        raise RenderError("incomplete tool calls are rendered by the engine only")
    arguments: Any = {}
    if function["arguments"]:
        try:
            arguments = json.loads(function["arguments"])
        except (ValueError, RecursionError):
            arguments = {}
    parsed = arguments if isinstance(arguments, dict) else {}
    inner = {"arguments": parsed, "name": function["name"], **_others(function, "arguments", "name")}
    return {
        "id": call["id"],
        "function": inner,
        "type": "function",
        **_others(call, "id", "function", "type"),
    }


def _others(fields: dict[str, Any], *known: str) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in fields.items() if name not in known}


def tool_definitions(tools: Any) -> list[dict[str, Any]] | None:
    """Tools as a template sees them: known fields only, in the engine's order, absent ones as None.

    Raises:
        RenderError: something else than a list of functions.
    """
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise RenderError("tools must be a list")
    definitions = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type", "function") != "function":
            raise RenderError("only tools of type function are rendered here")
        if tool.get("defer_loading") is not None or function.get("defer_loading") is not None:
            raise RenderError("deferred tools are rendered by the engine only")
        known: dict[str, Any] = {name: function.get(name) for name in ("name", "description", "parameters")}
        if function.get("strict") is not None:
            known["strict"] = function["strict"]
        definitions.append({"type": "function", "function": known})
    return definitions
