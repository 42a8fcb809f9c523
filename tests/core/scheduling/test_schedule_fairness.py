"""Fair queueing: shares by weight, nobody starves, and the queue is bounded."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import InvalidInputError
from prfaas.scheduling import Claim, Demand, FairQueue, Shed, SloClass, admit


def drained(queue: FairQueue[str], now: float = 0.0) -> list[str]:
    found = []
    while (item := queue.pop(now)) is not None:
        found.append(item)
    return found


def test_one_tenant_is_served_in_order() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for name in ("a", "b", "c"):
        assert queue.push(name, Claim("one", 5), 0)
    assert drained(queue) == ["a", "b", "c"]
    assert len(queue) == 0
    assert queue.waiting_cost() == 0


def test_a_flood_of_one_does_not_keep_another_waiting() -> None:
    queue: FairQueue[str] = FairQueue(1000, most_share=1)
    for number in range(500):
        queue.push(f"flood-{number}", Claim("flood", 1000), 0)
    queue.push("small", Claim("small", 1000), 0)
    assert "small" in drained(queue)[:2]


def test_deadlines_and_priorities() -> None:
    queue: FairQueue[str] = FairQueue(10)
    queue.push("late", Claim("one", 5, 0, 30), 0)
    queue.push("soon", Claim("one", 5, 0, 10), 0)
    queue.push("first", Claim("two", 5, 1), 0)
    assert drained(queue) == ["first", "soon", "late"]


def test_a_low_priority_is_served_once_it_has_waited_long_enough() -> None:
    queue: FairQueue[str] = FairQueue(10, starve_seconds=5)
    queue.push("low", Claim("one", 5, 0), 0)
    queue.push("high", Claim("two", 5, 1), 4)
    assert queue.peek(5) == "high"
    assert queue.pop(5.1) == "low"
    assert drained(queue) == ["high"]


def test_it_is_bounded_for_all_and_for_each() -> None:
    queue: FairQueue[str] = FairQueue(4)
    assert all(queue.push(f"a{number}", Claim("a", 1), 0) for number in range(3))
    assert queue.push("b", Claim("b", 1), 0)
    assert not queue.push("c", Claim("c", 1), 0)
    assert queue.remove("a0")
    assert not queue.remove("a0")
    assert not queue.push("a3", Claim("a", 1), 0), (
        "two of four places are one tenant's share while others wait"
    )
    assert queue.push("c", Claim("c", 1), 0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5000), st.integers(0, 2)), min_size=1, max_size=60
    ),
    st.data(),
)
def test_everything_comes_out_exactly_once(items: list[tuple[str, int, int]], data: st.DataObject) -> None:
    queue: FairQueue[int] = FairQueue(1000, most_share=1)
    out: list[int] = []
    taken: set[int] = set()
    for number, (tenant, cost, priority) in enumerate(items):
        assert queue.push(number, Claim(tenant, cost, priority), number)
        if data.draw(st.booleans()):
            victim = data.draw(st.integers(0, number))
            if queue.remove(victim):
                taken.add(victim)
        elif data.draw(st.booleans()) and (item := queue.pop(number)) is not None:
            out.append(item)
    while (item := queue.pop(1e6)) is not None:
        out.append(item)
    assert sorted([*out, *taken]) == list(range(len(items)))
    assert len(queue) == 0
    assert queue.waiting_cost() == 0
    assert not queue.tenants()


@given(
    weight=st.floats(0.2, 5),
    costs=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=20, max_size=40),
)
def test_what_is_served_follows_the_weights(weight: float, costs: list[tuple[int, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(1000, most_share=1, weights={"a": weight})
    for number, (one, other) in enumerate(costs):
        queue.push(("a", number), Claim("a", one), 0)
        queue.push(("b", number), Claim("b", other), 0)
    served: Counter[str] = Counter()
    left = {"a": len(costs), "b": len(costs)}
    largest = max(max(pair) for pair in costs)
    while all(left.values()):
        item = queue.pop(0)
        assert item is not None
        tenant, number = item
        served[tenant] += costs[number][0 if tenant == "a" else 1]
        left[tenant] -= 1
        if all(left.values()):
            assert abs(served["a"] / weight - served["b"]) <= largest / min(weight, 1) + largest


def test_removing_without_serving_leaves_nothing_behind() -> None:
    queue: FairQueue[int] = FairQueue(1000, most_share=1)
    queue.push(-1, Claim("a", 1, deadline_at=0), 0)
    for number in range(5000):
        queue.push(number, Claim("a", 1), 0)
        queue.remove(number)
    held = sum(len(each.heap) for tenants in queue._classes.values() for each in tenants.values())
    assert held < 200
    assert queue.pop(0) == -1


def test_what_is_ahead_counts_others_only_in_proportion() -> None:
    queue: FairQueue[str] = FairQueue(1000, most_share=1, weights={"heavy": 2})
    queue.push("x", Claim("flood", 100_000), 0)
    assert queue.ahead_cost(Claim("new", 1000)) == 1000
    assert queue.ahead_cost(Claim("heavy", 1000)) == 500
    assert queue.ahead_cost(Claim("flood", 1000)) == 100_000
    assert queue.fair_share("heavy") == pytest.approx(2 / 3)
    assert queue.fair_share("flood") == 1


def test_weights_have_to_be_positive() -> None:
    with pytest.raises(InvalidInputError, match=r"weights\[a\]"):
        FairQueue(1, weights={"a": 0})


STRICT = SloClass("chat", ttft_seconds=2, shed=Shed.REFUSE)


@pytest.mark.parametrize(
    ("demand", "slo", "status"),
    [
        (Demand(1.9), STRICT, None),
        (Demand(None), STRICT, None),
        (Demand(9), SloClass("batch", 2), None),
        (Demand(9), STRICT, 503),
        (Demand(9, tenant_share=0.4, fair_share=0.5), STRICT, 503),
        (Demand(9, tenant_share=0.9, fair_share=0.5), STRICT, 429),
    ],
    ids=[
        "in-time",
        "unknown",
        "late-is-better-than-never",
        "everybody",
        "within-its-share",
        "over-its-share",
    ],
)
def test_admission(demand: Demand, slo: SloClass, status: int | None) -> None:
    refusal = admit(demand, slo)
    assert (refusal.status if refusal else None) == status
    if refusal:
        assert refusal.retry_after_seconds == 7


def test_a_class_that_refuses_needs_an_objective() -> None:
    with pytest.raises(InvalidInputError, match="ttft_seconds"):
        SloClass("x", shed=Shed.REFUSE)
    assert admit(Demand(1e9), STRICT).retry_after_seconds == 60  # type: ignore[union-attr]
