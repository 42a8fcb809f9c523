from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from prfaas.api.v1alpha1 import PoolPlacement, PrefillRouteSpec, PrefillRouteStatus
from prfaas_operator.planning.actions import Plan
from prfaas_operator.planning.geography import Geography, RegionFact
from prfaas_operator.planning.profiles import ProfilePoints
from prfaas_operator.planning.route import plan_route
from prfaas_operator.planning.routes import AUTO_THRESHOLD_TOKENS, Claim, first_claims
from prfaas_operator.planning.snapshot import SnapshotPool, SnapshotRoute, pool_for_snapshot, snapshot
from prfaas_operator.planning.values import ObservedRoute, PoolKey, RoutedPool, RouteKey, SpecProblem
from tests.operator.planning.pool_world import NOW, SETTINGS

CHAT = PoolKey("DecodePool", "serving", "chat")
LONG = PoolKey("PrefillPool", "serving", "long")
F, G = "f" * 64, "a" * 64


def route_spec(
    decode: str = "chat", prefill: tuple[str, ...] = ("long",), **changes: Any
) -> PrefillRouteSpec:
    body = {
        "decodePoolRef": {"name": decode},
        "prefillPoolRefs": [{"name": name} for name in prefill],
        "mode": "Enforce",
        **changes,
    }
    return PrefillRouteSpec.model_validate(body)


def routed(key: PoolKey, fingerprints: Mapping[str, int], **changes: Any) -> RoutedPool:
    return replace(RoutedPool(key, "chat", sum(fingerprints.values()), fingerprints), **changes)


def route(spec: PrefillRouteSpec | None = None, *pools: RoutedPool, **changes: Any) -> ObservedRoute:
    values: dict[str, Any] = {
        "key": RouteKey("serving", "chat"),
        "uid": "u",
        "generation": 1,
        "resource_version": "1",
        "created_at": NOW,
        "deleted": False,
        "annotations": {},
        "spec": spec if spec is not None else route_spec(),
        "problems": (),
        "status": PrefillRouteStatus(),
        "pools": {each.key: each for each in pools},
    }
    return ObservedRoute(**{**values, **changes})


def conditions(plan: Plan[PrefillRouteStatus]) -> dict[str, tuple[str, str, str]]:
    assert plan.status is not None
    return {each.type: (str(each.status), each.reason, each.message) for each in plan.status.conditions}


def test_a_route_that_works_and_then_needs_nothing() -> None:
    seen = route(None, routed(CHAT, {F: 2}), routed(LONG, {F: 3}))
    plan = plan_route(seen, NOW)
    found = conditions(plan)
    assert found["Ready"][:2] == ("True", "Enforcing")
    assert found["KVCompatible"][:2] == ("True", "FingerprintsAgree")
    assert found["Stalled"][0] == found["Reconciling"][0] == "False"
    assert plan.status is not None
    [pair] = plan.status.pairs
    assert (pair.ready_prefill, pair.ready_decode) == (3, 2)
    assert plan.status.effective_threshold_tokens == AUTO_THRESHOLD_TOKENS
    assert plan.events == ()
    assert plan_route(replace(seen, status=plan.status), NOW + timedelta(hours=1)).is_empty


def test_pools_whose_kv_differs_are_both_named_with_the_field() -> None:
    plan = plan_route(
        route(
            None,
            routed(CHAT, {F: 1}, fingerprint_fields={F: {"dtype": "bfloat16", "block_tokens": "16"}}),
            routed(LONG, {G: 1}, fingerprint_fields={G: {"dtype": "float16", "block_tokens": "16"}}),
        ),
        NOW,
    )
    found = conditions(plan)
    assert found["KVCompatible"][:2] == ("False", "FingerprintMismatch")
    for words in ("PrefillPool long", "DecodePool chat", "dtype (float16 in long, bfloat16 in chat)"):
        assert words in found["KVCompatible"][2]
    assert "block_tokens" not in found["KVCompatible"][2]
    assert found["Ready"][:2] == ("False", "FingerprintMismatch")
    assert found["Stalled"][:2] == ("True", "FingerprintMismatch")
    assert [event.reason for event in plan.events] == ["FingerprintMismatch"]


def test_a_pair_that_does_not_fit_counts_the_engines_that_are_ready() -> None:
    plan = plan_route(route(None, routed(CHAT, {F: 2}), routed(LONG, {G: 3})), NOW)
    assert plan.status is not None
    [pair] = plan.status.pairs
    assert (pair.prefill_engines, pair.decode_engines) == (3, 2)
    assert (pair.ready_prefill, pair.ready_decode) == (0, 0)


EVERYWHERE = Geography(
    "eu",
    "eu",
    {
        "eu": RegionFact("eu", ("eu",)),
        "us": RegionFact("us", ("us",), "gw.us:7410", "PEM"),
        "asia": RegionFact("asia", ("asia",), "gw.asia:7410", "PEM"),
    },
)


