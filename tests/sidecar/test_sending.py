"""What went to other regions, and how long the path made it wait."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from prfaas_sidecar.sending import Sending

MEGABYTE = 1_000_000


@dataclass(eq=False)
class Stream:
    """As much of a stream as is looked at."""

    identity: Any
    sent_bytes: int = 0
    waits_for_path: bool = False


def stream(region: str | None = "eu") -> Any:
    return Stream(None if region is None else SimpleNamespace(region=region))


def test_time_counts_while_kv_waits_for_the_path_and_gives_its_rate() -> None:
    sending, one = Sending(), stream()
    sending.tick(0.0, [one])
    for number in range(1, 11):
        one.sent_bytes += MEGABYTE
        one.waits_for_path = number > 5
        sending.tick(number * 0.1, [one])
    (told,) = sending.as_json()
    assert told == {
        "region": "eu",
        "sent_bytes": 10 * MEGABYTE,
        "waiting_seconds": pytest.approx(0.5),
        "waiting_bytes": 5 * MEGABYTE,
    }


def test_a_stream_that_waits_beside_one_that_does_not_counts_by_half() -> None:
    sending, slow, fast, idle = Sending(), stream(), stream(), stream()
    sending.tick(0.0, [slow, fast, idle])
    slow.waits_for_path = True
    fast.sent_bytes = MEGABYTE
    sending.tick(1.0, [slow, fast, idle])
    assert sending.as_json()[0]["waiting_seconds"] == pytest.approx(0.5)


def test_a_path_that_takes_nothing_at_all_is_waited_for() -> None:
    sending, one = Sending(), stream()
    one.waits_for_path = True
    sending.tick(0.0, [one])
    sending.tick(2.0, [one])
    assert sending.as_json()[0]["waiting_seconds"] == pytest.approx(2.0)
    assert sending.as_json()[0]["waiting_bytes"] == 0


def test_regions_are_counted_apart_and_streams_without_a_name_not_at_all() -> None:
    sending, eu, ap, nobody = Sending(), stream("eu"), stream("ap"), stream(None)
    sending.tick(0.0, [eu, ap, nobody])
    for each in (eu, ap, nobody):
        each.sent_bytes = MEGABYTE
    sending.tick(0.1, [eu, ap, nobody])
    assert [each["region"] for each in sending.as_json()] == ["ap", "eu"]
    sending.tick(0.2, [])
    assert [each["sent_bytes"] for each in sending.as_json()] == [MEGABYTE, MEGABYTE]
