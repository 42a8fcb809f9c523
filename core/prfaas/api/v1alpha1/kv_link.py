"""KVLink: the way that KV takes from one region to another."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from prfaas.api.keys import API_VERSION
from prfaas.api.v1alpha1.common import DNS_LABEL_PATTERN, ApiModel, ObjectMeta, ObjectStatus, Time
from prfaas.api.v1alpha1.conditions import Conditions
from prfaas.api.v1alpha1.schema import Rule, immutable, rules

BITS_PER_SECOND_MAX = 10**15
BYTES_MAX = 2**62


class LinkEnd(ApiModel):
    """One end of a link."""

    region: str = Field(
        min_length=1, max_length=63, pattern=DNS_LABEL_PATTERN, description="Name of the region."
    )


class KVLinkSpec(ApiModel):
    """Ends of the link, and what it may carry."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.source.region != self.destination.region",
                message="source and destination must be different regions",
            )
        )
    )

    source: LinkEnd = Field(
        description="The region that prefills and sends KV. Immutable.",
        json_schema_extra=immutable("source", "make another KVLink"),
    )
    destination: LinkEnd = Field(
        description="The region that decodes and receives KV. Immutable.",
        json_schema_extra=immutable("destination", "make another KVLink"),
    )
    capacity_bits_per_second: int | None = Field(
        default=None,
        ge=1,
        le=BITS_PER_SECOND_MAX,
        description="What KV may use of the path, in bits per second. Absent: what is measured.",
    )
    budget_bytes_per_month: int | None = Field(
        default=None,
        ge=0,
        le=BYTES_MAX,
        description="Most bytes of KV per calendar month (UTC). What is above it stays local. Absent: "
        "no bound.",
    )
    price_per_gibibyte: float | None = Field(
        default=None, ge=0, le=1e6, description="Price of a GiB sent, in the currency of all other prices."
    )


class KVLinkStatus(ObjectStatus):
    """What was measured, by the destination."""

    goodput_bits_per_second: int | None = Field(
        default=None, ge=0, description="KV received per second of transfer, in bits, lately."
    )
    rtt_seconds: float | None = Field(
        default=None, ge=0, description="Round trip of the streams in use, in seconds."
    )
    retransmits_percent: float | None = Field(
        default=None, ge=0, le=100, description="Segments sent again, in percent."
    )
    utilisation_percent: int | None = Field(
        default=None, ge=0, le=1000, description="Use of the capacity over the last minute, in percent."
    )
    spent_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes received since spentSince; what is not known counts as received.",
    )
    spent_since: Time | None = Field(default=None, description="Beginning of the budget's month.")
    conditions: Conditions = ()


class KVLink(ApiModel):
    """The way that KV takes from one region to another: what it may carry and what it carries."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.metadata.name == self.spec.source.region + '-' + self.spec.destination.region",
                message="a KVLink is named <source region>-<destination region>, one per pair",
            )
        )
    )

    api_version: Literal["prfaas.io/v1alpha1"] = API_VERSION
    kind: Literal["KVLink"] = "KVLink"
    metadata: ObjectMeta
    spec: KVLinkSpec = Field(description="Ends of the link, and what it may carry.")
    status: KVLinkStatus = Field(default=KVLinkStatus(), description="What was measured, by the destination.")
