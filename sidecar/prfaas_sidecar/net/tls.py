"""TLS credentials from files, re-read when the files change, so that a rotated certificate needs no
restart."""

from __future__ import annotations

import contextlib
import logging
import ssl
from pathlib import Path
from typing import Any

from prfaas_sidecar.config import ConfigError, TlsSection
from prfaas_sidecar.identity import Identity, IdentityError, of_certificate
from prfaas_sidecar.logs import fields

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class Credentials:
    """Contexts for both ends of a connection: TLS 1.3 only, both sides show a certificate of the same CA."""

    def __init__(self, files: TlsSection) -> None:
        """Raises ConfigError when the files cannot be used."""
        self._files = files
        self._stamp: _Stamp = ()
        self.identity, self._contexts = self._load()

    def server(self) -> ssl.SSLContext:
        """For a connection that was accepted."""
        return self._contexts[0]

    def client(self) -> ssl.SSLContext:
        """For a connection that is dialled. The peer's identity is checked by its URI, not by its host
        name."""
        return self._contexts[1]

    def refresh(self) -> None:
        """Read the files again if they have changed; blocks. Contexts in hand stay when the new files are
        unusable."""
        try:
            if self._stamp_now() != self._stamp:
                self._load()
                _log.info("TLS credentials were read again", extra=fields(identity=str(self.identity)))
        except (OSError, ConfigError) as error:
            _log.warning("changed TLS credentials cannot be used yet", extra=fields(reason=str(error)))

    def _stamp_now(self) -> _Stamp:
        paths = (self._files.certificate, self._files.key, self._files.ca)
        return tuple(
            (stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in (path.stat() for path in paths)
        )

    def _load(self) -> tuple[Identity, tuple[ssl.SSLContext, ssl.SSLContext]]:
        files = self._files
        try:
            stamp = self._stamp_now()
            server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname = False
            # Every stream does a full handshake; a ticket would only let an old authorisation live on.
            server.num_tickets = 0
            for context in (server, client):
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_cert_chain(files.certificate, files.key)
                context.load_verify_locations(cafile=files.ca)
            identity = of_certificate(_own_certificate(files.certificate, files.key))
        except FileNotFoundError as error:
            missing = [path for path in (files.certificate, files.key, files.ca) if not path.exists()]
            raise ConfigError(
                f"tls: no such file: {', '.join(map(str, missing)) or error.filename}"
            ) from error
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls: the certificate, key or CA cannot be used: {error}") from error
        except IdentityError as error:
            raise ConfigError(f"tls.certificate: {error}") from error
        self.identity, self._contexts, self._stamp = identity, (server, client), stamp
        return self.identity, self._contexts


def _own_certificate(certificate: Path, key: Path) -> dict[str, Any]:
    """The certificate as a peer that trusts exactly it would see it, by a handshake in memory.

    The standard library decodes a certificate only when a peer shows it; this also refuses one that has
    expired.
    """
    viewer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    viewer.check_hostname = False
    viewer.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    viewer.load_verify_locations(cafile=certificate)
    shower = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shower.load_cert_chain(certificate, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = viewer.wrap_bio(to_client, to_server)
    shown = shower.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, shown, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return client.getpeercert() or {}
