"""What the operator knows, when lists, watches and the answers to its own writes come in any order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prfaas_operator.planning.values import PoolKey
from prfaas_operator.runtime.facts import Fact
from prfaas_operator.runtime.facts import config_map as config_map_fact
from prfaas_operator.runtime.facts import custom as custom_fact
from prfaas_operator.runtime.facts import deployment as deployment_fact
from prfaas_operator.runtime.store import Collection, Store

POOL = PoolKey("PrefillPool", "ns", "long")


def fact(version: int, *, name: str = "d", uid: str = "uid-d", pool: PoolKey | None = POOL) -> Fact[str]:
    return Fact("ns", name, uid, str(version), pool, "uid-pool", f"at {version}")


def collection() -> tuple[Collection[str], list[Fact[str]]]:
    changes: list[Fact[str]] = []
    return Collection(changes.append), changes


def test_a_list_that_is_older_than_an_own_write_does_not_take_the_object_away() -> None:
    """It was made while the list was on its way; the watch that follows the list brings it again."""
    facts, _ = collection()
    facts.put(fact(12))
    facts.replace_all([], None, "10")
    assert facts.get("ns", "d") == fact(12)
    facts.put(fact(13))
    assert facts.get("ns", "d") == fact(13)


def test_a_list_that_is_newer_takes_it_away_and_a_late_answer_does_not_bring_it_back() -> None:
    facts, changes = collection()
    facts.put(fact(12))
    facts.replace_all([], None, "20")
    assert facts.get("ns", "d") is None
    assert changes == [fact(12), fact(12)]
    facts.put(fact(13))
    assert facts.get("ns", "d") is None
    assert facts.of_pool(POOL) == ()


def test_an_object_that_left_the_selector_and_came_back_is_known_again() -> None:
    """Somebody took the pool's label off and put it on again: a watch tells of that as deleted and added."""
    facts, _ = collection()
    facts.put(fact(12))
    facts.remove(fact(15))
    assert facts.get("ns", "d") is None
    facts.put(fact(16))
    assert facts.of_pool(POOL) == (fact(16),)
    assert not facts.is_deleted("uid-d")


def test_a_late_word_of_an_older_departure_takes_nothing_away() -> None:
    facts, _ = collection()
    facts.put(fact(16))
    facts.remove(fact(15))
    assert facts.get("ns", "d") == fact(16)


def test_a_namesake_is_another_object() -> None:
    facts, _ = collection()
    facts.put(fact(12))
    facts.put(fact(18, uid="uid-next"))
    facts.remove(fact(17))
    assert facts.of_pool(POOL) == (fact(18, uid="uid-next"),)


def route_body(version: int, *prefill: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "r", "uid": "uid-r", "resourceVersion": str(version)},
        "spec": {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": each} for each in prefill]},
    }


def test_a_pool_that_a_route_names_no_more_is_told_of_it() -> None:
    """Else its sidecars would go on accepting the other side until somebody looks at it by chance."""
    told: list[Fact[Any]] = []
    store = Store(lambda _, fact: told.append(fact))
    store.routes.put(custom_fact(route_body(1, "a", "b")))
    store.routes.put(custom_fact(route_body(2, "b")))
    assert [key.name for key in told[-1].value.names] == ["chat", "b", "a"]
    assert store.routes_of(PoolKey("PrefillPool", "ns", "a")) == ()
    store.routes.remove(custom_fact(route_body(3, "b")))
    assert [key.name for key in told[-1].value.names] == ["chat", "b"]
    assert store.routes_of(PoolKey("DecodePool", "ns", "chat")) == ()


@pytest.mark.parametrize(
    ("spec", "held"),
    [({"replicas": 3}, True), ({"replicas": 0}, True), ({"replicas": None}, False), ({}, False)],
)
def test_replicas_that_kubectl_apply_will_write_again_are_seen(spec: dict[str, Any], held: bool) -> None:
    body = route_body(1)
    applied = json.dumps({"kind": "PrefillPool", "spec": spec})
    body["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": applied}
    assert custom_fact(body).value.replicas_in_last_applied is held


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"spec": 3}', '{"spec": null}'])
def test_what_else_stands_in_that_annotation_means_nothing(text: str) -> None:
    body = route_body(1)
    body["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": text}
    assert custom_fact(body).value.replicas_in_last_applied is False


def test_a_label_that_somebody_took_off_does_not_make_a_deployment_look_old() -> None:
    """It would be one that has no pods and can be scaled to 0 at once, and all its pods nobody's."""
    selected = {"prfaas.io/pool": "long", "prfaas.io/pool-kind": "PrefillPool", "prfaas.io/revision": "abc"}
    body = {
        "metadata": {
            "namespace": "ns",
            "name": "long-abc",
            "uid": "uid",
            "resourceVersion": "1",
            "labels": {"prfaas.io/pool": "long", "prfaas.io/pool-kind": "PrefillPool"},
        },
        "spec": {"replicas": 3, "selector": {"matchLabels": selected}},
    }
    assert deployment_fact(body).value.revision == "abc"


def child_body(owner: dict[str, Any]) -> dict[str, Any]:
    labels = {"prfaas.io/pool": "long", "prfaas.io/pool-kind": "PrefillPool"}
    about = {"namespace": "ns", "name": "long-prefill-peers", "uid": "u", "resourceVersion": "1"}
    return {"metadata": {**about, "labels": labels, "ownerReferences": [{**owner, "controller": True}]}}


@pytest.mark.parametrize(
    ("owner", "of_its_pool"),
    [
        ({"kind": "PrefillPool", "name": "long", "uid": "earlier"}, True),
        ({"kind": "DecodePool", "name": "long", "uid": "x"}, False),
        ({"kind": "Deployment", "name": "long", "uid": "x"}, False),
        ({"kind": "PrefillPool", "name": "other", "uid": "x"}, False),
    ],
)
def test_a_child_of_an_earlier_pool_of_the_name_is_told_from_one_of_somebody_else(
    owner: dict[str, Any], of_its_pool: bool
) -> None:
    fact = config_map_fact(child_body(owner))
    assert (fact.owner_is_of_its_pool, fact.owner_uid) == (of_its_pool, owner["uid"])
