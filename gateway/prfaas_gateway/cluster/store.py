"""The last good snapshot, the pods last seen and what other regions told, on disk: what to go on with while
nobody can tell more.

All functions here block, and are for threads.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prfaas_gateway.cluster.pods import Pod

FORMAT = 1
"""Of the files; others are ignored, so that gateways of two versions may share a folder."""
_MAX_BYTES = 64 << 20
_LEFT_SECONDS = 600


class StateError(Exception):
    """A file is there but cannot be used, or cannot be written; the text says why."""


class Store:
    """Files in a folder. Each is replaced as a whole: a reader sees the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._snapshot = folder / "snapshot.json"
        self._pods = folder / "pods.json"
        self._peers = folder / "peers.json"

    def prepare(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            StateError: it cannot.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
            self._tidy()
        except OSError as error:
            raise StateError(f"{self._folder} cannot be written: {error.strerror}") from error

    def _tidy(self) -> None:
        """Remove what a process left that died while it wrote. Others may be writing here now."""
        for file in (self._snapshot, self._pods, self._peers):
            for left in self._folder.glob(f".{file.name}.*"):
                with suppress(FileNotFoundError):
                    if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                        left.unlink()

    def save_snapshot(self, text: str, saved_at: float) -> None:
        """Keep a snapshot as it came.

        Raises:
            StateError: it cannot be written.
        """
        self._save(self._snapshot, text, saved_at)

    def load_snapshot(self) -> tuple[str, float] | None:
        """The snapshot kept, and when it was, in seconds since 1970; None when there is none.

        Raises:
            StateError: there is one that cannot be used.
        """
        found = self._load(self._snapshot)
        if found is None:
            return None
        content, saved_at = found
        if not isinstance(content, str):
            raise StateError(f"{self._snapshot} has another content than expected")
        return content, saved_at

    def save_pods(self, pods: Iterable[Pod], saved_at: float) -> None:
        """Keep the pods last seen.

        Raises:
            StateError: they cannot be written.
        """
        self._save(self._pods, [pod.to_document() for pod in pods], saved_at)

    def load_pods(self) -> tuple[list[Pod], float] | None:
        """The pods kept, and when they were; None when there are none.

        Raises:
            StateError: there is a file that cannot be used.
        """
        found = self._load(self._pods)
        if found is None:
            return None
        content, saved_at = found
        try:
            return [Pod.from_document(document) for document in content], saved_at
        except (ValueError, TypeError) as error:
            raise StateError(f"{self._pods} has another content than expected") from error

    def save_peers(self, document: dict[str, Any], saved_at: float) -> None:
        """Keep what other regions have told.

        Raises:
            StateError: it cannot be written.
        """
        self._save(self._peers, document, saved_at)

    def load_peers(self) -> dict[str, Any]:
        """What other regions have told, by region; empty when nothing is kept.

        Raises:
            StateError: there is a file that cannot be used.
        """
        found = self._load(self._peers)
        if found is None:
            return {}
        if not isinstance(found[0], dict):
            raise StateError(f"{self._peers} has another content than expected")
        return found[0]

    def _save(self, file: Path, content: Any, saved_at: float) -> None:
        document = {"format": FORMAT, "saved_at": saved_at, "content": content}
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=f".{file.name}.")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump(document, stream, separators=(",", ":"))
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(file)
            except BaseException:
                with suppress(FileNotFoundError):
                    temporary.unlink()
                raise
        except OSError as error:
            raise StateError(f"{file} cannot be written: {error.strerror}") from error

    def _load(self, file: Path) -> tuple[Any, float] | None:
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise StateError(f"{file} is larger than {_MAX_BYTES} bytes")
            document = json.loads(file.read_text())
            if document["format"] != FORMAT:
                return None
            return document["content"], float(document["saved_at"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StateError(f"{file} is broken") from error
