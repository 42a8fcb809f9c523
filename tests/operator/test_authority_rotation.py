"""The authority's Secret through a whole rotation: what is in it, and who trusts whom after each step."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube import errors
from prfaas_operator.planning.rotation import Step
from prfaas_operator.runtime.certificates import Authority, authority_id, load_authority, new_authority
from prfaas_operator.runtime.rotation import Rotation

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
IDENTITY = "spiffe://example.org/region/eu/ns/serving/pool/PrefillPool/long"


class OneSecret:
    """An API server that has the Secret and nothing else."""

    def __init__(self, data: dict[str, str], annotations: dict[str, str]) -> None:
        self.body: dict[str, Any] = {
            "metadata": {"resourceVersion": "1", "annotations": annotations},
            "data": data,
        }
        self.conflict = False

    async def patch(self, resource: Any, namespace: str, name: str, body: Any, *, field_manager: str) -> Any:
        assert (name, field_manager) == (keys.CA_SECRET, keys.MANAGER_CHILDREN)
        assert body["metadata"]["resourceVersion"] == self.body["metadata"]["resourceVersion"]
        if self.conflict:
            raise errors.Conflict("changed")
        for part, into in (("data", self.body), ("annotations", self.body["metadata"])):
            source = body["data"] if part == "data" else body["metadata"]["annotations"]
            merged = {**into[part], **source}
            into[part] = {key: value for key, value in merged.items() if value is not None}
        self.body["metadata"]["resourceVersion"] += "1"
        return self.body

    def authority(self) -> Authority:
        return load_authority(self.body["data"], source="a test")


def rotation(api: OneSecret, **facts: Any) -> Rotation:
    return Rotation(
        api,  # type: ignore[arg-type]  # what it calls
        namespace="prfaas-system",
        region="eu",
        region_trusts=lambda: facts.get("region_trusts"),
        old_leaves=lambda _: facts.get("old_leaves", 0),
    )


def certificates(bundle: bytes) -> list[str]:
    return [
        f"-----BEGIN CERTIFICATE-----{each}".strip()
        for each in bundle.decode().split("-----BEGIN CERTIFICATE-----")[1:]
    ]


def believes(bundle: bytes, leaf: dict[str, str], folder: Any) -> bool:
    """Whether a peer that trusts a bundle takes a certificate, by a handshake in memory."""
    paths = [folder / name for name in ("tls.crt", "tls.key")]
    for path in paths:
        path.write_bytes(base64.b64decode(leaf[path.name]))
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(*paths)
    client.check_hostname = False
    client.load_verify_locations(cadata=bundle.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    try:
        for _ in range(3):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError:
        return False
    return ends[0].version() is not None


async def test_a_whole_rotation_leaves_nobody_without_trust(tmp_path: Any) -> None:
    """Before and after each step, holders of the bundle of one side believe the leaves of the other."""
    since = datetime.now(UTC)
    asked = {keys.ANNOTATION_ROTATE_CA: "now"}
    api = OneSecret(new_authority("eu", now=since), asked)
    trusts: set[str] = {authority_id(api.authority().pem)}
    turning = rotation(api, region_trusts=trusts)
    steps: list[Step] = []
    seen: list[tuple[bytes, dict[str, str]]] = []

    def look() -> None:
        signer = api.authority()
        seen.append((signer.bundle, signer.issue(IDENTITY, valid=timedelta(days=1), now=since)))
        for bundle, leaf in seen[-2:]:
            assert believes(bundle, seen[-1][1], tmp_path)
            assert believes(seen[-1][0], leaf, tmp_path)

    look()
    now = since
    for _ in range(12):
        changed = await turning.advance(api.body, api.authority(), now)
        if changed:
            steps.append(turning.plan.step)
            look()
            # What the user does when told to.
            trusts |= {authority_id(each.encode()) for each in certificates(api.authority().bundle)}
        elif turning.plan.step is Step.NOTHING:
            break
        now += timedelta(minutes=5)
    assert steps == [Step.BEGIN, Step.SIGN, Step.FINISH]
    assert set(api.body["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert api.body["metadata"]["annotations"] == {}
    assert len(certificates(api.authority().bundle)) == 1
    assert not believes(api.authority().bundle, seen[0][1], tmp_path)


async def test_it_waits_for_the_region_object_and_for_the_leaves() -> None:
    api = OneSecret(new_authority("eu", now=NOW), {keys.ANNOTATION_ROTATE_CA: "x"})
    assert await rotation(api, region_trusts=frozenset()).advance(api.body, api.authority(), NOW)
    later = NOW + timedelta(hours=1)
    for facts in ({"region_trusts": frozenset()}, {"old_leaves": 2}):
        turning = rotation(api, **facts)
        assert not await turning.advance(api.body, api.authority(), later)
        assert turning.plan.step is Step.WAIT
    assert await rotation(api).advance(api.body, api.authority(), later)


async def test_who_is_overtaken_changes_nothing() -> None:
    api = OneSecret(new_authority("eu", now=NOW), {keys.ANNOTATION_ROTATE_CA: "x"})
    api.conflict = True
    before = dict(api.body["data"])
    assert not await rotation(api).advance(api.body, api.authority(), NOW)
    assert api.body["data"] == before


def test_a_rotation_survives_the_deletion_of_the_secret() -> None:
    """What is put back from memory is all of it."""
    old, new = new_authority("eu", now=NOW), new_authority("eu", now=NOW)
    joined = base64.b64encode(base64.b64decode(old["tls.crt"]) + base64.b64decode(new["tls.crt"])).decode()
    data = {**old, "ca.crt": joined, "next.crt": new["tls.crt"], "next.key": new["tls.key"]}
    assert load_authority(data, source="a test").data() == data


def test_one_authority_has_the_id_that_it_had_before_rotations_were_known() -> None:
    """An upgrade of the operator renews no certificate."""
    made = load_authority(new_authority("eu", now=NOW), source="a test")
    assert made.id == made.signing_id
    assert made.bundle == made.pem


@pytest.mark.parametrize("bundle", [b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n", b"\xff"])
def test_a_bundle_that_cannot_be_read_is_said(bundle: bytes) -> None:
    data = {**new_authority("eu", now=NOW), "ca.crt": base64.b64encode(bundle).decode()}
    with pytest.raises(Exception, match=r"ca\.crt"):
        load_authority(data, source="Secret x")
