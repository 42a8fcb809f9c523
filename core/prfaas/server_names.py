"""TLS server names: how a dialling side says which region it is of, and which pod it means
(docs/federation.md, "Trust")."""

from __future__ import annotations

import ipaddress
import re

_MAX_NAME_CHARACTERS = 253
_MAX_LABEL_CHARACTERS = 63
_NOT_IN_LABELS = re.compile(r"[^a-z0-9-]")
_ADDRESS_LABEL = re.compile(r"[a-z0-9-]{1,63}")


def address_label(host: str) -> str:
    """A pod's address as one label: ``10-1-2-3``; IPv6 in full, as eight groups of four digits.

    A host name gets a label as well, which no proxy can turn back into an address.
    """
    try:
        text = ipaddress.ip_address(host.partition("%")[0]).exploded
    except ValueError:
        text = host.lower()
    return _NOT_IN_LABELS.sub("-", text)[:_MAX_LABEL_CHARACTERS]


def pod_name(host: str, trust_domain: str) -> str:
    """What a gateway tells of a pod that is reached by server name: ``10-1-2-3.kv.<trust domain>``; who dials
    puts its own region in front."""
    return f"{address_label(host)}.kv.{trust_domain}"


def kv_name(region: str, pod: str, trust_domain: str) -> str:
    """The server name by which ``region`` dials a sidecar.

    Args:
        region: of the side that dials.
        pod: an address, or a `pod_name`, or that with ``region`` in front already.
        trust_domain: of both sides.

    Raises:
        ValueError: ``pod`` is a name of another form, or the result is too long for TLS.
    """
    suffix = f".kv.{trust_domain}"
    label = pod.removesuffix(suffix).removeprefix(f"{region}.") if pod.endswith(suffix) else None
    label = address_label(pod) if label is None else label
    if not _ADDRESS_LABEL.fullmatch(label):
        raise ValueError(f"{pod[:200]!r} is not <pod address with dashes>{suffix}")
    return _checked(f"{region}.{label}{suffix}")


def gateway_name(region: str, trust_domain: str) -> str:
    """The server name by which the gateways of ``region`` dial gateways and control ports.

    Raises:
        ValueError: the result is too long for TLS.
    """
    return _checked(f"{region}.gateway.{trust_domain}")


def region_of(server_name: str | None, trust_domain: str) -> str | None:
    """The region that a dialling side says to be of; None for no name and for names of another form, which
    earlier versions send."""
    if server_name is None:
        return None
    if region := _before(server_name, f".gateway.{trust_domain}"):
        return region
    region, _, label = _before(server_name, f".kv.{trust_domain}").rpartition(".")
    return region if region and label else None


def _before(name: str, suffix: str) -> str:
    return name.removesuffix(suffix) if name.endswith(suffix) else ""


def _checked(name: str) -> str:
    if len(name) > _MAX_NAME_CHARACTERS or not all(
        0 < len(label) <= _MAX_LABEL_CHARACTERS for label in name.split(".")
    ):
        raise ValueError(
            f"server name {name[:253]!r}: it may have {_MAX_NAME_CHARACTERS} characters, and "
            f"{_MAX_LABEL_CHARACTERS} between two dots; shorten region or trust domain"
        )
    return name
