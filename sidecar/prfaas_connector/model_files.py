"""Copies of the engine's tokenizer files in the folder that it shares with the sidecar."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from prfaas_connector.local_api.model_files import MAX_BYTES, NAMES, ModelFile

_READ_BYTES = 1 << 20


class ModelFilesError(Exception):
    """The files cannot be offered. The text says which one, and why."""


def share(find: Callable[[str], Path | None], folder: Path) -> tuple[ModelFile, ...]:
    """Copies what ``find`` knows by name, each file as a whole or not at all, and removes what an earlier run
    has left and this one does not have.

    Args:
        find: where the engine has the file, or None when its model has none of that name.
        folder: made when absent; the sidecar, which may be another user, reads it.

    Raises:
        ModelFilesError: a file is missing, too large or unusable. The folder then holds nothing.
    """
    try:
        return _share(find, folder)
    except (ModelFilesError, OSError) as error:
        # What stays is told to nobody.
        with contextlib.suppress(OSError):
            remove(folder)
        if isinstance(error, ModelFilesError):
            raise
        raise ModelFilesError(f"{error.filename or folder}: {error.strerror or error}") from error


def _share(find: Callable[[str], Path | None], folder: Path) -> tuple[ModelFile, ...]:
    if folder.is_symlink():
        raise ModelFilesError(f"{folder} is a link; remove it")
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)
    sources = {name: source for name in NAMES if (source := find(name)) is not None}
    if "tokenizer.json" not in sources:
        raise ModelFilesError("the engine's tokenizer has no tokenizer.json, which others would need")
    for old in folder.iterdir():
        if old.name not in sources:
            old.unlink()
    return tuple(_copy(source, folder / name) for name, source in sources.items())


def remove(folder: Path) -> None:
    """Takes the files and the folder away.

    Raises:
        OSError: something cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for old in folder.iterdir():
        old.unlink(missing_ok=True)
    folder.rmdir()


def _copy(source: Path, target: Path) -> ModelFile:
    digest, size = hashlib.sha256(), 0
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    with source.open("rb") as reading, fresh.open("wb") as writing:
        if not stat.S_ISREG(os.fstat(reading.fileno()).st_mode):
            raise ModelFilesError(f"{source} is not a file")
        while part := reading.read(_READ_BYTES):
            size += len(part)
            if size > MAX_BYTES:
                raise ModelFilesError(f"{source} is larger than {MAX_BYTES} bytes")
            digest.update(part)
            writing.write(part)
        os.fchmod(writing.fileno(), 0o644)
    fresh.replace(target)
    return ModelFile(target.name, size, digest.hexdigest())
