"""Reports, what they add up to, and who counts as lost; times are values."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.api import keys
from prfaas.api.conditions import ConditionType, Reason
from prfaas.api.v1alpha1 import (
    ClusterReport,
    Condition,
    ConditionStatus,
    Hop,
    HopName,
    PoolStatus,
    ReportedPool,
    SeenFromHere,
)
from prfaas_operator.federation import hub, liveness, regions
from prfaas_operator.federation.aggregate import Allowance, ClusterState, placed, report_fresh
from prfaas_operator.federation.regions import BundleFact, GatewayView
from prfaas_operator.federation.report import (
    PAUSE_SECONDS,
    REPORT_MAX_BYTES,
    report,
    reported_pool,
    seconds_until_write,
)
from prfaas_operator.federation.values import ObjectKey, Refused

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
KEY = ObjectKey(keys.PREFILL_POOL, "serving", "long")


def told(name: str, ready: ConditionStatus = ConditionStatus.TRUE, **fields: Any) -> ReportedPool:
    return ReportedPool(
        kind="PrefillPool",
        namespace="serving",
        name=name,
        ready=ready,
        reason="Serving",
        desired_replicas=2,
        ready_replicas=2,
        **fields,
    )


# --- reports


def test_a_pool_is_told_by_its_status() -> None:
    condition = Condition(
        type="Ready",
        status=ConditionStatus.FALSE,
        last_transition_time=NOW,
        reason="CrashLooping",
        message="x" * 3000,
    )
    status = PoolStatus(desired_replicas=3, ready_replicas=1, conditions=(condition,))
    found = reported_pool(KEY, {keys.ANNOTATION_MIRRORED_FROM: "hub-1/serving/long/7"}, status)
    assert (found.hub_generation, found.desired_replicas, found.reason) == (7, 3, "CrashLooping")
    assert found.message is not None
    assert len(found.message) == 1024
    fresh = reported_pool(KEY, {}, PoolStatus())
    assert (fresh.hub_generation, fresh.ready, fresh.reason) == (None, ConditionStatus.UNKNOWN, "NotObserved")


@given(st.integers(0, 400), st.integers(0, 1024))
def test_a_report_never_grows_over_its_bounds_and_keeps_those_in_trouble(good: int, words: int) -> None:
    pools = [told(f"good-{number}", message="m" * words) for number in range(good)]
    pools += [told(f"bad-{number}", ConditionStatus.FALSE) for number in range(5)]
    found = report("us", "1.0", pools)
    assert len(json.dumps({"clusters": [found.to_api()]}).encode()) <= REPORT_MAX_BYTES
    assert len(found.pools) + found.omitted_pools == good + 5
    assert {each.name for each in found.pools if each.ready is ConditionStatus.FALSE} == {
        f"bad-{number}" for number in range(5)
    }


def test_the_order_of_pools_is_no_change() -> None:
    one, two = told("one"), told("two", ConditionStatus.FALSE)
    assert report("us", "1", [one, two]) == report("us", "1", [two, one])


def test_a_refused_pool_is_told_with_what_runs_of_it() -> None:
    refused = Refused(KEY, Reason.NAME_CLASH, "rename it")
    found = report("us", "1", [told("long")], [refused])
    (pool,) = found.pools
    assert (pool.ready, pool.reason, pool.message) == (ConditionStatus.FALSE, "NameClash", "rename it")
    assert pool.ready_replicas == 2
    alone = report(
        "us", "1", [], [refused, Refused(ObjectKey(keys.REGION, "", "eu"), Reason.NAME_CLASH, "x")]
    )
    assert [each.name for each in alone.pools] == ["long"]


def test_when_a_report_is_written() -> None:
    first, second = report("us", "1", [told("a")]), report("us", "1", [told("b")])
    assert seconds_until_write(None, float("-inf"), first, 5.0) == 0.0
    assert seconds_until_write(first, 5.0, first, 1e9) is None
    assert seconds_until_write(first, 5.0, second, 6.0) == PAUSE_SECONDS - 1.0
    assert seconds_until_write(first, 5.0, second, 100.0) == 0.0


# --- liveness


@given(
    st.integers(-60, 60),
    st.lists(st.floats(9.0, 11.0), min_size=1, max_size=30),
    st.floats(0.0, 5.0),
)
def test_a_cluster_is_lost_thirty_seconds_after_its_last_beat_whatever_its_clock_says(
    skew_seconds: int, pauses: list[float], delay: float
) -> None:
    """The observer looks each second, and sees a beat `delay` seconds after it was made."""
    beats = [0.0]
    for pause in pauses:
        beats.append(beats[-1] + pause)
    seen: liveness.LeaseSeen | None = None
    lost_at = None
    for tick in range(int(beats[-1]) + 60):
        made = [beat for beat in beats if beat + delay <= tick]
        if not made:
            continue
        renewed = (NOW + timedelta(seconds=made[-1] + skew_seconds)).isoformat()
        seen = liveness.see_lease(seen, renewed, float(tick), NOW + timedelta(seconds=tick))
        if liveness.is_stale(seen, float(tick)):
            lost_at = tick
            break
        left = liveness.seconds_until_stale(seen, float(tick))
        assert left is not None
        assert not liveness.is_stale(seen, tick + left)
    assert lost_at is not None
    last_seen = beats[-1] + delay
    assert last_seen + 30 <= lost_at <= last_seen + 32


def test_a_lease_that_is_old_at_first_sight_counts_as_lost_at_once() -> None:
    hour_ago = (NOW - timedelta(hours=1)).isoformat()
    seen = liveness.see_lease(None, hour_ago, 5.0, NOW)
    assert liveness.is_stale(seen, 5.0)
    assert seen.since_wall == NOW - timedelta(hours=1)
    assert liveness.is_stale(liveness.see_lease(None, "", 5.0, NOW), 5.0)
    # It begins to beat.
    assert not liveness.is_stale(liveness.see_lease(seen, NOW.isoformat(), 6.0, NOW), 6.0)


# --- adding up


def states(**changes: Any) -> dict[str, ClusterState]:
    good = ClusterState("us", ClusterReport(name="us", pools=(told("long", hub_generation=3),)))
    return {"us": good, "eu": ClusterState("eu", heard=False), **changes}


def test_pools_add_up_by_cluster() -> None:
    clusters, text = placed(KEY, 3, ("us", "eu", "nowhere"), states())
    by_name = {each.name: each for each in clusters}
    assert text == "eu ?, nowhere ?, us 2/2"
    assert by_name["us"].ready is ConditionStatus.TRUE
    assert by_name["eu"].reason == "NeverReported"
    assert by_name["nowhere"].reason == "UnknownCluster"


def test_an_older_generation_and_a_lost_cluster_are_said() -> None:
    (us,), text = placed(KEY, 4, ("us",), states())
    assert (us.ready, us.reason) == (ConditionStatus.UNKNOWN, "Mirroring")
    lost = ClusterState("us", states()["us"].report, lost_since=NOW)
    (us,), text = placed(KEY, 3, ("us",), states(us=lost))
    assert us.stale
    assert text == "us 2/2 (stale)"


def test_report_fresh() -> None:
    assert report_fresh("us", ("us",), states()).reason is Reason.REPORTED
    never = report_fresh("eu", ("eu",), states())
    assert (never.status, never.reason) == (ConditionStatus.UNKNOWN, Reason.NEVER_REPORTED)
    lost = ClusterState("us", None, lost_since=NOW)
    finding = report_fresh("us", ("us", "eu"), states(us=lost))
    assert (finding.status, finding.reason) == (ConditionStatus.FALSE, Reason.LEASE_STALE)
    assert "cluster us was last heard of at 2026-05-01T12:00:00Z" in finding.message


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=200))
def test_writes_keep_to_their_allowance(pauses: list[float]) -> None:
    allowance, now = Allowance(4.0, 10.0, 10.0, 0.0), 0.0
    done: list[float] = []
    for pause in pauses:
        now += pause
        allowance, wait = allowance.spend(now)
        now += wait
        done.append(now)
    for first, start in enumerate(done):
        for last in range(first, len(done)):
            assert last - first + 1 <= 10 + 4.0 * (done[last] - start) + 1.001


# --- regions


def view(age: float | None = 0.4, failing: HopName | None = None, code: str | None = None) -> GatewayView:
    hops = []
    for name in HopName:
        hops.append(Hop(name=name, ok=name is not failing, message="why" if name is failing else None))
        if name is failing:
            break
    return GatewayView("us", age, tuple(hops), code)


@pytest.mark.parametrize(
    ("views", "status", "reason"),
    [
        ([], ConditionStatus.UNKNOWN, Reason.NOT_LOOKED_YET),
        ([view()], ConditionStatus.TRUE, Reason.REACHED),
        ([view(), view(None, HopName.TLS)], ConditionStatus.TRUE, Reason.REACHED),
        ([view(19.0)], ConditionStatus.TRUE, Reason.REACHED),
        ([view(21.0)], ConditionStatus.FALSE, Reason.SILENT),
        ([view(None, HopName.DNS)], ConditionStatus.FALSE, Reason.NAME_NOT_RESOLVED),
        ([view(None, HopName.TCP)], ConditionStatus.FALSE, Reason.CONNECTION_FAILED),
        ([view(None, HopName.TLS)], ConditionStatus.FALSE, Reason.TLS_FAILED),
        ([view(None, HopName.IDENTITY)], ConditionStatus.FALSE, Reason.WRONG_IDENTITY),
        ([view(None, HopName.AUTHORISATION)], ConditionStatus.FALSE, Reason.NOT_AUTHORISED),
        ([view(None, HopName.AUTHORISATION, "PeerSilent")], ConditionStatus.FALSE, Reason.SILENT),
        ([view(0.3, HopName.CLOCK)], ConditionStatus.TRUE, Reason.REACHED),
    ],
)
def test_reachable_by_hop(views: list[GatewayView], status: ConditionStatus, reason: Reason) -> None:
    finding = regions.reachable("us", "gw.us:7410", views, own_region="eu")
    assert (finding.status, finding.reason) == (status, reason)


def test_several_clusters_behind_one_address_are_refused_with_the_remedy() -> None:
    views = [replace(view(), cluster="us-a"), replace(view(), cluster="us-b")]
    found = regions.reachable("us", "gw:7410", views, own_region="eu", clusters=("us-a", "us-b"))
    assert (found.status, found.reason) == (ConditionStatus.FALSE, Reason.CLUSTERS_SHARE_ADDRESS)
    assert "a Region of its own" in found.message
    alone = regions.reachable("us", "gw:7410", views[:1], own_region="eu", clusters=("us-a",))
    assert alone.status is ConditionStatus.TRUE


def test_reachable_without_an_address_and_of_the_own_region() -> None:
    assert regions.reachable("us", None, [view()], own_region="eu").reason is Reason.NO_PEER_ADDRESS
    assert regions.reachable("eu", None, [], own_region="eu").reason is Reason.OWN_REGION


def test_the_time_of_what_is_seen_moves_with_a_hop_alone() -> None:
    later = NOW + timedelta(minutes=5)
    first = regions.seen(None, [view()], NOW)
    assert first is not None
    assert first.since == NOW
    assert regions.seen(first, [view(3.0)], later) == first
    broken = regions.seen(first, [view(None, HopName.TCP)], later)
    assert isinstance(broken, SeenFromHere)
    assert broken.since == later
    assert [hop.ok for hop in broken.hops] == [True, False]
    assert regions.seen(first, [], later) == first


def test_trust_bundles() -> None:
    good = BundleFact(("a",), (NOW + timedelta(days=1),))
    assert regions.trust_bundle_valid("pem", good, NOW).reason is Reason.BUNDLE_VALID
    assert regions.trust_bundle_valid(None, BundleFact(), NOW).reason is Reason.BUNDLE_MISSING
    assert regions.trust_bundle_valid("x", BundleFact(error="no"), NOW).reason is Reason.BUNDLE_UNREADABLE
    assert regions.trust_bundle_valid("x", good, NOW + timedelta(days=2)).reason is Reason.AUTHORITY_EXPIRED
    two = BundleFact(("a", "b"), (NOW - timedelta(days=1), NOW + timedelta(days=1)))
    assert regions.trust_bundle_valid("x", two, NOW).reason is Reason.ROTATING
    strange = regions.trust_bundle_valid("x", good, NOW, own_authority_id="z")
    assert strange.reason is Reason.AUTHORITY_NOT_IN_BUNDLE


# --- the hub


def token(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.sig"


def test_when_a_token_ends() -> None:
    assert hub.token_ends_at(token(exp=NOW.timestamp())) == NOW
    for other in (None, "", "opaque", token(iss="x"), "a.b.c", token(exp="soon"), token(exp=1e300)):
        assert hub.token_ends_at(other) is None


def test_token_valid() -> None:
    contact = hub.HubContact(0.0, answered_at=1.0)
    far, near = NOW + timedelta(days=30), NOW + timedelta(days=6)

    def reason(ends_at: datetime | None, contact: hub.HubContact = contact) -> Reason | None:
        finding = hub.token_valid(ends_at, contact, NOW)
        return None if finding is None else finding.reason

    assert reason(far) is Reason.TOKEN_TAKEN
    assert reason(None) is Reason.TOKEN_TAKEN
    assert reason(near) is Reason.TOKEN_ENDS_SOON
    assert reason(NOW - timedelta(seconds=1)) is Reason.TOKEN_REFUSED
    assert reason(far, hub.HubContact(0.0, 1.0, "no", unauthorized=True)) is Reason.TOKEN_REFUSED
    assert reason(far, hub.HubContact(0.0)) is None


def test_the_loss_of_the_hub_is_said_within_thirty_seconds() -> None:
    contact = hub.HubContact(0.0, answered_at=100.0, silence="Unreachable")
    assert hub.reachable(contact, 110.0) is not None
    found = hub.reachable(contact, 123.0)
    assert found is not None
    assert (found.type, found.status, found.reason) == (
        ConditionType.HUB_REACHABLE,
        ConditionStatus.FALSE,
        Reason.HUB_SILENT,
    )
    # One that never answered is given the same time.
    assert hub.reachable(hub.HubContact(0.0), 10.0) is None
    assert hub.reachable(hub.HubContact(0.0), 23.0) is not None
    refused = hub.reachable(hub.HubContact(0.0, 100.0, "Forbidden"), 100.0)
    assert refused is not None
    assert refused.reason is Reason.HUB_REFUSES
