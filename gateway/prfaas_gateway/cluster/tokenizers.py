"""The engines' own tokenizer files: fetched from a pod's sidecar, kept by digest, loaded in threads."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_gateway.chat_template import ChatTemplate, load_chat_template
from prfaas_gateway.control import ControlClient, ControlError, ControlTarget
from prfaas_gateway.engine_report import ModelFile
from prfaas_gateway.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
SOURCE_SECONDS = 60.0
"""For all files of one pod: other models' files wait meanwhile."""
_READ_BYTES = 1 << 20


class TokenizerError(Exception):
    """No tokenizer can be had from these files now.

    Attributes:
        code: for a metric; a sidecar's code, `Disk` or `Unusable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tokenizer in memory. ``template`` is None when chats cannot be rendered with its files."""

    digest: str
    tokenizer: Tokenizer
    template: ChatTemplate | None


class TokenizerCache:
    """Folders of files, named by the digest of their list. Used by one task at a time."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    async def load(
        self,
        control: ControlClient,
        sources: Sequence[ControlTarget],
        files: Sequence[ModelFile],
        digest: str,
    ) -> Loaded:
        """The tokenizer of these files, from the disk or else from the first pod that gives them.

        Raises:
            TokenizerError: no source gave the files, or they are no tokenizer.
        """
        if not any(file.name == "tokenizer.json" for file in files):
            raise TokenizerError("Unusable", "the engine's files hold no tokenizer.json: prompts stay local")
        folder = self._folder / digest
        try:
            if not await asyncio.to_thread(_is_complete, folder, files):
                await self._fetch(control, sources, files, folder)
            return await asyncio.to_thread(_load, folder, digest)
        except OSError as error:
            raise TokenizerError("Disk", f"{folder}: {error.strerror}") from error

    async def prune(self, in_use: Collection[str]) -> None:
        """Remove what is not in use, oldest first, until the rest is small enough.

        Raises:
            OSError: a folder cannot be removed.
        """
        await asyncio.to_thread(_prune, self._folder, frozenset(in_use), self._max_bytes)

    async def _fetch(
        self,
        control: ControlClient,
        sources: Sequence[ControlTarget],
        files: Sequence[ModelFile],
        folder: Path,
    ) -> None:
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        last: ControlError | None = None
        for source in sources:
            temporary = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._folder, prefix=".part-"))
            try:
                try:
                    async with asyncio.timeout(SOURCE_SECONDS):
                        for file in files:
                            sink = _appender(temporary / file.name)
                            await asyncio.to_thread(sink, b"")
                            await control.model_file(source, file, sink, SOURCE_SECONDS)
                except TimeoutError as error:
                    raise ControlError("PeerSilent", retryable=True, blames_peer=True) from error
                await asyncio.to_thread(_move, temporary, folder)
            except ControlError as error:
                last = error
                _log.warning(
                    "a sidecar did not give its tokenizer files",
                    extra={"control": str(source.url), "code": error.code},
                )
            else:
                return
            finally:
                await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)
        code = last.code if last is not None else "NoSource"
        raise TokenizerError(code, f"none of {len(sources)} pods gave the tokenizer files")


def _appender(path: Path) -> Callable[[bytes], None]:
    """Writes pieces without holding the file open between them, when this may be cancelled."""

    def append(piece: bytes) -> None:
        with path.open("ab") as stream:
            stream.write(piece)

    return append


def _move(temporary: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _is_complete(folder: Path, files: Sequence[ModelFile]) -> bool:
    """Whether exactly these files are there, unharmed."""
    try:
        if {path.name for path in folder.iterdir()} != {file.name for file in files}:
            return False
        return all(_sha256(folder / file.name) == file.sha256 for file in files)
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _load(folder: Path, digest: str) -> Loaded:
    try:
        tokenizer = Tokenizer(folder / "tokenizer.json")
    except ValueError as error:
        raise TokenizerError("Unusable", "tokenizer.json is of no kind that this gateway can load") from error
    try:
        template = _template(folder)
    except ValueError:
        _log.exception("the chat template cannot be used, so chats stay local", extra={"files": digest})
        template = None
    return Loaded(digest, tokenizer, template)


def _template(folder: Path) -> ChatTemplate | None:
    try:
        return load_chat_template(folder)
    except OSError:
        raise
    except Exception as error:  # what others wrote may fail in any way, SyntaxError and RecursionError too
        raise ValueError(f"{type(error).__name__} in the chat template or its settings") from error


def _prune(folder: Path, in_use: frozenset[str], max_bytes: int) -> None:
    if not folder.exists():
        return
    kept = sorted(
        (path for path in folder.iterdir() if path.is_dir()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    total = sum(_size(path) for path in kept if path.name in in_use)
    for path in kept:
        if path.name in in_use:
            continue
        total += _size(path)
        # What was left half-fetched by a process that died is of no use to anybody.
        if total > max_bytes or path.name.startswith(".part-"):
            total -= _size(path)
            shutil.rmtree(path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
