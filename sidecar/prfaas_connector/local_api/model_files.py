"""Files of the engine's model that a gateway needs to write prompts as the engine would: names and bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
MAX_BYTES = 64 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file in the shared folder, as it was when it was copied there.

    Raises:
        ValueError: another name, size or digest than such a file can have.
    """

    name: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if self.name not in NAMES or not 0 <= self.size_bytes <= MAX_BYTES:
            raise ValueError(f"a model file is one of {', '.join(NAMES)} with at most {MAX_BYTES} bytes")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("a model file's digest is 64 lowercase hexadecimal digits")


def folder_beside(socket: Path) -> Path:
    """Where connector and sidecar share the files: ``engine.model`` beside ``engine.sock``."""
    return socket.with_suffix(".model")
