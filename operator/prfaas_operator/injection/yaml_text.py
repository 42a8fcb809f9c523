"""YAML as the project writes it into objects: the same text from libyaml and from Python, which is slow."""

from __future__ import annotations

from typing import Any

import yaml

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def yaml_text(document: Any) -> str:
    """Keys in their order."""
    text: str = yaml.dump(document, Dumper=_DUMPER, sort_keys=False)
    return text
