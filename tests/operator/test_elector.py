"""Who leads: decisions on values, then against a real API server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import LEASES
from prfaas_operator.runtime.elector import (
    Elector,
    LeaseLost,
    Record,
    Seen,
    Take,
    Timings,
    Wait,
    decide,
    lease_body,
    read_record,
)
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of

TIMINGS = Timings(lease_seconds=15, renew_deadline_seconds=10.0, retry_seconds=2.0)
HELD = Record("other", 15, "then", "then", 3, "77")


def test_no_lease_is_taken() -> None:
    decision = decide(None, "me", 0.0, "now", TIMINGS)
    assert decision == Take(Record("me", 15, "now", "now", 0))


def test_a_lease_that_was_just_seen_to_change_is_waited_for() -> None:
    assert decide(Seen(HELD, since=100.0), "me", 101.0, "now", TIMINGS) == Wait("other", 14.0)


def test_a_lease_that_did_not_change_for_its_whole_length_is_taken_over() -> None:
    decision = decide(Seen(HELD, since=100.0), "me", 115.0, "now", TIMINGS)
    assert isinstance(decision, Take)
    assert decision.record == Record("me", 15, "now", "now", 4, "77")


@pytest.mark.parametrize("wall", ["1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_wall_clocks_decide_nothing(wall: str) -> None:
    fresh = Seen(replace(HELD, renewed_at=wall), since=100.0)
    assert isinstance(decide(fresh, "me", 101.0, wall, TIMINGS), Wait)
    assert isinstance(decide(fresh, "me", 116.0, wall, TIMINGS), Take)


def test_a_released_lease_is_taken_at_once() -> None:
    assert isinstance(decide(Seen(replace(HELD, holder=""), 100.0), "me", 100.0, "now", TIMINGS), Take)


def test_a_restarted_process_of_the_same_name_goes_on() -> None:
    decision = decide(Seen(replace(HELD, holder="me"), 100.0), "me", 100.0, "now", TIMINGS)
    assert isinstance(decision, Take)
    assert decision.record.transitions == 3
    assert decision.record.acquired_at == "then"


def test_the_other_holders_own_length_counts() -> None:
    long = Seen(replace(HELD, lease_seconds=60), 100.0)
    assert decide(long, "me", 130.0, "now", TIMINGS) == Wait("other", 30.0)


def test_a_record_survives_the_way_through_a_lease() -> None:
    body = lease_body(HELD, "ns", "name")
    assert read_record(body) == HELD
    assert read_record({"metadata": {}}).holder == ""


def elector(client: KubeClient, namespace: str, identity: str) -> Elector:
    timings = Timings(lease_seconds=1, renew_deadline_seconds=0.7, retry_seconds=0.1)
    return Elector(client, namespace=namespace, name="l", identity=identity, timings=timings)


async def test_of_two_one_leads_and_a_release_hands_over(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        first, second = elector(client, namespace, "a"), elector(client, namespace, "b")
        ending = asyncio.Event()

        async def lead() -> None:
            await ending.wait()

        one = asyncio.create_task(first.hold(lead))
        await eventually_async(first.leading.is_set)
        two = asyncio.create_task(second.hold(lead))
        await eventually_async(lambda: second.holder == "a")
        assert not second.leading.is_set()
        assert second.seconds_left() == 0.0
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        await first.release()
        await eventually_async(second.leading.is_set)
        assert first.seconds_left() == 0.0
        ending.set()
        await two
        lease = await client.get(LEASES, namespace, "l")
        assert lease["spec"]["holderIdentity"] == "b"
        assert lease["spec"]["leaseTransitions"] == 1


async def test_a_lease_that_somebody_deleted_is_made_again_and_leading_goes_on(
    kubeconfig: Path, namespace: str
) -> None:
    async with client_of(kubeconfig) as client:
        mine = elector(client, namespace, "a")
        ending = asyncio.Event()

        async def lead() -> None:
            await ending.wait()

        leading = asyncio.create_task(mine.hold(lead))
        await eventually_async(mine.leading.is_set)
        await client.delete(LEASES, namespace, "l")

        async def is_back() -> bool:
            return any(each["spec"]["holderIdentity"] == "a" for each in await client.list(LEASES, namespace))

        await eventually_async(is_back)
        assert not leading.done()
        assert mine.seconds_left() > 0
        ending.set()
        await leading


async def test_a_lease_that_another_took_ends_the_leading(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        mine = elector(client, namespace, "a")
        was_cancelled = asyncio.Event()

        async def lead() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                assert mine.seconds_left() == 0.0
                was_cancelled.set()

        holding = asyncio.create_task(mine.hold(lead))
        await eventually_async(mine.leading.is_set)
        body = await client.get(LEASES, namespace, "l")
        spec = {"holderIdentity": "thief", "leaseTransitions": 9}
        await client.patch(LEASES, namespace, "l", {"spec": spec}, field_manager="thief")
        with pytest.raises(LeaseLost, match="thief"):
            await holding
        assert was_cancelled.is_set()
        assert body["spec"]["holderIdentity"] == "a"


async def test_without_the_api_server_writing_ends_before_another_may_begin() -> None:
    """The renew deadline by the monotonic clock, whatever the API server does."""
    now = 0.0

    class Silent:
        calls = 0

        async def get(self, *_: object, **__: object) -> dict[str, object]:
            raise errors.NotFound("none", status=404)

        async def create(self, _: object, body: dict[str, object], **__: object) -> dict[str, object]:
            return {**body, "metadata": {"resourceVersion": "1"}}

        async def replace(self, *_: object, **__: object) -> dict[str, object]:
            Silent.calls += 1
            raise errors.Unreachable("no connection")

    timings = Timings(lease_seconds=15, renew_deadline_seconds=10.0, retry_seconds=0.01)
    mine = Elector(
        Silent(),  # type: ignore[arg-type]
        namespace="n",
        name="l",
        identity="a",
        timings=timings,
        clock=lambda: now,
    )

    async def lead() -> None:
        await asyncio.Event().wait()

    holding = asyncio.create_task(mine.hold(lead))
    await eventually_async(lambda: Silent.calls > 2)
    assert mine.seconds_left() == 10.0
    now = 10.0
    with pytest.raises(LeaseLost, match="not renewed"):
        await holding
    assert mine.seconds_left() == 0.0
