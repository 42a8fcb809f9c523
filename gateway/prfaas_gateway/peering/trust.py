"""Mutual TLS between gateways: each side is verified against the bundle of the region that it says to be of.

Who dials names its own region first in the server name. The listener then trusts that region's authorities
and no others, and the identity in the certificate has to be a gateway of that region: an authority vouches
for nobody but its own.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prfaas.server_names import region_of
from prfaas_gateway.config import Tls
from prfaas_gateway.tls import uris

_PLAIN = r"[A-Za-z0-9._-]+"
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class WrongIdentityError(ssl.SSLCertVerificationError):
    """A valid certificate of somebody else."""


def check_gateway(certificate: Any, trust_domain: str, region: str) -> None:
    """See that a certificate is that of a gateway of a region.

    Raises:
        WrongIdentityError: it is not.
    """
    found = uris(certificate)
    pattern = rf"spiffe://{re.escape(trust_domain)}/region/{re.escape(region)}/ns/{_PLAIN}/gateway/{_PLAIN}"
    if len(found) != 1 or not re.fullmatch(pattern, found[0]):
        shown = ", ".join(found)[:300] or "nobody"
        raise WrongIdentityError(f"the peer is {shown}, not a gateway of region {region}")


class PeerObject(ssl.SSLObject):
    """One connection to the listener: which region it is of, and by which authorities it was verified."""

    region: str = ""
    authorities: frozenset[str] = frozenset()
    trust: PeerTrust

    def do_handshake(self) -> None:
        """One step of the handshake; its last one compares the identity."""
        try:
            super().do_handshake()
            check_gateway(self.getpeercert(), self.trust.trust_domain, self.region)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.trust.refused(self.region, error)
            raise


@dataclass(slots=True)
class _Region:
    bundle: str
    server: ssl.SSLContext
    client: ssl.SSLContext
    authorities: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Setting:
    bundles: Mapping[str, str] = field(default_factory=dict)
    trust_domain: str = ""


class PeerTrust:
    """Contexts by region. They are built in threads, and replaced as a whole."""

    def __init__(self, tls: Tls, own_region: str, on_refused: Callable[[str, ssl.SSLError], None]) -> None:
        self._tls = tls
        self._own_region = own_region
        self._on_refused = on_refused
        self._changing = threading.Lock()
        self._setting = _Setting()
        self._seen: tuple[tuple[int, int], ...] = ()
        self._regions: dict[str, _Region] = {}
        self.troubles: dict[str, str] = {}
        """Why a region's bundle cannot be used."""
        self.listener = self._listener_context()

    @property
    def trust_domain(self) -> str:
        """Of all identities; empty before the first snapshot, and then nobody is anybody."""
        return self._setting.trust_domain

    def use(self, bundles: Mapping[str, str], trust_domain: str) -> None:
        """Trust these regions (PEM by name) and the own one from now on. Not for an event loop.

        Raises:
            OSError, ssl.SSLError: the own certificate cannot be used at the moment; nothing has changed.
        """
        with self._changing:
            self._build(_Setting(dict(bundles), trust_domain), self._files())

    def refresh(self) -> bool:
        """Read the own certificate again if it has changed; whether it had. Not for an event loop.

        Raises:
            OSError, ssl.SSLError: it cannot be used (yet); the old one stays in use.
        """
        with self._changing:
            seen = self._files()
            if seen == self._seen:
                return False
            self._build(self._setting, seen)
            return True

    def client(self, region: str) -> ssl.SSLContext | None:
        """For dialling gateways of a region; None when it is not trusted."""
        found = self._regions.get(region)
        return None if found is None else found.client

    def knows(self, region: str) -> bool:
        """Whether there is anything to verify a region by."""
        return region in self._regions

    def stands(self, connection: PeerObject) -> bool:
        """Whether all that a connection was verified by is trusted still: one more authority ends nothing."""
        found = self._regions.get(connection.region)
        return found is not None and connection.authorities <= found.authorities

    def refused(self, region: str, error: ssl.SSLError) -> None:
        """A handshake with who said to be of this region has failed."""
        self._on_refused(region, error)

    def _files(self) -> tuple[tuple[int, int], ...]:
        states = [path.stat() for path in (self._tls.certificate, self._tls.key, self._tls.trust_bundle)]
        return tuple((state.st_mtime_ns, state.st_size) for state in states)

    def _build(self, setting: _Setting, seen: tuple[tuple[int, int], ...]) -> None:
        keep = seen == self._seen and setting.trust_domain == self._setting.trust_domain
        own = self._tls.trust_bundle.read_text()
        if self._own_region in setting.bundles:
            own = f"{own.rstrip()}\n{setting.bundles[self._own_region]}"
        bundles = {**setting.bundles, self._own_region: own}
        # The own certificate first: when that is in the middle of a renewal, no region is to blame.
        self._loaded(ssl.PROTOCOL_TLS_CLIENT)
        regions: dict[str, _Region] = {}
        troubles: dict[str, str] = {}
        for name, bundle in bundles.items():
            old = self._regions.get(name)
            if keep and old is not None and old.bundle == bundle:
                regions[name] = old
                continue
            try:
                server, client = self._server_context(bundle), self._client_context(name, bundle, setting)
            except (ssl.SSLError, ValueError) as error:
                troubles[name] = f"no certificates in PEM ({type(error).__name__})"
                continue
            regions[name] = _Region(bundle, server, client, frozenset(_BLOCK.findall(bundle)))
        self._regions, self.troubles, self._setting, self._seen = regions, troubles, setting, seen

    def _loaded(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._tls.certificate, self._tls.key)
        return context

    def _server_context(self, bundle: str) -> ssl.SSLContext:
        context = self._loaded(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=bundle)
        # A resumed session would not be verified against the bundle that holds now.
        context.num_tickets = 0
        return context

    def _client_context(self, region: str, bundle: str, setting: _Setting) -> ssl.SSLContext:
        context = self._loaded(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=bundle)
        context.sslobject_class = _gateway_of(setting.trust_domain, region)
        return context

    def _listener_context(self) -> ssl.SSLContext:
        """The context that a listener begins with: it trusts nobody, and is replaced by the server name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # This stays in force when the context is replaced; what is verified against is the other one's.
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        context.sslobject_class = type("OwnPeerObject", (PeerObject,), {"trust": self})
        context.sni_callback = self._choose
        return context

    def _choose(self, connection: Any, server_name: str | None, _: ssl.SSLContext) -> int | None:
        name = region_of(server_name, self.trust_domain) or self._own_region
        found = self._regions.get(name)
        connection.region = name
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.authorities = found.authorities
        connection.context = found.server
        return None


def _gateway_of(trust_domain: str, region: str) -> type[ssl.SSLObject]:
    class GatewayOfThatRegion(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check_gateway(self.getpeercert(), trust_domain, region)

    return GatewayOfThatRegion