@pytest.mark.parametrize(
    ("others", "closed", "status", "reason", "words"),
    [
        (("us",), {}, "True", "Enforcing", "in us too"),
        (
            ("us",),
            {"us": "BudgetSpent"},
            "False",
            "BudgetSpent",
            "All prefill is local: nothing more",
        ),
        (("us",), {"us": "BudgetUnknown"}, "False", "BudgetUnknown", "us-eu (BudgetUnknown)"),
        (("asia", "us"), {"us": "BudgetSpent"}, "True", "Enforcing", "in asia too; nothing more may come"),
        (("us",), {"asia": "BudgetSpent"}, "True", "Enforcing", "in us too"),
    ],
)
def test_a_link_whose_budget_is_spent_is_no_way_for_a_route(
    others: tuple[str, ...], closed: dict[str, str], status: str, reason: str, words: str
) -> None:
    far = routed(LONG, {}, here=False, others=others)
    seen = route(None, routed(CHAT, {F: 1}), far, geography=EVERYWHERE, closed_links=closed)
    found = conditions(plan_route(seen, NOW))["Ready"]
    assert found[:2] == (status, reason)
    assert words in found[2]


def test_a_rollout_with_one_common_fingerprint_is_compatible() -> None:
    plan = plan_route(route(None, routed(CHAT, {F: 2, G: 1}), routed(LONG, {G: 4})), NOW)
    assert plan.status is not None
    [pair] = plan.status.pairs
    assert (str(pair.compatible), pair.ready_prefill, pair.ready_decode) == ("True", 4, 1)


@pytest.mark.parametrize(
    ("seen", "type_", "status", "reason", "words"),
    [
        (route(), "ResolvedRefs", "False", "DecodePoolNotFound", "spec.decodePoolRef.name"),
        (
            route(None, routed(CHAT, {F: 1})),
            "ResolvedRefs",
            "False",
            "PrefillPoolNotFound",
            "PrefillPool long",
        ),
        (route(None, routed(CHAT, {F: 1}), routed(LONG, {})), "Ready", "False", "NoReadyPair", "local"),
        (route(None, routed(CHAT, {F: 1}), routed(LONG, {})), "Stalled", "False", "NotStalled", ""),
        (
            route(None, routed(CHAT, {F: 1}), routed(LONG, {F: 1}, model="other")),
            "Accepted",
            "False",
            "ModelMismatch",
            "spec.model.name",
        ),
        (
            route(
                None,
                routed(CHAT, {F: 1}),
                routed(LONG, {F: 1}),
                decode_pool_taken_by=RouteKey("serving", "old"),
            ),
            "Accepted",
            "False",
            "RouteConflict",
            "serving/old",
        ),
        (
            route(route_spec(mode="Observe"), routed(CHAT, {F: 1}), routed(LONG, {F: 1})),
            "Ready",
            "True",
            "Observing",
            "spec.mode",
        ),
        (
            route(
                route_spec(mode="Canary", canary={"percent": 5}), routed(CHAT, {F: 1}), routed(LONG, {F: 1})
            ),
            "Ready",
            "True",
            "Canary",
            "5 %",
        ),
        (
            route(
                None,
                routed(CHAT, {F: 1}),
                routed(LONG, {F: 1}),
                annotations={"prfaas.io/local-only": '{"until": "2026-03-01T13:00:00Z"}'},
            ),
            "Ready",
            "True",
            "LocalOnly",
            "2026-03-01T13:00:00Z",
        ),
        (
            route(
                None,
                routed(CHAT, {F: 1}),
                routed(LONG, {F: 1}),
                annotations={"prfaas.io/local-only": "yes"},
            ),
            "Accepted",
            "False",
            "AnnotationInvalid",
            "prfaas.io/local-only",
        ),
        (
            replace(route(), spec=None, problems=(SpecProblem("spec.mode", "unknown"),)),
            "Stalled",
            "True",
            "InvalidSpec",
            "spec.mode: unknown",
        ),
    ],
)
def test_conditions_of_a_route(seen: ObservedRoute, type_: str, status: str, reason: str, words: str) -> None:
    plan = plan_route(seen, NOW)
    found = conditions(plan)[type_]
    assert found[:2] == (status, reason)
    assert words in found[2]
    assert plan.status is not None
    assert plan_route(replace(seen, status=plan.status), NOW + timedelta(seconds=5)).is_empty


def test_local_only_ends_by_itself() -> None:
    text = '{"until": "2026-03-01T13:00:00Z"}'
    seen = route(None, routed(CHAT, {F: 1}), routed(LONG, {F: 1}), annotations={"prfaas.io/local-only": text})
    plan = plan_route(seen, NOW)
    assert plan.requeue_after_seconds == 3600
    assert plan.status is not None
    assert str(plan.status.effective_mode) == "LocalOnly"
    later = plan_route(replace(seen, status=plan.status), NOW + timedelta(hours=1))
    assert later.status is not None
    assert str(later.status.effective_mode) == "Enforce"


