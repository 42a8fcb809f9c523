"""The engine's tokenizer files on their way to a gateway."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from pathlib import Path

from aiohttp import web

from prfaas_connector.local_api.model_files import ModelFile

_CHUNK_BYTES = 256 << 10


class FileChangedError(Exception):
    """The folder does not hold the file that the engine told of."""


async def send_file(request: web.Request, folder: Path, file: ModelFile) -> web.StreamResponse:
    """One file, piece by piece, whatever its size. The caller compares it with the digest that it was told.

    Raises:
        FileChangedError: it is not there, is no plain file, or has another size; nothing was sent.
    """
    try:
        opened = await asyncio.to_thread(_open, folder / file.name, file.size_bytes)
    except OSError as error:
        raise FileChangedError(f"{error.filename}: {error.strerror}") from error
    with opened:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = left = file.size_bytes
        response.etag = file.sha256
        await response.prepare(request)
        while left and (part := await asyncio.to_thread(opened.read, min(left, _CHUNK_BYTES))):
            left -= len(part)
            await response.write(part)
        if left and request.transport is not None:
            request.transport.abort()
        else:
            await response.write_eof()
        return response


def _open(path: Path, size_bytes: int) -> io.FileIO:
    # The engine's container can write here: a link of its making must not show this container's own files.
    opened = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
    found = os.fstat(opened.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
        opened.close()
        raise FileChangedError(f"{path} is not a file of {size_bytes} bytes")
    return opened
