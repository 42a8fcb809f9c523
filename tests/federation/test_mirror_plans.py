"""What the mirror does, as values in and values out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.api import keys
from prfaas.api.conditions import Reason
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.federation.mirror import ACCEPT_FOR, accepted_uid
from prfaas_operator.federation.pod_rules import forbidden
from prfaas_operator.federation.values import Attempt, HubObject, ObjectKey, Refused, digest_of
from tests.federation.mirror_world import World, pool, region, route, workload

LONG = ObjectKey(keys.PREFILL_POOL, "serving", "long")
CHAT = ObjectKey(keys.DECODE_POOL, "serving", "chat")


def names(world: World) -> set[str]:
    return {key.name for key in world.local if key.kind != keys.REGION}


def test_what_names_this_cluster_comes_and_what_that_refers_to() -> None:
    world = World()
    world.put(
        region("eu"),
        region("us"),
        pool("long", "us"),
        pool("elsewhere", "eu"),
        pool("chat", "eu", kind=keys.DECODE_POOL, model={"name": "chat", "profileRef": {"name": "chat"}}),
        route("chat", "chat", "long"),
        HubObject(ObjectKey(keys.MODEL_KV_PROFILE, "serving", "chat"), 1, {"model": "chat"}),
        HubObject(ObjectKey(keys.MODEL_KV_PROFILE, "serving", "other"), 1, {"model": "other"}),
    )
    plan = world.settle()
    assert set(world.local) == set(world.hub) - {
        ObjectKey(keys.PREFILL_POOL, "serving", "elsewhere"),
        ObjectKey(keys.MODEL_KV_PROFILE, "serving", "other"),
    }
    assert (plan.finding.status, plan.finding.reason) == (ConditionStatus.TRUE, Reason.MIRRORED)
    assert world.local[LONG].mirrored_from == "hub-1/serving/long/1"


@pytest.mark.parametrize(
    ("scaling", "place", "expected"),
    [
        ({}, {"replicas": 7}, {"replicas": 7}),
        ({}, {}, {"replicas": 2}),
        ({"mode": "External"}, {}, {"replicas": None}),
        (
            {"mode": "Managed", "minReplicas": 1, "maxReplicas": 9},
            {"maxReplicas": 3, "replicas": 5},
            {"replicas": None, "scaling": {"mode": "Managed", "minReplicas": 1, "maxReplicas": 3}},
        ),
    ],
)
def test_numbers_are_this_clusters(
    scaling: dict[str, object], place: dict[str, object], expected: dict[str, object]
) -> None:
    world = World()
    clusters = [{"name": "us", **place}, {"name": "eu", "replicas": 99}]
    world.put(pool("long", scaling=scaling, placement={"clusters": clusters}))
    world.settle()
    spec = world.local[LONG].spec
    assert {name: spec.get(name) for name in expected} == expected
    assert spec["placement"] == {"clusters": clusters}


@pytest.mark.parametrize(
    ("pod", "word"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]}, "hostPath"),
        ({"serviceAccountName": "cluster-admin"}, "allowedServiceAccounts"),
        ({"serviceAccount": "cluster-admin"}, "allowedServiceAccounts"),
        (
            {"initContainers": [{"name": "x", "securityContext": {"privileged": True}}]},
            "initContainers[x].securityContext.privileged",
        ),
        (
            {"containers": [{"name": "engine", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
            "SYS_ADMIN",
        ),
    ],
)
def test_pods_that_reach_for_the_node_are_refused(pod: dict[str, object], word: str) -> None:
    world = World()
    world.put(pool("long", "us", workload=workload(**pod)))
    plan = world.settle()
    assert not world.local
    assert (plan.finding.status, plan.finding.reason) == (ConditionStatus.FALSE, Reason.MIRROR_REFUSED)
    assert word in plan.finding.message
    assert [each.key for each in plan.refused] == [LONG]
    # Elsewhere it is that cluster's matter, and here only something that routes name.
    world.put(pool("long", "eu", workload=workload(**pod)), pool("chat", "us", kind=keys.DECODE_POOL))
    world.put(route("chat", "chat", "long"))
    world.settle()
    assert LONG in world.local


def weights(path: str, *, read_only: bool = True) -> dict[str, object]:
    volume = {"name": "weights", "hostPath": {"path": path}}
    mount = {"name": "weights", "mountPath": "/weights", "readOnly": read_only}
    return {"volumes": [volume], "containers": [{"name": "engine", "volumeMounts": [mount]}]}


@pytest.mark.parametrize(
    ("path", "read_only", "refused"),
    [
        ("/data/weights", True, False),
        ("/data/weights/chat", True, False),
        ("/data/weights", False, True),
        ("/data/weights-of-others", True, True),
        ("/data/weights/../../etc", True, True),
        ("/data", True, True),
    ],
)
def test_folders_of_nodes_that_are_allowed_may_be_read(path: str, read_only: bool, refused: bool) -> None:
    spec = {"workload": workload(**weights(path, read_only=read_only))}
    assert bool(forbidden(spec, "serving", frozenset(), ("/data/weights",))) is refused


def test_listed_service_accounts_and_the_default_one_may_be_used() -> None:
    world = World()
    world.put(pool("long", "us", workload=workload(serviceAccountName="engines")))
    world.put(pool("short", "us", workload=workload(serviceAccountName="default")))
    world.settle()
    assert names(world) == {"long", "short"}


def test_a_namespace_that_is_not_open_and_a_pool_without_a_placement() -> None:
    world = World(settings=replace(World().settings, allowed_namespaces=frozenset()))
    world.put(pool("long", "us"))
    assert "federation.allowedNamespaces" in world.settle().finding.message
    world = World()
    world.put(pool("long"), pool("chat", "us", kind=keys.DECODE_POOL), route("chat", "chat", "long"))
    assert "no placement in the hub" in world.settle().finding.message
    assert names(world) == {"chat"}


def test_what_is_refused_now_stays_as_it_was() -> None:
    world = World()
    world.put(pool("long", "us"))
    world.settle()
    world.put(pool("long", "us", generation=2, workload=workload(hostNetwork=True)))
    world.settle()
    assert world.local[LONG].mirrored_from.endswith("/1")


def test_a_change_here_is_put_back_once() -> None:
    world = World()
    world.put(pool("long", "us"))
    world.settle()
    here = world.local[LONG]
    world.local[LONG] = replace(here, generation=5, spec={**here.spec, "replicas": 50})
    assert [type(each).__name__ for each in world.step().actions] == ["Apply"]
    # The server has kept something all the same: there is no use in doing it over and over.
    stored = world.local[LONG]
    world.local[LONG] = replace(stored, spec={**stored.spec, "replicas": 51})
    assert not world.step().actions


def test_another_hub_freezes_and_a_person_decides() -> None:
    world = World()
    world.put(region("eu"), pool("long", "us"), pool("short", "us"))
    world.settle()
    before = dict(world.local)
    world.uid, world.hub = "hub-2", {}
    world.put(pool("new", "us"))
    plan = world.settle()
    assert plan.finding.reason is Reason.FROZEN
    assert "hub-2" in plan.finding.message
    assert world.local == before
    world.memory = replace(world.memory, accepted_uid="hub-2")
    world.settle()
    assert set(world.local) == {ObjectKey(keys.PREFILL_POOL, "serving", "new")}
    assert world.memory.pinned_uid == "hub-2"


def test_a_forgotten_pin_is_read_from_what_is_mirrored() -> None:
    world = World()
    world.put(pool("long", "us"))
    world.settle()
    world.memory = replace(world.memory, pinned_uid="")
    world.uid = "hub-2"
    assert world.step().finding.reason is Reason.FROZEN


@pytest.mark.parametrize(
    ("there", "gone", "frozen"), [(20, 4, False), (20, 5, True), (3, 2, False), (3, 3, True)]
)
def test_much_that_is_gone_at_once_freezes(there: int, gone: int, frozen: bool) -> None:
    world = World()
    world.put(*(pool(f"p{number}", "us") for number in range(there)))
    world.settle()
    for number in range(gone):
        del world.hub[ObjectKey(keys.PREFILL_POOL, "serving", f"p{number}")]
    plan = world.settle()
    assert (plan.finding.reason is Reason.FROZEN) == frozen
    assert len(world.local) == (there if frozen else there - gone)
    if frozen:
        # They come back, and all goes on.
        world.put(*(pool(f"p{number}", "us") for number in range(there)))
        assert world.settle().finding.reason is Reason.MIRRORED


def test_what_goes_one_by_one_counts_together() -> None:
    world = World()
    world.put(*(pool(f"p{number}", "us") for number in range(10)))
    world.settle()
    for number in range(10):
        del world.hub[ObjectKey(keys.PREFILL_POOL, "serving", f"p{number}")]
        world.step(0.1)
        world.step(world.settings.kept_seconds + 0.1)
    assert len(world.local) >= 8
    # And time alone does not thaw it.
    for _ in range(10):
        assert world.step(600.0).finding.reason is Reason.FROZEN


def test_a_delete_waits_until_what_goes_together_is_seen_together() -> None:
    world = World()
    world.put(pool("long", "us"), pool("short", "us"))
    world.settle()
    del world.hub[LONG]
    plan = world.step()
    assert not plan.actions
    assert plan.look_again_seconds == world.settings.kept_seconds
    world.put(pool("long", "us"))
    assert not world.step(60.0).actions
    assert LONG in world.local


def test_what_the_server_refuses_is_told_and_tried_again_later() -> None:
    world = World()
    world.put(pool("long", "us"))
    (apply,) = world.plan().actions
    refused = Refused(LONG, Reason.NAME_CLASH, "there is one")
    attempt = Attempt(digest_of(apply.body), world.now, None, refused)  # type: ignore[union-attr]
    world.memory = replace(world.memory, attempts={LONG: attempt})
    plan = world.step(1.0)
    assert not plan.actions
    assert plan.finding.reason is Reason.NAME_CLASH
    assert plan.look_again_seconds == world.settings.retry_seconds - 1.0
    assert world.step(world.settings.retry_seconds).actions
    # A change in the hub is tried at once.
    world = World(memory=replace(world.memory, attempts={LONG: attempt}))
    world.put(pool("long", "us", generation=2, replicas=3))
    assert world.step(1.0).actions


def test_deletes_are_accepted_for_ten_minutes() -> None:
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    text = f"hub-2@{now:%Y-%m-%dT%H:%M:%SZ}"
    assert accepted_uid(text, now) == "hub-2"
    assert accepted_uid(text, now + ACCEPT_FOR) == "hub-2"
    assert accepted_uid(text, now + ACCEPT_FOR + timedelta(seconds=1)) == ""
    assert accepted_uid(text, now - timedelta(minutes=1)) == "hub-2"
    assert accepted_uid(text, now - timedelta(hours=1)) == ""
    for broken in (
        None,
        "",
        "hub-2",
        "hub-2@",
        "hub-2@yesterday",
        "@2026-05-01T12:00:00Z",
        "hub-2@2026-05-01",
    ):
        assert accepted_uid(broken, now) == ""


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 11), st.sampled_from(["us", "eu"])),
        st.tuples(st.just("delete"), st.integers(0, 11), st.just("")),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 5, 100]), st.just("")),
        st.tuples(st.just("another hub"), st.integers(0, 1), st.just("")),
        st.tuples(st.just("restart"), st.just(0), st.just("")),
    ),
    max_size=40,
)


@given(steps)
def test_never_more_than_a_fifth_vanishes_without_a_person_and_all_comes(
    does: list[tuple[str, int, str]],
) -> None:
    world = World()
    world.put(*(pool(f"p{number}", "us") for number in range(12)))
    world.settle()
    generation = 1
    for what, number, cluster in does:
        key = ObjectKey(keys.PREFILL_POOL, "serving", f"p{number}")
        if what == "put":
            generation += 1
            world.put(pool(f"p{number}", cluster, generation=generation))
        elif what == "delete":
            world.hub.pop(key, None)
        elif what == "another hub":
            world.uid = f"hub-{number + 1}"
        elif what == "restart":
            world.memory = replace(world.memory, gone_since={}, removed={}, attempts={}, frozen=False)
        before = dict(world.local)
        plan = world.step(float(number) if what == "wait" else 0.5)
        vanished = before.keys() - world.local.keys() - world.hub.keys()
        assert len(vanished) <= max(2, 0.2 * len(before))
        if world.uid != "hub-1":
            assert world.local == before
            assert plan.finding.reason is Reason.FROZEN
    # At the end a person accepts what is there, and both sides agree.
    world.memory = replace(world.memory, accepted_uid=world.uid)
    world.settle()
    wanted = {
        key for key, each in world.hub.items() if each.spec["placement"]["clusters"] == [{"name": "us"}]
    }
    assert set(world.local) == wanted
    assert all(
        world.local[key].mirrored_from == f"{world.uid}/serving/{key.name}/{world.hub[key].generation}"
        for key in wanted
    )


def test_what_leaves_with_a_deleted_pool_has_not_vanished() -> None:
    world = World()
    world.put(pool("long", "us"), pool("chat", "eu", kind=keys.DECODE_POOL), route("chat", "chat", "long"))
    world.settle()
    assert len(world.local) == 3
    world.hub.pop(LONG)
    plan = world.settle()
    assert plan.finding.reason is Reason.MIRRORED
    assert not world.local
