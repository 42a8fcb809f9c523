"""Paths out of the own region, judged by who sends over them."""

from __future__ import annotations

import json

import pytest

from prfaas.autoscaling import LinkObservation, LinkState
from prfaas_operator.planning.autoscale.loads import EngineLoad, Interval, Sent, interval, read_load
from prfaas_operator.planning.autoscale.paths import PathUse, merged, round_of, use_of, within_window
from prfaas_operator.runtime.path_uses import PathUses


def part(sent_bytes: float, waiting_seconds: float, waiting_bytes: float, seconds: float = 10.0) -> Interval:
    after = EngineLoad(seconds, "a", 1, 0, sent={"eu": Sent(sent_bytes, waiting_seconds, waiting_bytes)})
    return Interval(seconds, EngineLoad(0.0, "a", 1, 0), after)


def used(*parts: Interval) -> PathUse:
    this = round_of(parts, "eu", 0.0)
    assert this is not None
    use = use_of([this])
    assert use is not None
    return use


def test_a_path_that_is_never_waited_for_has_no_known_capacity() -> None:
    use = used(part(50e6, 0.4, 40e6))
    assert use.used_share == pytest.approx(0.04)
    assert use.sent_bits_per_second == pytest.approx(40e6)
    assert use.capacity_bits_per_second is None


def test_a_full_path_carries_what_it_carried_meanwhile() -> None:
    use = used(part(50e6, 10.0, 50e6))
    assert (use.used_share, use.capacity_bits_per_second) == (pytest.approx(1.0), pytest.approx(40e6))


def test_pods_that_wait_at_the_same_time_share_it() -> None:
    use = used(part(25e6, 10.0, 25e6), part(25e6, 10.0, 25e6))
    assert use.capacity_bits_per_second == pytest.approx(40e6)
    assert used(part(25e6, 5.0, 25e6), part(25e6, 5.0, 25e6)).used_share == pytest.approx(0.75)


def test_the_sender_knows_better_than_the_receiver_and_the_declaration() -> None:
    declared = LinkObservation("us", "eu", LinkState.UNKNOWN, 1e9, None, 0.04, 500.0, 0.03, 0.02)
    other = LinkObservation("eu", "us", LinkState.HEALTHY, 1e9)
    (same, link) = merged([declared, other], {"eu": PathUse(0.98, 39e6, 40e6)}, "us")
    assert same == other
    assert (link.state, link.capacity_bits_per_second, link.used_share) == (LinkState.HEALTHY, 40e6, 0.98)
    assert (link.age_seconds, link.rtt_seconds, link.price_per_gigabyte) == (0.0, 0.03, 0.02)
    (_, link) = merged([declared, other], {"eu": PathUse(0.01, 39e6, None)}, "us")
    assert link.capacity_bits_per_second == 1e9, "a sender that hardly waits says nothing of the capacity"
    (_, link) = merged([declared, other], {"eu": PathUse(0.4, 39e6, 2e9)}, "us")
    assert link.capacity_bits_per_second == 1e9, "nobody plans for more than what is declared"


def test_a_link_that_is_down_or_out_of_budget_stays_so_and_the_own_region_is_no_link() -> None:
    for state in (LinkState.DOWN, LinkState.CONGESTED):
        (link,) = merged([LinkObservation("us", "eu", state)], {"eu": PathUse(0.0, 0.0, None)}, "us")
        assert link.state is state
    assert merged([], {"us": PathUse(1.0, 1.0, 1.0)}, "us") == ()


def told(at: float, *links: dict[str, object]) -> EngineLoad:
    body = {"version": 1, "incarnation": "a", "running": 1, "waiting": 0, "links_out": list(links)}
    load = read_load(json.dumps(body).encode(), at)
    assert load is not None
    return load


def test_one_minute_is_remembered_and_a_sidecar_that_began_anew_counts_from_there() -> None:
    paths = PathUses()
    before = told(0.0, {"region": "eu", "sent_bytes": 100, "waiting_seconds": 90, "waiting_bytes": 100})
    after = told(10.0, {"region": "eu", "sent_bytes": 50, "waiting_seconds": 1, "waiting_bytes": 50})
    use = paths.take([(after, interval(before, after))], 10.0)["eu"]
    assert use.used_share == 0.0
    busy = told(20.0, {"region": "eu", "sent_bytes": 60, "waiting_seconds": 11, "waiting_bytes": 60})
    assert paths.take([(busy, interval(after, busy))], 20.0)["eu"].used_share == pytest.approx(0.5)
    assert paths.take([], 75.0)["eu"].used_share == pytest.approx(1.0)
    assert paths.take([], 81.0) == {}
    assert within_window((), 0.0) == ()
    assert round_of([], "eu", 0.0) is None


def test_a_sidecar_of_before_tells_nothing_of_links_and_a_bad_number_is_refused() -> None:
    assert told(0.0).sent == {}
    with pytest.raises(ValueError, match="number"):
        told(0.0, {"region": "eu", "sent_bytes": -1})