def test_a_deleted_route_needs_nothing() -> None:
    assert plan_route(route(deleted=True), NOW) == Plan()


def test_the_oldest_route_counts() -> None:
    claims = [
        Claim(RouteKey("serving", "b"), CHAT, NOW),
        Claim(RouteKey("serving", "a"), CHAT, NOW),
        Claim(RouteKey("serving", "z"), CHAT, NOW - timedelta(seconds=1)),
    ]
    for order in itertools.permutations(claims):
        assert first_claims(order) == {CHAT: RouteKey("serving", "z")}
    assert first_claims(claims[:2]) == {CHAT: RouteKey("serving", "a")}


# --- the snapshot

POOLS = [
    SnapshotPool(CHAT, "chat", 8000),
    SnapshotPool(PoolKey("DecodePool", "serving", "chat-2"), "chat", 8001),
    SnapshotPool(PoolKey("DecodePool", "serving", "code"), "code", 8000),
    SnapshotPool(LONG, "chat", 8000),
    SnapshotPool(PoolKey("PrefillPool", "serving", "foreign"), "code", 8000),
]
ROUTES = [
    SnapshotRoute(
        RouteKey("serving", "chat"),
        NOW,
        route_spec(prefill=("long", "foreign", "absent"), threshold={"mode": "Fixed", "tokens": 100}),
        {},
    )
]


def test_a_snapshot_has_every_decode_pool_and_only_what_may_serve_it() -> None:
    seen = snapshot(POOLS, ROUTES, SETTINGS, NOW)
    assert [model.name for model in seen.models] == ["chat", "code"]
    chat, second = seen.models[0].decode_pools
    assert (chat.name, second.name) == ("chat", "chat-2")
    assert second.route is None
    assert chat.route is not None
    assert chat.route.threshold_tokens == 100
    assert [pool.name for pool in chat.route.prefill_pools] == ["long"]
    assert chat.identity == "spiffe://example.org/region/eu/ns/serving/pool/DecodePool/chat"
    assert seen.revision == seen.computed_revision()


def test_gateways_are_told_what_was_measured_of_pools_here_and_elsewhere() -> None:
    measured = ProfilePoints(((1000, 0.5), (8000, 4.0)), ((1000, 10_000),))
    far = PoolPlacement.model_validate({"clusters": [{"name": "us"}]})
    for placement in (None, far):
        pools = [
            replace(POOLS[0], profile=measured),
            replace(POOLS[3], profile=measured, placement=placement),
        ]
        geography = EVERYWHERE if placement else Geography(EVERYWHERE.cluster, EVERYWHERE.region)
        (model,) = snapshot(pools, ROUTES, SETTINGS, NOW, geography).models
        (chat,) = model.decode_pools
        assert (chat.prefill_points, chat.kv_points) == (measured.prefill, measured.kv)
        assert chat.route is not None
        (long,) = chat.route.remote_prefill_pools if placement else chat.route.prefill_pools
        assert long.prefill_points == measured.prefill


def test_a_snapshot_does_not_depend_on_order_or_time() -> None:
    first = snapshot(POOLS, ROUTES, SETTINGS, NOW)
    assert snapshot(reversed(POOLS), ROUTES, SETTINGS, NOW + timedelta(days=1)) == first


def test_an_override_is_in_the_snapshot_until_it_ends() -> None:
    held = [replace(ROUTES[0], annotations={"prfaas.io/local-only": '{"until": "2026-03-01T13:00:00Z"}'})]
    before, after = (snapshot(POOLS, held, SETTINGS, NOW + timedelta(hours=hours)) for hours in (0, 2))
    target = before.models[0].decode_pools[0].route
    assert target is not None
    assert target.local_only_until == NOW + timedelta(hours=1)
    assert after == snapshot(POOLS, ROUTES, SETTINGS, NOW)


def test_weight_0_is_not_offered() -> None:
    weighted = route_spec(prefillPoolRefs=[{"name": "long", "weight": 0}])
    seen = snapshot(POOLS, [replace(ROUTES[0], spec=weighted)], SETTINGS, NOW)
    target = seen.models[0].decode_pools[0].route
    assert target is not None
    assert target.prefill_pools == ()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"model": {"name": "m"}, "engine": {"port": 9}, "kv": "broken"}, SnapshotPool(CHAT, "m", 9)),
        ({"model": {"name": "m"}}, SnapshotPool(CHAT, "m", 8000)),
        ({"model": "m"}, None),
        ({"model": {"name": "m"}, "engine": {"port": 0}}, None),
        ({}, None),
    ],
)
def test_a_pool_that_cannot_be_read_as_a_whole_still_serves(
    stored: dict[str, Any], expected: SnapshotPool | None
) -> None:
    assert pool_for_snapshot(CHAT, stored) == expected
