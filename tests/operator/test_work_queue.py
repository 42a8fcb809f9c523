"""The queue's core in virtual time, and its loop."""

from __future__ import annotations

import asyncio

import pytest

from prfaas_operator.runtime.queue import QueueCore, RetryLater, WorkQueue
from tests.helpers import eventually_async


def test_a_key_that_is_added_twice_comes_once() -> None:
    queue = QueueCore[str]()
    queue.add("a", 0.0)
    queue.add("a", 1.0)
    assert queue.pop(1.0) == "a"
    assert queue.pop(1.0) is None
    assert queue.oldest_seconds(3.0) == 2.0


def test_a_key_that_runs_does_not_run_twice_but_comes_again() -> None:
    queue = QueueCore[str]()
    queue.add("a", 0.0)
    assert queue.pop(0.0) == "a"
    queue.add("a", 1.0)
    assert queue.pop(1.0) is None
    queue.done("a", 2.0, requeue_after_seconds=100.0)
    assert queue.pop(2.0) == "a"


def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    queue = QueueCore[str]()
    for key in "cab":
        queue.add(key, 0.0)
    assert [queue.pop(0.0) for _ in range(3)] == ["c", "a", "b"]


def test_the_urgent_key_passes_all_others_and_runs_once_at_a_time() -> None:
    queue = QueueCore[str](urgent="all")
    queue.add("a", 0.0)
    queue.add("b", 0.0)
    queue.add_later("all", 0.0, 1.0)
    assert queue.pop(0.5) == "a"
    assert queue.pop(1.0) == "all"
    queue.add("all", 1.5)
    assert queue.pop(2.0) == "b"
    queue.done("all", 3.0)
    assert queue.pop(3.0) == "all"


def test_failures_wait_longer_and_longer_up_to_a_bound_and_success_forgets_them() -> None:
    queue = QueueCore[str](first_retry_seconds=1.0, longest_retry_seconds=8.0)
    now, pauses = 0.0, []
    queue.add("a", now)
    for _ in range(6):
        assert queue.pop(now) == "a"
        pauses.append(queue.failed("a", now, chance=1.0))
        assert queue.pop(now + pauses[-1] - 0.01) is None
        now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert queue.pop(now) == "a"
    queue.done("a", now)
    queue.add("a", now)
    queue.pop(now)
    assert queue.failed("a", now, chance=0.0) == 0.5


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    queue = QueueCore[str](first_retry_seconds=1.0)
    queue.add("a", 0.0)
    queue.pop(0.0)
    assert queue.failed("a", 0.0, chance=0.0, at_least_seconds=30.0) == 30.0


def test_the_earliest_wish_counts_and_an_event_overtakes_it() -> None:
    queue = QueueCore[str]()
    queue.add_later("a", 0.0, 50.0)
    queue.add_later("a", 0.0, 10.0)
    queue.add_later("a", 0.0, 20.0)
    assert queue.next_due_seconds(4.0) == 6.0
    queue.add("a", 5.0)
    assert queue.pop(5.0) == "a"
    queue.done("a", 5.0)
    assert queue.next_due_seconds(5.0) is None
    assert queue.pop(60.0) is None


def test_a_key_whose_time_comes_while_it_runs_comes_again() -> None:
    queue = QueueCore[str]()
    queue.add("a", 0.0)
    queue.pop(0.0)
    queue.add_later("a", 0.0, 1.0)
    assert queue.pop(2.0) is None
    queue.done("a", 2.0)
    assert queue.pop(2.0) == "a"


def test_an_object_that_is_gone_is_forgotten() -> None:
    queue = QueueCore[str]()
    queue.add_later("a", 0.0, 5.0)
    queue.forget("a")
    assert queue.next_due_seconds(0.0) is None


async def test_a_defect_in_one_pass_stops_no_other() -> None:
    done: list[str] = []
    results: list[str] = []

    async def handle(key: str) -> float | None:
        if key == "bad":
            raise ZeroDivisionError
        if key == "busy":
            raise RetryLater("later")
        if key == "stuck":
            await asyncio.Event().wait()
        done.append(key)
        return None

    queue = WorkQueue(
        QueueCore[str](),
        handle,
        workers=2,
        pass_seconds=0.05,
        on_pass=lambda key, _, result: results.append(f"{key} {result}"),
    )
    work = asyncio.create_task(queue.run())
    for key in ("bad", "busy", "stuck", "good"):
        queue.add(key)
    await eventually_async(lambda: {"bad error", "busy retry", "stuck error", "good ok"} <= set(results))
    assert done == ["good"]
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_one_key_never_runs_in_two_workers() -> None:
    running = 0
    most = 0
    passes = 0

    async def handle(key: str) -> float | None:
        nonlocal running, most, passes
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        passes += 1
        return None

    queue = WorkQueue(
        QueueCore[str](), handle, workers=4, pass_seconds=5.0, on_pass=lambda *_: queue.add("a")
    )
    work = asyncio.create_task(queue.run())
    queue.add("a")
    await eventually_async(lambda: passes >= 5)
    assert most == 1
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
