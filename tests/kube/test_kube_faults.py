"""The client against a real API server that sheds load, fails, is slow, cuts off watches or falls silent."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from prfaas.kube import errors
from prfaas.kube.client import KubeClient, connect
from prfaas.kube.reflect import Added, Change, Contact, Deleted, Modified, Synced, reflect
from prfaas.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PREFILL_POOLS, Object, Resource
from tests.helpers import eventually_async
from tests.kube.fault_proxy import FaultProxy, fault_proxy, plain_kubeconfig, status, times


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    monkeypatch.setattr(logging.getLogger("prfaas.kube"), "propagate", False)


@pytest.fixture
async def proxy(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(kubeconfig, tmp_path) as found:
        yield found


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[KubeClient]:
    found = await connect(str(proxy.kubeconfig))
    yield found
    await found.close()


def config_map(namespace: str, name: str, **data: str) -> Object:
    return {"metadata": {"namespace": namespace, "name": name}, "data": data}


async def test_a_busy_server_is_asked_again_after_the_time_it_wants(
    client: KubeClient, proxy: FaultProxy, namespace: str
) -> None:
    proxy.answer = times(1, lambda: status(429, "TooManyRequests", retry_after="1"), "POST")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    assert loop.time() - began >= 1.0
    assert proxy.asked("POST") == 2


async def test_a_busy_server_that_wants_too_long_is_told_as_such(
    client: KubeClient, proxy: FaultProxy, namespace: str
) -> None:
    proxy.answer = times(9, lambda: status(429, "TooManyRequests", retry_after="20"), "GET")
    with pytest.raises(errors.TooManyRequests) as failure:
        await client.get(CONFIG_MAPS, namespace, "a", deadline_seconds=2.0)
    assert failure.value.retry_after_seconds == 20.0
    assert proxy.asked("GET") == 1


async def test_a_read_survives_a_server_that_fails_and_a_write_does_not_repeat_itself(
    client: KubeClient, proxy: FaultProxy, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace, "a", x="1"))
    proxy.answer = times(2, lambda: status(500, "InternalError"), "GET")
    assert (await client.get(CONFIG_MAPS, namespace, "a"))["data"] == {"x": "1"}
    assert proxy.asked("GET") == 3
    proxy.answer = times(1, lambda: status(500, "InternalError"), "PATCH")
    with pytest.raises(errors.ServerFailed):
        await client.apply(CONFIG_MAPS, config_map(namespace, "a", x="2"), field_manager="t", force=True)
    assert proxy.asked("PATCH") == 1


async def test_a_server_that_does_not_answer_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # It takes connections, and nobody ever reads them.
        listener.listen()
        place = tmp_path / "silent.kubeconfig"
        await asyncio.to_thread(place.write_text, json.dumps(plain_kubeconfig(listener.getsockname()[1])))
        silent = await connect(str(place))
        with pytest.raises(errors.DeadlineExceeded):
            await silent.get(CONFIG_MAPS, "any", "a", deadline_seconds=0.3)
    with pytest.raises(errors.Unreachable):
        await silent.get(CONFIG_MAPS, "any", "a", deadline_seconds=0.3)
    await silent.close()


async def test_a_list_comes_in_parts_and_a_part_that_expired_says_gone(
    client: KubeClient, proxy: FaultProxy, namespace: str
) -> None:
    for number in range(5):
        await client.create(CONFIG_MAPS, config_map(namespace, f"m{number}"))
    pages = [page async for page in client.pages(CONFIG_MAPS, namespace, page_objects=2)]
    assert [len(page.objects) for page in pages] == [2, 2, 1]
    assert {page.resource_version for page in pages} == {pages[0].resource_version}
    assert pages[0].objects[0]["kind"] == "ConfigMap"
    proxy.answer = times(1, lambda: status(410, "Expired"), "continue=")
    with pytest.raises(errors.Gone):
        async for _ in client.pages(CONFIG_MAPS, namespace, page_objects=2):
            pass


async def test_metadata_only_leaves_out_the_rest(client: KubeClient, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace, "a", secret="x"))
    (found,) = await client.list(CONFIG_MAPS, namespace, metadata_only=True)
    assert "data" not in found
    assert found["metadata"]["name"] == "a"


async def test_an_apply_with_an_old_version_is_a_conflict(client: KubeClient, namespace: str) -> None:
    first = await client.apply(CONFIG_MAPS, config_map(namespace, "a", x="1"), field_manager="t")
    await client.apply(CONFIG_MAPS, config_map(namespace, "a", x="2"), field_manager="t")
    body = config_map(namespace, "a", x="3")
    body["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
    with pytest.raises(errors.Conflict) as failure:
        await client.apply(CONFIG_MAPS, body, field_manager="t", force=True)
    assert not failure.value.owned_by_others


async def test_delete_holds_to_its_preconditions(client: KubeClient, namespace: str) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    with pytest.raises(errors.Conflict):
        await client.delete(CONFIG_MAPS, namespace, "a", uid="another")
    await client.delete(CONFIG_MAPS, namespace, "a", uid=made["metadata"]["uid"])
    with pytest.raises(errors.NotFound):
        await client.delete(CONFIG_MAPS, namespace, "a")


async def test_a_dry_run_changes_nothing(client: KubeClient, namespace: str) -> None:
    answer = await client.apply(CONFIG_MAPS, config_map(namespace, "a"), field_manager="t", dry_run=True)
    assert "resourceVersion" not in answer["metadata"]
    assert not await client.list(CONFIG_MAPS, namespace)


async def test_a_kind_that_is_not_there_is_told_from_an_object(client: KubeClient, namespace: str) -> None:
    with pytest.raises(errors.NotFound) as failure:
        await client.get(Resource("prfaas.io", "v1alpha1", "nothings", "Nothing"), namespace, "a")
    assert not failure.value.kind_is_served
    for resource in (PREFILL_POOLS, DEPLOYMENTS):
        with pytest.raises(errors.NotFound) as failure:
            await client.get(resource, namespace, "a")
        assert failure.value.kind_is_served


class Followed:
    """What a reflector told of a namespace's ConfigMaps: names as they would be known, and each change."""

    def __init__(self, client: KubeClient, namespace: str, silent_seconds: float = 30.0) -> None:
        self.names: set[str] = set()
        self.changes: list[Change[str]] = []
        self.contact = Contact()
        self.stream = reflect(
            client,
            CONFIG_MAPS,
            slim=lambda body: str(body["metadata"]["name"]),
            namespace=namespace,
            silent_seconds=silent_seconds,
            contact=self.contact,
        )
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for change in self.stream:
            self.changes.append(change)
            match change:
                case Synced(names):
                    self.names = set(names)
                case Added(name) | Modified(name):
                    self.names.add(name)
                case Deleted(name):
                    self.names.discard(name)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.stream.aclose()  # type: ignore[attr-defined]

    def lists(self) -> int:
        return sum(isinstance(change, Synced) for change in self.changes)


