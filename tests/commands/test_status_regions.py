"""`prfaas status` with several regions: the screens are in golden/, one file per state."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.commands.status.regions import link_view, region_view
from prfaas.commands.status.regions_text import bits, size
from prfaas.commands.status.view import Health
from tests.commands import federated_fleets as fleets
from tests.commands.test_status_view import text_of

GOLDEN = Path(__file__).parent / "golden"
STATES = (fleets.two_regions, fleets.link_down, fleets.hub_down, fleets.region_down, fleets.rotation)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_the_screen_of_each_state_of_a_federation(state: type) -> None:
    golden = GOLDEN / f"{state.__name__}.txt"
    assert text_of(state(), width=150) == golden.read_text(encoding="utf-8")


def test_a_region_and_a_link_that_nobody_has_looked_at() -> None:
    body = {"metadata": {"name": "us"}, "spec": {}}
    assert region_view(body, fleets.NOW).health is Health.UNSEEN
    link = {"metadata": {"name": "us-eu"}, "spec": fleets.link("us", "eu")["spec"]}
    assert link_view(link).health is Health.UNSEEN
    assert link_view({"metadata": {"name": "us-eu"}, "spec": {"source": 1}}).reason == "NotReadable"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bits(0), "0 bit/s"),
        (bits(999), "999 bit/s"),
        (bits(9_400_000_000), "9.4 Gbit/s"),
        (bits(940_000_000), "940 Mbit/s"),
        (size(1024), "1.0 KiB"),
        (size(3 * 1024**4), "3.0 TiB"),
    ],
)
def test_figures_for_people(text: str, expected: str) -> None:
    assert text == expected
