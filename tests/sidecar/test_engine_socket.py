"""The listener of the local API under trouble that is not the engine's."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prfaas_sidecar import engine_socket
from prfaas_sidecar.engine_socket import EngineSocket
from tests.helpers import eventually_async


async def test_a_process_without_free_descriptors_accepts_again_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, iter([OSError(errno.EMFILE, "Too many open files"), None])

    async def sock_accept(listener: socket.socket) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    # pytest's own handler of a log file writes in the loop, which the rules for tests do not allow.
    monkeypatch.setattr(logging.getLogger("prfaas_sidecar"), "propagate", False)
    monkeypatch.setattr(engine_socket, "ACCEPT_RETRY_SECONDS", 0.0)
    conversations: list[str] = []

    def spawn(conversation: Any, name: str, *, essential: bool) -> None:
        conversation.cr_frame.f_locals["sock"].close()
        conversation.close()
        conversations.append(name)

    section = SimpleNamespace(socket=tmp_path / "engine.sock", socket_mode=0o600)
    node: Any = SimpleNamespace(config=SimpleNamespace(engine=section))
    nobody: Any = None
    tasks: Any = SimpleNamespace(spawn=spawn)
    listening = await asyncio.to_thread(EngineSocket, node, nobody, nobody, tasks)
    serving = asyncio.create_task(listening.serve())
    with socket.socket(socket.AF_UNIX) as engine:
        engine.setblocking(False)
        await loop.sock_connect(engine, str(section.socket))
        await eventually_async(lambda: conversations == ["engine-connection"] or serving.done())
    assert not serving.done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await asyncio.to_thread(listening.close)
