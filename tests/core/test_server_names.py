"""What a dialling side says in the TLS server name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.server_names import address_label, gateway_name, kv_name, pod_name, region_of

DOMAIN = "example.org"


@pytest.mark.parametrize(
    ("host", "label"),
    [
        ("10.1.2.3", "10-1-2-3"),
        ("fd00::1", "fd00-0000-0000-0000-0000-0000-0000-0001"),
        ("fe80::1%eth0", "fe80-0000-0000-0000-0000-0000-0000-0001"),
        ("Pod-1.us_east.local", "pod-1-us-east-local"),
    ],
)
def test_addresses_become_labels(host: str, label: str) -> None:
    assert address_label(host) == label
    assert pod_name(host, DOMAIN) == f"{label}.kv.{DOMAIN}"
    for said in (host, pod_name(host, DOMAIN), f"eu.{label}.kv.{DOMAIN}"):
        assert kv_name("eu", said, DOMAIN) == f"eu.{label}.kv.{DOMAIN}"


@given(st.ip_addresses())
def test_a_label_turns_back_into_the_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    label = address_label(str(address))
    assert ipaddress.ip_address(label.replace("-", "." if address.version == 4 else ":")) == address
    assert region_of(kv_name("eu", str(address), DOMAIN), DOMAIN) == "eu"


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "pod-1.example.org",
        "10.1.2.3",
        "10-1-2-3.kv.example.org",
        "eu.10-1-2-3.kv.example.com",
        ".gateway.example.org",
        ".10-1-2-3.kv.example.org",
    ],
)
def test_other_names_say_no_region(name: str | None) -> None:
    assert region_of(name, DOMAIN) is None


def test_gateways_and_regions_with_dots() -> None:
    assert region_of(gateway_name("eu", DOMAIN), DOMAIN) == "eu"
    assert region_of(kv_name("eu.west", "10.1.2.3", DOMAIN), DOMAIN) == "eu.west"


@pytest.mark.parametrize(
    "pod", ["us.10-1-2-3.kv.example.org", "a.b.kv.example.org", ".kv.example.org", "ö.kv.example.org"]
)
def test_a_name_of_another_form_is_refused(pod: str) -> None:
    with pytest.raises(ValueError, match="is not <pod address with dashes>"):
        kv_name("eu", pod, DOMAIN)


def test_what_tls_could_not_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="shorten region or trust domain"):
        kv_name("e" * 64, "10.1.2.3", DOMAIN)
