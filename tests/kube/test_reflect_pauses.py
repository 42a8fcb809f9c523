"""How a reflector paces itself when lists work and watches do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prfaas.kube import errors, reflect
from prfaas.kube.api import Page, WatchEvent
from prfaas.kube.reflect import Contact
from prfaas.kube.resources import CONFIG_MAPS


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    monkeypatch.setattr(logging.getLogger("prfaas.kube"), "propagate", False)


class HalfAnApi:
    """Lists are answered; each watch fails, after an event if it is to bring one."""

    def __init__(self, error: errors.KubeError, *, with_event: bool = False, opens: bool = False) -> None:
        self._error = error
        self._with_event = with_event
        self._opens = opens or with_event
        self.lists = 0

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Page]:
        self.lists += 1
        await asyncio.sleep(0)
        yield Page([], str(self.lists), None)

    @asynccontextmanager
    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        if not self._opens:
            raise self._error
        yield self._events()

    async def _events(self) -> AsyncIterator[WatchEvent]:
        if self._with_event:
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
        raise self._error


async def failures_waited_for(
    api: HalfAnApi, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> tuple[list[int], Contact]:
    """The number of failures in a row that each pause was for."""
    waited: list[int] = []
    enough = asyncio.Event()

    def backoff_seconds(failures: int, *_: Any, **__: Any) -> float:
        waited.append(failures)
        if len(waited) >= rounds:
            enough.set()
        return 0.0

    monkeypatch.setattr(reflect, "backoff_seconds", backoff_seconds)
    contact = Contact()
    stream: Any = reflect.reflect(api, CONFIG_MAPS, slim=lambda body: body, contact=contact)  # type: ignore[arg-type]

    async def follow() -> None:
        async for _ in stream:
            if api.lists > 10 * rounds:
                enough.set()
                return

    following = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        await enough.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await stream.aclose()
    return waited, contact


@pytest.mark.parametrize(
    "error",
    [errors.Gone("too old"), errors.Forbidden("no watch"), errors.ServerFailed("no"), errors.NotFound("no")],
    ids=lambda error: type(error).__name__,
)
async def test_lists_that_work_do_not_shorten_the_pauses_between_watches_that_fail(
    monkeypatch: pytest.MonkeyPatch, error: errors.KubeError
) -> None:
    api = HalfAnApi(error)
    waited, contact = await failures_waited_for(api, monkeypatch, 5)
    assert waited[:5] == sorted(set(waited[:5]))
    assert api.lists <= len(waited) + 2
    # Whoever looks has to see why nothing comes, although every list is answered.
    assert contact.error is error
    assert contact.failures >= 5


async def test_a_watch_that_brought_something_starts_the_pauses_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, _ = await failures_waited_for(
        HalfAnApi(errors.ServerFailed("no"), with_event=True), monkeypatch, 4
    )
    assert waited[:4] == [1, 1, 1, 1]


async def test_a_watch_that_something_cuts_when_it_is_idle_is_opened_again_without_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A proxy that gives an idle connection less time than bookmarks take: nothing is lost, and nothing ill.
    monkeypatch.setattr(reflect, "LONG_ENOUGH_SECONDS", 0.0)
    waited, _ = await failures_waited_for(HalfAnApi(errors.Unreachable("cut"), opens=True), monkeypatch, 4)
    assert waited[:4] == [1, 1, 1, 1]


async def test_a_watch_that_is_cut_at_once_is_opened_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited, _ = await failures_waited_for(HalfAnApi(errors.Unreachable("cut"), opens=True), monkeypatch, 4)
    assert waited[:4] == [1, 2, 3, 4]


def test_those_whom_a_server_tells_the_same_time_do_not_all_come_at_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = errors.TooManyRequests("busy", retry_after_seconds=10)
    pauses = {reflect._pause_seconds(error, 1) for _ in range(20)}
    assert min(pauses) >= 10
    assert max(pauses) <= 15
    assert len(pauses) == 20
