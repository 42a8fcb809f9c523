"""Prices and carbon by region and hour: a document from a file or an endpoint, checked as a whole.

    version: 1
    asOf: 2026-03-01T12:00:00Z
    entries:
    - {region: eu, pricePerHour: 2.4, carbonKilogramsPerHour: 0.12}
    - {region: us, hardware: h100, pricePerHour: 3.1, from: 2026-03-01T18:00:00Z, until: 2026-03-02T06:00:00Z}

Prices and carbon are of one accelerator. Of several entries that hold, the most special one counts: with the
hardware before without, with times before without, then the later one in the document.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from prfaas.capacity.errors import InvalidInputError

ENTRIES_MAX = 10_000
DOCUMENT_CHARACTERS_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class SignalEntry:
    """Price and carbon of one accelerator-hour. Times are seconds since the epoch, None: no such bound."""

    region: str
    hardware: str | None = None
    price_per_hour: float | None = None
    carbon_kilograms_per_hour: float | None = None
    from_seconds: float | None = None
    until_seconds: float | None = None

    def holds(self, region: str, hardware: str | None, now: float) -> bool:
        """Whether it speaks of that place, hardware and time."""
        return (
            self.region == region
            and self.hardware in (None, hardware)
            and (self.from_seconds is None or self.from_seconds <= now)
            and (self.until_seconds is None or now < self.until_seconds)
        )

    @property
    def rank(self) -> tuple[bool, bool]:
        return (
            self.hardware is not None,
            self.from_seconds is not None or self.until_seconds is not None,
        )


@dataclass(frozen=True, slots=True)
class Signals:
    """All entries of a document, and when they were made."""

    as_of_seconds: float
    entries: tuple[SignalEntry, ...] = ()

    def price_per_hour(self, region: str, hardware: str | None, now: float) -> float | None:
        """Of one accelerator; None where nothing is said."""
        return self._best(region, hardware, now, "price_per_hour")

    def carbon_kilograms_per_hour(self, region: str, hardware: str | None, now: float) -> float | None:
        """Of one accelerator; None where nothing is said."""
        return self._best(region, hardware, now, "carbon_kilograms_per_hour")

    def _best(self, region: str, hardware: str | None, now: float, field: str) -> float | None:
        said = [
            (entry.rank, index, float(value))
            for index, entry in enumerate(self.entries)
            if entry.holds(region, hardware, now) and (value := getattr(entry, field)) is not None
        ]
        return max(said)[2] if said else None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, allow_inf_nan=False)


class _Entry(_Part):
    region: str = Field(min_length=1, max_length=63)
    hardware: str | None = Field(default=None, min_length=1, max_length=63)
    price_per_hour: float | None = Field(default=None, ge=0, le=1e6)
    carbon_kilograms_per_hour: float | None = Field(default=None, ge=0, le=1e6)
    from_: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Entry:
        if self.price_per_hour is None and self.carbon_kilograms_per_hour is None:
            raise ValueError("needs pricePerHour, carbonKilogramsPerHour or both")
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise ValueError("until must be later than from")
        return self


class _Document(_Part):
    version: Literal[1]
    as_of: AwareDatetime
    entries: tuple[_Entry, ...] = Field(max_length=ENTRIES_MAX)


def parse_signals(document: Any) -> Signals:
    """A document that was read from JSON or YAML already, or JSON as text.

    Raises:
        InvalidInputError: it is none; names the field, what is wrong with it, and what to do.
    """
    if isinstance(document, str | bytes):
        if len(document) > DOCUMENT_CHARACTERS_MAX:
            raise InvalidInputError("signals", f"has {len(document)} characters", "give at most 4 Mi")
        try:
            document = json.loads(document)
        except ValueError as error:
            raise InvalidInputError("signals", f"is not JSON: {error}", "see docs/autoscaler.md") from error
    try:
        parsed = _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in ("signals", *first["loc"]))
        raise InvalidInputError(
            place, str(first["msg"]).removeprefix("Value error, "), "see docs/autoscaler.md"
        ) from error
    return Signals(
        parsed.as_of.timestamp(),
        tuple(
            SignalEntry(
                entry.region,
                entry.hardware,
                entry.price_per_hour,
                entry.carbon_kilograms_per_hour,
                _seconds(entry.from_),
                _seconds(entry.until),
            )
            for entry in parsed.entries
        ),
    )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.astimezone(UTC).timestamp()