@pytest.fixture
async def followed(client: KubeClient, namespace: str) -> AsyncIterator[Followed]:
    found = Followed(client, namespace)
    async with asyncio.timeout(10):
        await found.contact.synced_event.wait()
    yield found
    await found.end()


async def test_changes_come_as_they_are_made(client: KubeClient, followed: Followed, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    await client.apply(CONFIG_MAPS, config_map(namespace, "a", x="1"), field_manager="t")
    await client.delete(CONFIG_MAPS, namespace, "a")
    await eventually_async(lambda: len(followed.changes) == 4)
    assert followed.changes == [Synced(()), Added("a"), Modified("a"), Deleted("a")]


async def test_a_watch_that_is_cut_goes_on_where_it_was(
    client: KubeClient, proxy: FaultProxy, followed: Followed, namespace: str
) -> None:
    await eventually_async(lambda: proxy.open_watches == 1)
    proxy.cut_watches()
    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    await eventually_async(lambda: followed.names == {"a"})
    assert followed.lists() == 1


async def test_a_version_that_is_too_old_brings_a_new_list_and_what_went_meanwhile_is_gone(
    client: KubeClient, proxy: FaultProxy, followed: Followed, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace, "goes"))
    await eventually_async(lambda: followed.names == {"goes"})
    await eventually_async(lambda: proxy.open_watches == 1)
    proxy.answer = lambda request: (
        status(503, "ServiceUnavailable") if request.query.get("watch") == "true" else None
    )
    proxy.cut_watches()
    await client.delete(CONFIG_MAPS, namespace, "goes")
    await client.create(CONFIG_MAPS, config_map(namespace, "comes"))
    proxy.answer = times(1, lambda: status(410, "Expired"), "watch=true")
    await eventually_async(lambda: followed.names == {"comes"})
    assert followed.lists() == 2


async def test_an_error_inside_a_watch_brings_a_new_list(
    client: KubeClient, proxy: FaultProxy, followed: Followed, namespace: str
) -> None:
    line = b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}\n'
    await eventually_async(lambda: proxy.open_watches == 1)
    proxy.answer = times(1, lambda: web.Response(body=line), "watch=true")
    proxy.cut_watches()
    await eventually_async(lambda: followed.lists() == 2)


@pytest.mark.parametrize(
    "line", [b"<html>\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": {}', b"[]\n"]
)
async def test_nonsense_in_a_watch_ends_nothing(
    client: KubeClient, proxy: FaultProxy, followed: Followed, namespace: str, line: bytes
) -> None:
    await eventually_async(lambda: proxy.open_watches == 1)
    proxy.answer = times(2, lambda: web.Response(body=line), "watch=true")
    proxy.cut_watches()
    await eventually_async(lambda: proxy.asked("watch=true") >= 3)
    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    await eventually_async(lambda: followed.names == {"a"})


async def test_a_watch_that_falls_silent_is_opened_anew(
    client: KubeClient, proxy: FaultProxy, namespace: str
) -> None:
    proxy.silent.add("configmaps")
    found = Followed(client, namespace, silent_seconds=0.3)
    await eventually_async(lambda: found.contact.watches >= 1)
    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
    await eventually_async(lambda: isinstance(found.contact.error, errors.DeadlineExceeded))
    assert found.names == set()
    proxy.silent.clear()
    await eventually_async(lambda: found.names == {"a"})
    await found.end()
