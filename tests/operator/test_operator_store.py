"""What the operator knows, when lists, watches and the answers to its own writes come in any order."""

from __future__ import annotations

from prfaas_operator.planning.values import PoolKey
from prfaas_operator.runtime.facts import Fact
from prfaas_operator.runtime.store import Collection

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
