"""Status of a KVLink: hysteresis, and when it is worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from prfaas.api.v1alpha1 import KVLinkSpec, KVLinkStatus
from prfaas_operator.federation.egress import LinkLedger
from prfaas_operator.federation.links import LinkMeasured, is_to_be_written, status

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
LEDGER = LinkLedger(since=NOW.replace(day=1, hour=0), read_at=NOW, spent_bytes=10**9)
GOOD = LinkMeasured(
    received_bytes=3 * 10**9,
    goodput_bits_per_second=9e8,
    rtt_seconds=0.08,
    retransmits_percent=0.5,
    complete=40,
    idle_seconds=0.0,
)
QUIET = LinkMeasured(idle_seconds=100.0)
IDLE = LinkMeasured(idle_seconds=301.0)


def spec(**fields: Any) -> KVLinkSpec:
    ends = {"source": {"region": "us"}, "destination": {"region": "eu"}}
    return KVLinkSpec.model_validate({**ends, "capacityBitsPerSecond": 10**9, **fields})


def after(*rounds: LinkMeasured, ledger: LinkLedger = LEDGER, of: KVLinkSpec | None = None) -> KVLinkStatus:
    stored = KVLinkStatus()
    for measured in rounds:
        stored = status(of or spec(), stored, measured, ledger, generation=3, now=NOW)
    return stored


def conditions(found: KVLinkStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (str(each.status), each.reason) for each in found.conditions}


def test_a_link_that_works() -> None:
    found = after(GOOD)
    assert conditions(found) == {
        "Healthy": ("True", "Measured"),
        "Congested": ("False", "NotSaturated"),
        "Down": ("False", "Carries"),
    }
    assert (found.goodput_bits_per_second, found.utilisation_percent) == (900_000_000, 40)
    assert (found.spent_bytes, found.spent_since, found.observed_generation) == (10**9, LEDGER.since, 3)


@pytest.mark.parametrize(
    ("rounds", "condition", "wanted"),
    [
        pytest.param([replace(GOOD, retransmits_percent=9.0)], "Healthy", "Measured", id="some loss"),
        pytest.param([replace(GOOD, retransmits_percent=11.0)], "Healthy", "Lossy", id="lossy"),
        pytest.param(
            [replace(GOOD, retransmits_percent=11.0), replace(GOOD, retransmits_percent=9.0)],
            "Healthy",
            "Lossy",
            id="still lossy",
        ),
        pytest.param(
            [replace(GOOD, retransmits_percent=11.0), replace(GOOD, retransmits_percent=3.0)],
            "Healthy",
            "Measured",
            id="not lossy any more",
        ),
        pytest.param([replace(GOOD, goodput_bits_per_second=2e8)], "Healthy", "Slow", id="slow"),
        pytest.param(
            [replace(GOOD, goodput_bits_per_second=2e8, received_bytes=1000)],
            "Healthy",
            "Measured",
            id="too little to tell",
        ),
        pytest.param([replace(GOOD, failed=10)], "Healthy", "TransfersFail", id="a fifth fails"),
        pytest.param([replace(GOOD, received_bytes=7 * 10**9)], "Congested", "Saturated", id="full"),
        pytest.param(
            [replace(GOOD, received_bytes=6 * 10**9)], "Congested", "NotSaturated", id="not quite full"
        ),
        pytest.param(
            [replace(GOOD, received_bytes=7 * 10**9), replace(GOOD, received_bytes=6 * 10**9)],
            "Congested",
            "Saturated",
            id="still full",
        ),
        pytest.param([QUIET], "Down", "Idle", id="nothing known yet"),
        pytest.param([LinkMeasured(failed=2, idle_seconds=0)], "Down", "Idle", id="two failures"),
        pytest.param([LinkMeasured(failed=3, idle_seconds=0)], "Down", "TransfersFail", id="down"),
        pytest.param(
            [LinkMeasured(failed=3, idle_seconds=0), QUIET], "Down", "TransfersFail", id="still down"
        ),
        pytest.param([LinkMeasured(failed=3, idle_seconds=0), IDLE], "Down", "Idle", id="down long ago"),
        pytest.param([LinkMeasured(failed=9, idle_seconds=0), GOOD], "Down", "Carries", id="up again"),
        pytest.param([GOOD, QUIET], "Healthy", "Measured", id="quiet for a moment"),
        pytest.param([GOOD, IDLE], "Healthy", "Idle", id="idle"),
    ],
)
def test_conditions_do_not_flap(rounds: list[LinkMeasured], condition: str, wanted: str) -> None:
    assert conditions(after(*rounds))[condition][1] == wanted


def test_a_spent_budget_is_congestion_until_the_month_ends() -> None:
    limited = spec(budgetBytesPerMonth=10**9)
    assert conditions(after(IDLE, of=limited))["Congested"] == ("True", "BudgetSpent")
    new_month = replace(LEDGER, spent_bytes=5)
    assert conditions(after(IDLE, ledger=new_month, of=limited))["Congested"] == ("False", "Idle")


def test_without_a_capacity_what_was_measured_counts() -> None:
    unknown = spec(capacityBitsPerSecond=None)
    found = after(replace(GOOD, received_bytes=int(0.95 * 9e8 * 60 / 8)), of=unknown)
    assert conditions(found)["Congested"] == ("True", "Saturated")
    assert after(QUIET, of=unknown).utilisation_percent is None


@pytest.mark.parametrize(
    ("ago", "measured", "written"),
    [
        pytest.param(None, GOOD, False, id="the same"),
        pytest.param(61, replace(GOOD, goodput_bits_per_second=9.8e8), False, id="less than a tenth"),
        pytest.param(61, replace(GOOD, goodput_bits_per_second=10e8), True, id="more than a tenth"),
        pytest.param(59, replace(GOOD, goodput_bits_per_second=10e8), False, id="too soon"),
        pytest.param(59, LinkMeasured(failed=5, idle_seconds=0), False, id="a condition, too soon"),
        pytest.param(60, LinkMeasured(failed=5, idle_seconds=0), True, id="a condition"),
        pytest.param(61, replace(GOOD, retransmits_percent=2.0), False, id="a few points"),
        pytest.param(61, replace(GOOD, rtt_seconds=None), True, id="no round trip any more"),
    ],
)
def test_writes_are_few(ago: float | None, measured: LinkMeasured, written: bool) -> None:
    stored = after(GOOD)
    wanted = status(spec(), stored, measured, LEDGER, generation=3, now=NOW)
    assert is_to_be_written(stored, wanted, written_seconds_ago=ago) is written
