"""What sidecars tell becomes load; what the autoscaler says becomes size, status and conditions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from prfaas.api.conditions import Reason
from prfaas.api.v1alpha1 import ModelKVProfileSpec, PrefillRouteSpec
from prfaas.autoscaling import (
    Cause,
    Decision,
    Input,
    Limit,
    LinkState,
    LoadOffer,
    PoolDecision,
    Shortage,
    State,
)
from prfaas.autoscaling.learning import Drift, Quantity, Ratio
from prfaas.model_profile import profile_of
from prfaas_operator.planning.autoscale.loads import (
    EngineLoad,
    Interval,
    Total,
    attainment_of,
    interval,
    pool_load,
    read_load,
    sketch_of_bins,
    sketch_of_buckets,
)
from prfaas_operator.planning.autoscale.observe import (
    Measured,
    accelerators_of,
    is_managed,
    link_observation,
    pool_observation,
    route_observations,
    settings_of,
    starts_of,
)
from prfaas_operator.planning.autoscale.verdict import RENEWED_SECONDS, renewed, verdict_of
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.replicas import plan_size
from prfaas_operator.planning.values import ObservedPod, PoolKey
from tests.operator.planning.pool_world import NOW, observed, settled, spec

MANAGED = {"mode": "Managed", "minReplicas": 0, "maxReplicas": 8}


def answer(**fields: Any) -> bytes:
    return json.dumps({"version": 1, "running": 1, "waiting": 2, **fields}).encode()


def test_a_load_is_read_and_what_is_not_told_is_none() -> None:
    told = read_load(
        answer(
            incarnation="x",
            kv_cache_usage=0.5,
            totals={"prefill_seconds": {"sum": 3, "count": 2, "buckets": [[1, 1]]}},
            kv_samples=[[64, 4096, 1.0], "?"],
        ),
        10.0,
    )
    assert told is not None
    assert (told.at, told.running, told.waiting, told.kv_cache_usage) == (10.0, 1, 2, 0.5)
    assert told.total("prefill_seconds") == Total(3, 2, ((1, 1),))
    assert told.kv_samples == ((64, 4096, 1.0),)
    assert read_load(answer(running=None), 0.0) is None


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        answer(version=2),
        answer(running="many"),
        answer(waiting=-1),
        answer(kv_cache_usage=float("nan")),
        answer(totals={"prefill_seconds": 3}),
    ],
)
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the caller takes any)
        read_load(body, 0.0)


def engine(at: float, running: float = 0, waiting: float = 0, **totals: Total) -> EngineLoad:
    return EngineLoad(at, "x", running, waiting, 0.2, totals)


def between(before: EngineLoad, after: EngineLoad) -> tuple[EngineLoad, Interval | None]:
    return after, interval(before, after)


def load(kind: Any, *told: tuple[EngineLoad, Interval | None], **given: Any) -> Any:
    arguments = {"batch_max": None, "ttft_seconds": None, "lengths": None, "now": 20.0, **given}
    return pool_load(kind, told, **arguments)


def test_a_prefill_engine_is_busy_for_as_long_as_it_prefilled() -> None:
    quiet = between(engine(0), engine(10, prefill_seconds=Total(4, 2), computed_tokens=Total(8000, 2)))
    found = load("PrefillPool", quiet)
    assert found.load.utilisation == pytest.approx(0.4)
    assert found.load.service_seconds == 2
    (sample,) = found.samples
    assert (sample.quantity, sample.size, sample.value) == (Quantity.PREFILL_SECONDS, 4000, 2)
    # A prefill that takes longer than the interval has not ended and is work all the same.
    assert load("PrefillPool", between(engine(0, 1), engine(10, 1))).load.utilisation == 1
    assert load("PrefillPool", (engine(10, 1), None)).load.utilisation == 1
    assert load("PrefillPool").load is None


def test_a_decode_engine_is_as_full_as_its_cache_or_its_batch_and_tells_what_came() -> None:
    told = between(
        engine(0, 8, 1),
        engine(
            10,
            8,
            3,
            first_token_seconds=Total(4, 20, ((1.0, 15.0), (2.0, 20.0))),
            output_tokens=Total(4000, 20),
            running_seconds=Total(160, 20),
            step_seconds=Total(2, 100),
        ),
    )
    assert load("DecodePool", told).load.utilisation == pytest.approx(0.2)
    found = load("DecodePool", told, batch_max=16, ttft_seconds=1.5)
    assert found.load.utilisation == pytest.approx(0.5)
    assert found.load.queued == 3
    # 20 began and two more wait, in 10 seconds.
    assert found.arrivals.requests_per_second == pytest.approx(2.2)
    assert found.attainment.share == pytest.approx(0.875)
    assert found.output_tokens == 200
    assert found.load.service_seconds == pytest.approx(1.0)
    assert [sample.quantity for sample in found.samples] == [Quantity.DECODE_STEP_SECONDS]
    # Of two engines one is new: it is taken to be like the other.
    assert load("DecodePool", told, (engine(10), None)).arrivals.requests_per_second == pytest.approx(4.4)


def test_another_run_of_the_engine_begins_anew() -> None:
    assert interval(engine(0), replace(engine(10), incarnation="y")) is None
    assert interval(None, engine(0)) is None
    later = interval(engine(0, output_tokens=Total(5, 5)), engine(10, output_tokens=Total(1, 1)))
    assert later is not None
    assert later.total("output_tokens") == Total(0, 0)


@pytest.mark.parametrize(("seconds", "share"), [(0.5, 0.25), (1.0, 0.5), (3.0, 0.75), (100.0, 1.0)])
def test_attainment_is_interpolated_in_its_bucket(seconds: float, share: float) -> None:
    told = Total(0, 20, ((1.0, 10.0), (2.0, 10.0), (4.0, 20.0)))
    met = attainment_of(told, seconds)
    assert met is not None
    assert met.share == pytest.approx(share)
    assert attainment_of(told, None) is None


def test_lengths_by_bins_and_by_buckets_have_the_means_that_they_were_made_from() -> None:
    assert sketch_of_bins({160: 10}) is None
    by_bins = sketch_of_bins({160: 100, 9999: 5})
    assert by_bins is not None
    assert by_bins.quantile(0.5) == pytest.approx(2**10, rel=0.05)
    by_buckets = sketch_of_buckets(Total(0, 100, ((1000.0, 0.0), (2000.0, 100.0))))
    assert by_buckets is not None
    # A bin is 4.4 % wide.
    assert 950 <= by_buckets.quantile(0.01) <= by_buckets.quantile(0.99) <= 2100
    assert sketch_of_buckets(Total()) is None


def test_what_a_spec_says_becomes_settings() -> None:
    wanted = spec(
        scaling={
            **MANAGED,
            "targets": {"utilisationPercent": 60, "timeToFirstTokenMilliseconds": 1500},
            "behaviour": {"growWindowSeconds": 5, "convertRoles": False},
            "instance": {"pricePerHour": 2.5, "hardware": "h100", "accelerators": 8},
        }
    )
    own = settings_of(wanted)
    assert (own.minimum, own.maximum, own.utilisation_target, own.ttft_seconds) == (0, 8, 0.6, 1.5)
    assert (own.grow_window_seconds, own.shrink_window_seconds, own.convertible) == (5, 300, False)
    assert (own.price_per_hour, own.hardware, own.accelerators_each) == (2.5, "h100", 8)


@pytest.mark.parametrize(
    ("limits", "count"), [({"nvidia.com/gpu": 4}, 4), ({"amd.com/gpu": "2"}, 2), ({"cpu": 4}, 1), ({}, 1)]
)
def test_accelerators_are_those_that_the_engine_asks_for(limits: dict[str, Any], count: int) -> None:
    containers = [
        {"name": "other", "resources": {"limits": {"nvidia.com/gpu": 7}}},
        {"name": "engine", "image": "e", "resources": {"limits": limits}},
    ]
    assert accelerators_of(spec(workload={"template": {"spec": {"containers": containers}}})) == count


def pod(name: str, **fields: Any) -> ObservedPod:
    created = NOW - timedelta(seconds=300)
    return ObservedPod(name, f"uid-{name}", "r", created, **fields)


READY: dict[str, Any] = {
    "phase": "Running",
    "ready": True,
    "node": "n",
    "ready_changed_at": NOW - timedelta(seconds=200),
}


def test_pods_become_ready_waiting_and_starts() -> None:
    waits = pod("b", pending_reason="Unschedulable", pending_message="0/3 nodes")
    seen = observed(spec=spec(scaling=MANAGED), pods=(pod("a", **READY), waits))
    assert seen.spec is not None
    found = pool_observation(seen, seen.spec, Measured(), NOW, managed=True)
    assert (found.ready, found.waiting.instances, found.waiting.why) == (1, 1, Shortage.NO_CAPACITY)
    assert found.waiting.oldest_seconds == 300
    assert starts_of(seen, ()) == ({"uid-a": 100.0}, (100.0,))
    assert starts_of(seen, {"uid-a"}) == ({}, ())
    ends = pod("d", **READY, deletion_ends_at=NOW + timedelta(seconds=60))
    successor = pool_observation(
        replace(seen, pods=(*seen.pods, ends)), seen.spec, Measured(), NOW, managed=True
    )
    assert successor.waiting.instances == 0
    gated = replace(seen, pods=(pod("c", gates=("queue",)),))
    assert pool_observation(gated, seen.spec, Measured(), NOW, managed=True).waiting.why is (
        Shortage.QUOTA_PENDING
    )


@pytest.mark.parametrize(
    ("changes", "managed"),
    [
        ({}, True),
        ({"deleted": True}, False),
        ({"autoscalers": ("hpa",)}, False),
        ({"replicas_in_last_applied": True}, False),
        ({"annotations": {"prfaas.io/hold": '{"replicas": 2, "until": "2099-01-01T00:00:00Z"}'}}, False),
        ({"annotations": {"prfaas.io/hold": "?"}}, True),
    ],
)
def test_only_pools_that_nobody_else_decides_on_are_managed(changes: dict[str, Any], managed: bool) -> None:
    assert is_managed(observed(spec=spec(scaling=MANAGED), **changes), NOW) is managed


@pytest.mark.parametrize(
    ("fields", "annotations", "count"),
    [
        ({"mode": "Enforce"}, {}, 2),
        ({"mode": "Canary", "canary": {"percent": 5}}, {}, 2),
        ({"mode": "Observe"}, {}, 0),
        ({"mode": "Enforce"}, {"prfaas.io/local-only": '{"until": "2099-01-01T00:00:00Z"}'}, 0),
    ],
)
def test_only_routes_in_force_move_load_and_each_region_of_a_pool_is_a_path(
    fields: dict[str, Any], annotations: dict[str, str], count: int
) -> None:
    route = PrefillRouteSpec.model_validate(
        {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": "long"}], **fields}
    )
    names = {
        PoolKey("DecodePool", "s", "chat"): ("chat",),
        PoolKey("PrefillPool", "s", "long"): ("long", "long in us"),
    }
    found = route_observations([("s", route, annotations)], names, Geography("eu", "eu"), NOW)
    assert len(found) == count


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ({"Down": "True", "Congested": "True"}, LinkState.DOWN),
        ({"Congested": "True", "Healthy": "True"}, LinkState.CONGESTED),
        ({"Healthy": "Unknown"}, LinkState.HEALTHY),
        ({}, LinkState.UNKNOWN),
    ],
)
def test_a_link_is_as_its_conditions_say(conditions: dict[str, str], state: LinkState) -> None:
    found = link_observation(
        source="us",
        target="eu",
        capacity=None,
        goodput=5e9,
        utilisation_percent=40,
        rtt_seconds=None,
        price_per_gibibyte=1.0,
        conditions=conditions,
        age_seconds=0.0,
    )
    assert found.state is state
    assert (found.capacity_bits_per_second, found.used_share) == (5e9, 0.4)
    assert found.price_per_gigabyte == pytest.approx(0.931, abs=1e-3)


PROFILE = {
    "model": {"name": "chat"},
    "kvBytes": [{"tokens": 1000, "bytes": 1_000_000}],
    "prefill": [
        {"hardware": "h100", "points": [{"tokens": 1000, "seconds": 0.5}, {"tokens": 2000, "seconds": 1.5}]},
        {"hardware": "h20", "points": [{"tokens": 1000, "seconds": 2}]},
    ],
    "decode": [
        {"hardware": "h100", "batch": 8, "tokensPerSecond": 400},
        {"hardware": "h100", "batch": 32, "tokensPerSecond": 800},
    ],
}


def test_a_profile_is_that_of_the_pools_hardware() -> None:
    parsed = ModelKVProfileSpec.model_validate(PROFILE)
    profile, note = profile_of(parsed, hardware="h100", revision=None, output_tokens=100)
    assert not note
    assert profile.prefill is not None
    assert profile.kv is not None
    assert profile.decode is not None
    assert profile.prefill.at(1500) == 1.0
    assert profile.kv.at(500) == pytest.approx(500_000)
    assert (profile.decode.batch_max, profile.decode.step_seconds) == (32, 0.04)
    other, why = profile_of(parsed, hardware=None, revision=None, output_tokens=None)
    assert other.prefill is None
    assert "h100, h20" in why
    _, wrong = profile_of(
        ModelKVProfileSpec.model_validate({**PROFILE, "model": {"name": "chat", "revision": "a"}}),
        hardware="h100",
        revision="b",
        output_tokens=None,
    )
    assert "revision" in wrong


def decided(**fields: Any) -> tuple[Decision, PoolDecision]:
    given = {
        "pool": "p",
        "before": 2,
        "desired": 3,
        "needed": 3,
        "cause": Cause.LOAD_ROSE,
        "sentence": "it rose",
        "inputs": (Input("utilisation", 0.123456), Input("bad", float("nan"))),
        **fields,
    }
    own = PoolDecision(**given)
    return Decision(0.0, (own,), (), (), State()), own


def verdict(
    now: Any = NOW, *, active: bool = True, drifts: Any = None, offers: Any = (), **fields: Any
) -> Any:
    decision, own = decided(**fields)
    decision = replace(decision, offers=offers)
    return verdict_of(decision, own, now=now, active=active, drifts=drifts, measured=False)


@pytest.mark.parametrize("limit", list(Limit))
def test_every_limit_that_lasts_is_a_condition_and_those_that_pass_are_none(limit: Limit) -> None:
    found = verdict(limit=limit, limit_sentence="why", desired=2)
    passing = {Limit.STABILISING, Limit.COOLING_DOWN, Limit.STEP}
    assert (found.limited is None) == (limit in passing)
    assert found.explanation.limited_by == str(limit)
    if found.limited is not None:
        assert str(found.limited.reason) == str(limit)


def test_a_verdict_is_renewed_when_it_says_something_else_or_has_become_old() -> None:
    before = verdict()
    soon, late = NOW + timedelta(seconds=15), NOW + timedelta(seconds=RENEWED_SECONDS)
    moved = {"inputs": (Input("utilisation", 0.2),)}
    assert renewed(before, verdict(soon, **moved)) is before
    assert renewed(before, verdict(late, **moved)).explanation.time == late
    assert renewed(before, verdict(late)) is before
    assert renewed(before, verdict(soon, desired=4)).desired == 4
    assert renewed(None, before) is before


def test_the_verdict_decides_on_the_size_and_status_says_why() -> None:
    world = settled(replicas=2)
    world.change(replicas=2, scaling=MANAGED)
    offers = (LoadOffer("p", "eu", "m", 1, Limit.NO_CAPACITY, ("q",), "offered to q"),)
    world.pool = replace(world.pool, scaling=verdict(desired=3, offers=offers))
    size = plan_size(world.pool, world.pool.spec, NOW)  # type: ignore[arg-type]
    assert size.scale is not None
    assert (size.scale.replicas, size.scale.why) == (3, "LoadRose: it rose")
    world.step()
    told = world.pool.status.scaling
    assert told is not None
    assert told.explanation is not None
    assert told.explanation.offers == ("offered to q",)
    assert told.history is not None
    assert told.last_decision == told.history[0]
    assert (told.history[0].reason, told.history[0].message) == ("LoadRose", "LoadRose: it rose")
    assert told.history[0].inputs is not None
    assert [each.value for each in told.history[0].inputs] == [0.1235]


def test_a_verdict_for_another_size_bounds_and_unknown_load() -> None:
    pool = observed(spec=spec(replicas=2, scaling=MANAGED))
    assert pool.spec is not None
    stale = plan_size(replace(pool, scaling=verdict(before=5, desired=6)), pool.spec, NOW)
    assert stale.scale is None
    beyond = plan_size(replace(pool, scaling=verdict(desired=99)), pool.spec, NOW)
    assert beyond.scale_reason == Reason.TOO_MANY_REPLICAS, "the bound has decided, not the load"
    assert beyond.desired == 8
    unknown = plan_size(
        replace(pool, scaling=verdict(active=False, desired=2, cause=Cause.LOAD_UNKNOWN)), pool.spec, NOW
    )
    assert unknown.active.reason is Reason.LOAD_UNKNOWN
    assert unknown.desired == 2


def test_a_profile_that_drifts_is_a_condition_with_quantity_and_ratio() -> None:
    drift = Drift(Quantity.PREFILL_SECONDS, Ratio(1.6, 0.05, 40))
    found = verdict(drifts=(drift,)).profile
    assert found.reason is Reason.PROFILE_DRIFTS
    assert "1.60" in found.message
    assert verdict(drifts=()).profile.reason is Reason.PROFILE_UNMEASURED
    assert verdict().profile is None
