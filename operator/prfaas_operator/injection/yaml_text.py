"""YAML as the project writes it into objects: the same text from libyaml and from Python, which is slow."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import yaml

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# Each pass over a pool asks for the same text again.
REMEMBERED = 2048


def yaml_text(document: Any) -> str:
    """Keys in their order. The document could be JSON as well."""
    return _yaml_of(json.dumps(document))


@lru_cache(maxsize=REMEMBERED)
def _yaml_of(document_json: str) -> str:
    text: str = yaml.dump(json.loads(document_json), Dumper=_DUMPER, sort_keys=False)
    return text
