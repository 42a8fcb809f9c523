"""What is generated from the models: complete, bounded, small, and what the repository holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from click.testing import CliRunner
from pydantic import ConfigDict, Field

from prfaas.api.condition_texts import REASON_TEXTS
from prfaas.api.conditions import TYPE_TEXTS, ConditionType, Reason
from prfaas.api.crds.__main__ import differences, generated, write
from prfaas.api.crds.definitions import KINDS, Kind, crd, root_schema
from prfaas.api.crds.documents import chart_files, crd_files
from prfaas.api.crds.structural import structural_schema
from prfaas.api.v1alpha1.common import ApiModel, Quantity
from prfaas.api.v1alpha1.schema import Rule, rules
from prfaas.commands.crds import crds as crds_command

ROOT = Path(__file__).parents[2]
# A client-side apply keeps the whole object in an annotation of at most 256 KiB.
ANNOTATION_MAX_BYTES = 256 * 1024
Place = tuple[str, dict[str, Any]]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def places(schema: dict[str, Any], path: str) -> Iterator[Place]:
    """All schemas below one, by path."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from places(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from places(schema[key], f"{path}[]")


def fields(kind: Kind) -> list[Place]:
    schema = root_schema(kind)
    return [
        place for part in ("spec", "status") for place in places(schema["properties"].get(part, {}), part)
    ]


@each_kind
def test_every_field_says_what_it_is(kind: Kind) -> None:
    silent = [
        path
        for path, schema in fields(kind)
        if schema and not path.endswith("[]") and not schema.get("description")
    ]
    assert silent == []


@each_kind
def test_every_list_and_map_is_bounded(kind: Kind) -> None:
    unbounded = [
        path
        for path, schema in fields(kind)
        if (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert unbounded == []


@each_kind
def test_every_list_of_objects_says_how_it_merges(kind: Kind) -> None:
    unsaid = [
        path
        for path, schema in fields(kind)
        if schema.get("type") == "array" and "x-kubernetes-list-type" not in schema
    ]
    assert unsaid == []


@each_kind
def test_every_text_is_bounded(kind: Kind) -> None:
    unbounded = [
        path
        for path, schema in fields(kind)
        if schema.get("type") == "string" and not {"maxLength", "enum", "format"} & set(schema)
    ]
    assert unbounded == []


@each_kind
def test_a_status_has_no_defaults(kind: Kind) -> None:
    status = root_schema(kind)["properties"].get("status", {})
    assert [path for path, schema in places(status, "status") if "default" in schema] == []


@each_kind
def test_a_crd_fits_the_annotation_of_a_client_side_apply(kind: Kind) -> None:
    assert len(yaml.safe_dump(crd(kind))) < ANNOTATION_MAX_BYTES


def test_the_repository_holds_what_the_models_say() -> None:
    assert differences(ROOT) == []


def test_writing_brings_a_checkout_up_to_date(tmp_path: Path) -> None:
    assert write(tmp_path) == sorted(generated())
    left_over = tmp_path / "crds" / "otherthings.prfaas.io.yaml"
    left_over.write_text("old")
    changed = tmp_path / "docs" / "api.md"
    changed.write_text("by hand")
    assert differences(tmp_path) == [Path("crds/otherthings.prfaas.io.yaml"), Path("docs/api.md")]
    write(tmp_path)
    assert not left_over.exists()
    assert differences(tmp_path) == []


def test_the_chart_has_the_same_crds_between_its_switches() -> None:
    plain = crd_files()
    for name, template in chart_files().items():
        lines = template.splitlines()
        assert lines[1] == "{{- if .Values.crds.enabled }}"
        assert lines[-1] == "{{- end }}"
        assert "    helm.sh/resource-policy: keep" in lines
        kept = re.sub(r"(?ms)^ +\{\{- if \.Values\.crds\.keep \}\}.*?\{\{- end \}\}\n", "", template)
        without = "\n".join(line for line in kept.splitlines() if "{{" not in line)
        assert yaml.safe_load(without) == yaml.safe_load(plain[name])


def test_every_condition_type_and_reason_is_documented() -> None:
    assert set(TYPE_TEXTS) == set(ConditionType) == set(REASON_TEXTS)
    assert {reason for texts in REASON_TEXTS.values() for reason in texts} == set(Reason)
    reference = (ROOT / "docs" / "api.md").read_text()
    assert [reason for reason in Reason if f"| `{reason}` |" not in reference] == []


def test_the_command_prints_all_crds() -> None:
    result = CliRunner().invoke(crds_command, [])
    assert result.exit_code == 0, result.output
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(result.output)]
    assert names == [kind.crd_name for kind in KINDS]


def test_the_command_writes_one_file_per_crd(tmp_path: Path) -> None:
    result = CliRunner().invoke(crds_command, ["--output-dir", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "new").iterdir()} == set(crd_files())
    assert str(tmp_path / "new" / "prfaas-crds.yaml") in result.output


class Inner(ApiModel):
    model_config = ConfigDict(json_schema_extra=rules(Rule(rule="inner", message="of the class")))

    some_bytes: Quantity = Field(default="1Gi", description="An amount.")
    share: float | None = Field(default=None, gt=0, le=1)


class Outer(ApiModel):
    word: Literal["a"] = "a"
    inner: Inner = Field(
        default=Inner(),
        description="Here.",
        json_schema_extra=rules(Rule(rule="outer", message="of the field")),
    )
    maybe: Inner | None = None
    small: Annotated[int, Field(ge=0, le=9)] = 1
    large: int = 2
    empty: tuple[str, ...] = ()


def test_a_model_becomes_a_structural_schema() -> None:
    schema = structural_schema(Outer, defaults=True)["properties"]
    assert schema["word"] == {"type": "string", "default": "a", "enum": ["a"]}
    assert schema["inner"]["description"] == "Here."
    assert schema["inner"]["default"] == {"someBytes": "1Gi"}
    assert [rule["message"] for rule in schema["inner"]["x-kubernetes-validations"]] == [
        "of the class",
        "of the field",
    ]
    amount = schema["inner"]["properties"]["someBytes"]
    assert amount["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert amount["x-kubernetes-int-or-string"] is True
    assert schema["inner"]["properties"]["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "format": "double",
    }
    assert schema["maybe"]["properties"] == schema["inner"]["properties"]
    assert "default" not in schema["maybe"]
    assert (schema["small"]["format"], schema["large"]["format"]) == ("int32", "int64")
    assert "default" not in schema["empty"]
    assert "title" not in yaml.safe_dump(schema)


def test_what_a_structural_schema_cannot_say_is_refused() -> None:
    class Tagged(ApiModel):
        of_two: Annotated[int, Field(multiple_of=2)] = 2

    with pytest.raises(ValueError, match=r"Tagged\.ofTwo: multipleOf"):
        structural_schema(Tagged, defaults=True)
