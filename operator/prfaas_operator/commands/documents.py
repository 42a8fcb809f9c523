"""YAML documents that a command is given, and pools in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import click
import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from prfaas.api.v1alpha1 import POOL_CLASSES, Pool
from prfaas_operator.injection import Settings, settings_of

EXAMPLE_SETTINGS = Settings(
    region="region",
    trust_domain="example.org",
    sidecar_image="prfaas-sidecar",
    connector_image="prfaas-connector",
)
"""What is printed without the operator's configuration. A revision's hash depends on it only with
`sidecar.upgrade: Rolling`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object, and where it was."""

    source: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content.get("kind", ""))

    def __str__(self) -> str:
        metadata = self.content.get("metadata")
        name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
        return f"{self.source}: {self.kind or 'document without kind'} {name}"


def read_documents(files: tuple[IO[str], ...]) -> Iterator[Document]:
    """Every object of the files, members of lists among them.

    Raises:
        click.ClickException: a file is not YAML, or a document of it is no object.
    """
    for file in files:
        source = "standard input" if file.name in ("-", "<stdin>") else str(file.name)
        try:
            contents = list(yaml.safe_load_all(file))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{source}: not YAML: {error}") from error
        for content in contents:
            if content is None:
                continue
            if not isinstance(content, dict):
                raise click.ClickException(f"{source}: a document is no object with kind and metadata")
            members = content.get("items") if str(content.get("kind", "")).endswith("List") else [content]
            for member in members if isinstance(members, list) else []:
                if isinstance(member, dict):
                    yield Document(source, member)


def pool_of(document: Document) -> Pool | list[str]:
    """The pool, or what is wrong with it, each with its field. The API server's own rules are not applied."""
    try:
        return POOL_CLASSES[document.kind].model_validate(document.content)  # type: ignore[index]  # asked before
    except ValidationError as error:
        return [
            f"{_path(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)
        ]


def is_pool(document: Document) -> bool:
    """Whether it is of one of the kinds that have pods."""
    return document.kind in POOL_CLASSES


def read_settings(file: IO[str] | None) -> Settings:
    """The operator's configuration, or that of the example.

    Raises:
        click.ClickException: the file cannot be used.
    """
    if file is None:
        return EXAMPLE_SETTINGS
    try:
        content = yaml.safe_load(file)
        return settings_of(content if isinstance(content, dict) else {})
    except yaml.YAMLError as error:
        raise click.ClickException(f"{file.name}: not YAML: {error}") from error
    except ValidationError as error:
        lines = "\n".join(
            f"{file.name}: {'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise click.ClickException(lines) from error


def _path(parts: tuple[int | str, ...]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{to_camel(part)}"
    return text.removeprefix(".") or "the whole"
