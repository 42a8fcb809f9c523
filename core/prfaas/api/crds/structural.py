"""JSON schema as pydantic writes it, turned into the structural schema that an API server takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from prfaas.api.v1alpha1.schema import VALIDATIONS

Schema = dict[str, Any]

INT32_MAX = 2**31 - 1
# Kept in this order, so that a schema reads from the general to the particular.
_KEPT = (
    "description",
    "type",
    "format",
    "default",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "anyOf",
    "items",
    "additionalProperties",
    "properties",
    "required",
)
_DROPPED = {"title", "$defs"}


def structural_schema(model: type[BaseModel], *, defaults: bool) -> Schema:
    """The structural schema of a model. Without `defaults` (for a status) the server fills in nothing.

    Raises:
        ValueError: the model uses something that no structural schema can say.
    """
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(document, document.get("$defs", {}), where=model.__name__, defaults=defaults)


def _convert(raw: Schema, definitions: dict[str, Schema], *, where: str, defaults: bool) -> Schema:
    schema = _without_null(_with_references(raw, definitions), definitions)
    if "const" in schema:
        schema = {"enum": [schema["const"]]} | {key: schema[key] for key in schema if key != "const"}
    unknown = {key for key in schema if not key.startswith("x-kubernetes-")} - set(_KEPT) - _DROPPED
    if unknown:
        raise ValueError(f"{where}: {', '.join(sorted(unknown))} cannot stand in a structural schema")

    result = {key: schema[key] for key in _KEPT if key in schema}
    default = _without_empties(result.pop("default", None))
    if defaults and default is not None:
        result["default"] = default
    if "exclusiveMinimum" in result:
        # OpenAPI 3.0 has a flag where JSON schema has a number.
        result["minimum"], result["exclusiveMinimum"] = result["exclusiveMinimum"], True
    if result.get("type") == "integer":
        result["format"] = "int32" if result.get("maximum", 2**63) <= INT32_MAX else "int64"
    if result.get("type") == "number":
        result["format"] = "double"
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _convert(result[key], definitions, where=f"{where}.{key}", defaults=defaults)
    if "properties" in result:
        result["properties"] = {
            name: _convert(value, definitions, where=f"{where}.{name}", defaults=defaults)
            for name, value in result["properties"].items()
        }
    result.update({key: schema[key] for key in sorted(schema) if key.startswith("x-kubernetes-")})
    return result


def _without_empties(default: Any) -> Any:
    """A default without empty lists and maps: they mean the same as none, and only make objects longer."""
    if isinstance(default, dict):
        default = {
            key: left for key, value in default.items() if (left := _without_empties(value)) is not None
        }
    return None if default in ({}, [], ()) else default


def _with_references(raw: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema with its `$ref` put in its place; what stands beside the reference wins, rules add up."""
    if "$ref" not in raw:
        return raw
    beside = {key: value for key, value in raw.items() if key != "$ref"}
    referred = _with_references(definitions[raw["$ref"].rpartition("/")[2]], definitions)
    both = referred | beside
    rules = [*referred.get(VALIDATIONS, []), *beside.get(VALIDATIONS, [])]
    return both | {VALIDATIONS: rules} if rules else both


def _without_null(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`X | null` is X: a field that may be missing is simply not required."""
    choices = schema.get("anyOf")
    if choices is None or {"type": "null"} not in choices:
        return schema
    left = [choice for choice in choices if choice != {"type": "null"}]
    beside = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(left) != 1:
        return beside | {"anyOf": left}
    return _with_references(left[0] | beside, definitions)
