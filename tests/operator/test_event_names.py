"""Names of Events: who lists an object's events by name reads them in the order in which they happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prfaas_operator.runtime.events import event_name

START = datetime(2026, 1, 1, tzinfo=UTC)
# A DNS subdomain: what the API server takes as a name.
MOST_CHARACTERS = 253


def test_events_stand_in_the_order_of_time() -> None:
    moments = [START + timedelta(microseconds=step) for step in (0, 1, 999_999, 1_000_000, 10**12, 10**15)]
    reasons = ["Scaled", "Available", "RevisionCreated", "Resized", "Managed", "Held"]
    names = [event_name("chat", reason, at) for reason, at in zip(reasons, moments, strict=True)]
    assert sorted(names) == names


def test_two_events_of_one_moment_have_names_of_their_own() -> None:
    assert event_name("chat", "Scaled", START) != event_name("chat", "Available", START)


def test_a_long_name_of_the_object_leaves_room_for_the_rest() -> None:
    assert len(event_name("x" * 253, "Scaled", START)) <= MOST_CHARACTERS
