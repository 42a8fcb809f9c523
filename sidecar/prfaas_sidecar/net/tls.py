"""TLS credentials from files and trust by region, renewed while connections stand, so that neither a rotated
certificate nor a new region needs a restart."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import ssl
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prfaas.server_names import kv_name, region_of
from prfaas_sidecar.config import ConfigError, TlsSection
from prfaas_sidecar.identity import Identity, IdentityError, of_certificate
from prfaas_sidecar.logs import fields
from prfaas_sidecar.net.refusals import REMEDIES, UnknownRegionError

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MAX_AUTHORITIES = 8


class RegionContext(ssl.SSLContext):
    """Trusts the authorities of one region, and knows which; ``region`` None: the configured authorities
    stand for every region, as without a federation."""

    region: str | None = None
    authorities: frozenset[str] = frozenset()

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> Any:
        """As ever; the result also says what it has to say when the handshake fails."""
        connection = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        if isinstance(connection, _SaysWhy):
            connection.outgoing, connection.words = outgoing, last_words.get()
        return connection


class _SaysWhy(ssl.SSLObject):
    """Keeps the alert of a handshake that failed: event loops drop it, and the peer would only see a closed
    connection."""

    outgoing: ssl.MemoryBIO
    words: list[bytes] | None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if self.words is not None:
                self.words.append(self.outgoing.read())
            raise


RegionContext.sslobject_class = _SaysWhy

last_words: ContextVar[list[bytes] | None] = ContextVar("last_words", default=None)
"""A list that gets the alert of a failed handshake of whatever is accepted in this context."""


@dataclass(frozen=True, slots=True)
class _Trust:
    """What is in force, exchanged as a whole."""

    own: tuple[RegionContext, RegionContext]
    regions: Mapping[str, tuple[RegionContext, RegionContext]] | None = None
    broken: Mapping[str, str] = field(default_factory=dict)


class Credentials:
    """Contexts for both ends of a connection: TLS 1.3 only, both sides show a certificate.

    Who dials says its region in the server name; who is dialled verifies it against that region's
    authorities alone.
    """

    def __init__(self, files: TlsSection, regions: Mapping[str, str] | None = None) -> None:
        """``regions``: PEM bundle of each other region; None: there is one authority for all.

        Raises ConfigError when the files cannot be used.
        """
        self._files = files
        self._bundles = None if regions is None else dict(regions)
        self._stamp: _Stamp = ()
        self._changing = threading.Lock()
        self.identity, self._trust = self._load()

    def server(self) -> ssl.SSLContext:
        """For a connection that was accepted; turns into another region's when the server name says so."""
        return self._trust.own[0]

    def client(self, region: str) -> ssl.SSLContext:
        """For a connection to a sidecar of a region, which is checked by the URI of its identity, not by its
        host name.

        Raises:
            UnknownRegionError: nothing is known that the region could be verified by.
        """
        trust = self._trust
        if trust.regions is None or region == self.identity.region:
            return trust.own[1]
        try:
            return trust.regions[region][1]
        except KeyError:
            raise UnknownRegionError(region, trust.broken.get(region)) from None

    @property
    def own_region(self) -> str:
        """The region of the own identity."""
        return self.identity.region

    def server_name(self, pod: str) -> str:
        """What to ask a sidecar for, by its address or its `server_names.pod_name`.

        Raises:
            ValueError: there is no such name.
        """
        return kv_name(self.identity.region, pod, self.identity.trust_domain)

    def stands(self, context: ssl.SSLContext | None) -> bool:
        """Whether everything that a connection was verified by is trusted still."""
        if not isinstance(context, RegionContext):
            return True
        trust = self._trust
        if context.region is None or context.region == self.identity.region:
            now: RegionContext | None = trust.own[0]
        else:
            now = (trust.regions or {}).get(context.region, (None,))[0]
        return now is not None and context.authorities <= now.authorities

    def counts(self) -> tuple[int, int]:
        """Other regions that are trusted, and those whose bundle cannot be used."""
        return len(self._trust.regions or ()), len(self._trust.broken)

    def trust(self, regions: Mapping[str, str] | None) -> None:
        """From now on these are the other regions; blocks. A bundle that cannot be used makes its own region
        unknown and harms no other."""
        with self._changing:
            if regions == self._bundles:
                return
            before, self._bundles = self._bundles, None if regions is None else dict(regions)
            try:
                self.identity, self._trust = self._load()
            except ConfigError as error:
                # Files in the middle of a rotation; the next look finds them whole.
                self._bundles = before
                _log.warning("regions cannot be taken over yet", extra=fields(reason=str(error)))

    def refresh(self) -> None:
        """Read the files again if they have changed; blocks. Contexts in hand stay when the new files are
        unusable."""
        with self._changing:
            try:
                if self._stamp_now() != self._stamp:
                    self.identity, self._trust = self._load()
                    _log.info("TLS credentials were read again", extra=fields(identity=str(self.identity)))
            except (OSError, ConfigError) as error:
                _log.warning("changed TLS credentials cannot be used yet", extra=fields(reason=str(error)))

    def _stamp_now(self) -> _Stamp:
        paths = (self._files.certificate, self._files.key, self._files.ca)
        return tuple(
            (stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in (path.stat() for path in paths)
        )

    def _load(self) -> tuple[Identity, _Trust]:
        files = self._files
        try:
            stamp = self._stamp_now()
            identity = of_certificate(_own_certificate(files.certificate, files.key))
            bundle = files.ca.read_text(encoding="utf-8")
            own = self._own(identity.region, bundle)
        except FileNotFoundError as error:
            missing = [path for path in (files.certificate, files.key, files.ca) if not path.exists()]
            raise ConfigError(
                f"tls: no such file: {', '.join(map(str, missing)) or error.filename}"
            ) from error
        except (OSError, ssl.SSLError, ValueError) as error:
            if isinstance(error, IdentityError):
                raise ConfigError(f"tls.certificate: {error}") from error
            raise ConfigError(f"tls: the certificate, key or CA cannot be used: {error}") from error
        regions: dict[str, tuple[RegionContext, RegionContext]] = {}
        broken: dict[str, str] = {}
        for region, text in (self._bundles or {}).items():
            if region == identity.region:
                continue
            try:
                regions[region] = self._pair(region, text)
            except (ssl.SSLError, ValueError) as error:
                broken[region] = str(error)
                _log.error(
                    "trust bundle of a region cannot be used",
                    extra=fields(region=region, reason=str(error), remedy=REMEDIES["unknown_region"]),
                )
        trust = _Trust(own, None if self._bundles is None else regions, broken)
        own[0].sni_callback = self._named(identity)
        self._stamp = stamp
        return identity, trust

    def _own(self, region: str, bundle: str) -> tuple[RegionContext, RegionContext]:
        """By the file, and by what `peers.yaml` has of the own region: while an issuer's authority is
        replaced, certificates of both are in use and no file names both."""
        if self._bundles is None:
            return self._pair(None, bundle)
        more = self._bundles.get(region)
        if more:
            try:
                return self._pair(region, f"{bundle.rstrip()}\n{more}")
            except (ssl.SSLError, ValueError) as error:
                _log.error(
                    "trust bundle of the own region cannot be used; its file still counts",
                    extra=fields(region=region, reason=str(error)),
                )
        return self._pair(region, bundle)

    def _pair(self, region: str | None, bundle: str) -> tuple[RegionContext, RegionContext]:
        authorities = authorities_of(bundle)
        server, client = RegionContext(ssl.PROTOCOL_TLS_SERVER), RegionContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        # Every stream does a full handshake; a ticket would only let an old authorisation live on.
        server.num_tickets = 0
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            # What is in a bundle is trusted for what it is, also when another authority has signed it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_cert_chain(self._files.certificate, self._files.key)
            context.load_verify_locations(cadata=bundle)
            context.region, context.authorities = region, authorities
        return server, client

    def _named(self, identity: Identity) -> Any:
        def choose(connection: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> int | None:
            trust, region = self._trust, region_of(server_name, identity.trust_domain)
            if region is None or trust.regions is None or region == identity.region:
                return None
            known = trust.regions.get(region)
            if known is None:
                _log.warning(
                    "peer of an unknown region",
                    extra=fields(
                        region=region,
                        reason=trust.broken.get(region, "peers.yaml does not name it"),
                        remedy=REMEDIES["unknown_region"],
                    ),
                )
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = known[0]
            return None

        return choose


def authorities_of(bundle: str) -> frozenset[str]:
    """SHA-256 of each certificate in a PEM bundle.

    Raises:
        ValueError: there is none, or there are too many.
    """
    blocks = _BLOCK.findall(bundle)
    if not 0 < len(blocks) <= _MAX_AUTHORITIES:
        raise ValueError(f"a bundle has 1 to {_MAX_AUTHORITIES} authorities (PEM), this one {len(blocks)}")
    return frozenset(hashlib.sha256(ssl.PEM_cert_to_DER_cert(block)).hexdigest() for block in blocks)


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
