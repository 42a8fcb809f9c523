"""One region, two authorities: while an issuer's authority is replaced, each file names only one of them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from prfaas_demo.certificates import Authority, ca
from prfaas_sidecar.config import TlsSection
from prfaas_sidecar.net.tls import Credentials

DECODE = "spiffe://test/region/eu/ns/llm/pool/DecodePool/chat"
PREFILL = "spiffe://test/region/eu/ns/llm/pool/PrefillPool/long"


def credentials(folder: Path, authority: Authority, identity: str, regions: dict[str, str]) -> Credentials:
    files = authority.leaf(identity).write(folder, "own")
    return Credentials(TlsSection(certificate=files.certificate, key=files.key, ca=files.ca), regions)


def greets(dialling: Credentials, dialled: Credentials) -> bool:
    """A whole handshake in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = dialling.client("eu").wrap_bio(back, there, server_hostname=dialling.server_name("10.0.0.1"))
    server = dialled.server().wrap_bio(there, back, server_side=True)
    open_ = {client, server}
    for _ in range(10):
        for side in tuple(open_):
            try:
                side.do_handshake()
                open_.discard(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return not open_


def test_certificates_of_both_authorities_are_believed_while_the_region_names_both(tmp_path: Path) -> None:
    old, new = ca("old"), ca("new")
    both = {"eu": (old.pem + new.pem).decode()}
    here = credentials(tmp_path / "old", old, DECODE, both)
    there = credentials(tmp_path / "new", new, PREFILL, both)
    assert greets(here, there)
    assert greets(there, here)
    # The end of it: only the new one is named, and the file of who is late names the old one still.
    there.trust({"eu": new.pem.decode()})
    assert not greets(here, there)


def test_without_it_the_file_alone_counts(tmp_path: Path) -> None:
    old, new = ca("old"), ca("new")
    here = credentials(tmp_path / "old", old, DECODE, {})
    there = credentials(tmp_path / "new", new, PREFILL, {})
    assert not greets(here, there)
    assert greets(here, credentials(tmp_path / "other", old, PREFILL, {}))


@pytest.mark.parametrize(
    "broken", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_bundle_that_cannot_be_read_leaves_the_file(tmp_path: Path, broken: str) -> None:
    old = ca("old")
    here = credentials(tmp_path / "here", old, DECODE, {"eu": broken})
    assert greets(here, credentials(tmp_path / "there", old, PREFILL, {"eu": broken}))
