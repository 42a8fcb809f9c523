"""A listening socket whose TLS handshakes are bounded in number and time, and whose refusals are counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from prfaas_sidecar.config import split_address
from prfaas_sidecar.logs import fields
from prfaas_sidecar.net.refusals import REMEDIES, kind_of_failure
from prfaas_sidecar.net.tls import last_words
from prfaas_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
MAX_HANDSHAKES = 64
_BACKLOG = 256
_ACCEPT_RETRY_SECONDS = 0.5


class Listener:
    """Accepts connections and hands them to protocols of ``factory`` when they are fit to be heard."""

    def __init__(
        self,
        name: str,
        address: str,
        factory: Callable[[], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext] | None,
        refused: Callable[[str, str], None],
        tasks: Tasks,
    ) -> None:
        """``refused`` is called with the listener's name and the kind of failure."""
        self.name = name
        self._factory = factory
        self._context = context
        self._refused = refused
        self._tasks = tasks
        self._handshakes = asyncio.Semaphore(MAX_HANDSHAKES)
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self.socket = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(
                error.errno,
                f"listen.{name}: cannot listen on {address}: {error.strerror}; is the port in use?",
            ) from error
        self.socket.setblocking(False)

    @property
    def port(self) -> int:
        """The port that was bound, also when the configuration says 0."""
        port: int = self.socket.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._handshakes.acquire()
            try:
                connection, peer = await loop.sock_accept(self.socket)
            except OSError as error:
                # For example no free descriptors: the backlog keeps what comes until some are.
                self._handshakes.release()
                _log.warning("accepting failed", extra=fields(listener=self.name, reason=error.strerror))
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            except BaseException:
                self._handshakes.release()
                raise
            connection.setblocking(False)
            self._tasks.spawn(
                self._admit(connection, f"{peer[0]}:{peer[1]}"), f"admit-{self.name}", essential=False
            )

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()

    async def _admit(self, connection: socket.socket, peer: str) -> None:
        context = self._context() if self._context is not None else None
        words: list[bytes] = []
        last_words.set(words)
        # The transport closes its own; the alert goes out over this one.
        spare = connection.dup() if context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
            )
        except (OSError, TimeoutError) as error:
            reason = kind_of_failure(error)
            self._refused(self.name, reason)
            _log.warning(
                "connection refused",
                extra=fields(
                    listener=self.name,
                    peer=peer,
                    reason=reason,
                    detail=str(error),
                    remedy=REMEDIES.get(reason, ""),
                ),
            )
            connection.close()
            if spare is not None:
                _say_why(spare, words)
        finally:
            if spare is not None:
                spare.close()
            self._handshakes.release()


def _say_why(connection: socket.socket, words: list[bytes]) -> None:
    """Send the alert of a refused handshake. It fits into the socket's buffer, or the peer is gone."""
    with contextlib.suppress(OSError):
        connection.send(b"".join(words))
        connection.shutdown(socket.SHUT_WR)
