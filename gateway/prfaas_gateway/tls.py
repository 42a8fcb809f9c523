"""Mutual TLS to sidecars: who we are, whom we trust, and that the other end is exactly whom we meant.

A certificate of the right authority is not enough: the prompt crosses this connection, so the identity in the
certificate is compared as part of the handshake, before a request can be written.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from typing import Any

from prfaas_gateway.config import Tls


class Credentials:
    """The gateway's certificate and trust: one TLS context per peer identity, renewed when files change.

    A certificate that is renewed every few hours must not need a restart. Open connections keep what they
    were opened with.
    """

    def __init__(self, tls: Tls, identities: Iterable[str]) -> None:
        """Read the files.

        Raises:
            OSError, ssl.SSLError: a file cannot be read or is not what it should be.
        """
        self._tls = tls
        self._identities = frozenset(identities)
        self._more = ""
        # Threads that refresh and threads that allow must not undo one another's work.
        self._changing = threading.Lock()
        self._seen: tuple[tuple[int, int], ...] = ()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.refresh()

    def context(self, identity: str) -> ssl.SSLContext | None:
        """The context for an identity; None when it is none of those that this gateway speaks to."""
        return self._contexts.get(identity)

    def allow(self, identities: Iterable[str], more_trust: str = "") -> None:
        """Speak to exactly these identities from now on. Not for an event loop.

        Args:
            more_trust: authorities (PEM) that are believed beside those of the file.

        Raises:
            OSError, ssl.SSLError: the files cannot be used at the moment; nothing has changed.
        """
        wanted = frozenset(identities)
        with self._changing:
            kept = self._contexts if more_trust == self._more else {}
            contexts = {
                identity: kept.get(identity) or client_context(self._tls, identity, more_trust)
                for identity in wanted
            }
            self._identities, self._contexts, self._more = wanted, contexts, more_trust

    def refresh(self) -> bool:
        """Read the files again if they have changed; whether they had. Not for an event loop.

        Raises:
            OSError, ssl.SSLError: the new files cannot be used (yet); the old ones stay in use.
        """
        with self._changing:
            return self._refresh()

    def _refresh(self) -> bool:
        states = [path.stat() for path in (self._tls.certificate, self._tls.key, self._tls.trust_bundle)]
        seen = tuple((state.st_mtime_ns, state.st_size) for state in states)
        if seen == self._seen:
            return False
        self._contexts = {
            identity: client_context(self._tls, identity, self._more) for identity in self._identities
        }
        self._seen = seen
        return True


def client_context(tls: Tls, identity: str, more_trust: str = "") -> ssl.SSLContext:
    """A TLS 1.3 client context that trusts bundle and `more_trust` (PEM) only, and there one SPIFFE identity.

    Host names are not compared: sidecars are dialled by changing pod addresses, and the identity says more.

    Raises:
        OSError, ssl.SSLError: a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.trust_bundle)
    if more_trust:
        context.load_verify_locations(cadata=more_trust)
    context.sslobject_class = _only(identity)
    return context


def _only(identity: str) -> type[ssl.SSLObject]:
    class OnlyThisIdentity(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = uris(self.getpeercert())
            if found != [identity]:
                raise ssl.SSLCertVerificationError(f"the peer is {found or 'nobody'}, not {identity}")

    return OnlyThisIdentity


def uris(certificate: Any) -> list[str]:
    """URI subject alternative names of a certificate as `ssl` presents it."""
    names = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]
