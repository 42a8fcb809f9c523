"""A gateway in a cluster: a real API server, pods whose status the test writes, engines on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from prfaas.api.snapshot import ModelTarget
from prfaas.kube.resources import CONFIG_MAPS, PODS
from prfaas_bench.fake_engine import Script
from tests.gateway.cluster_values import OTHER_FINGERPRINT, decode_target, prefill_target, route, snapshot
from tests.gateway.cluster_world import SNAPSHOT, ClusterWorld, cluster_world, tokenizer_files
from tests.gateway.fake_sidecar import PrefillScript
from tests.gateway.world import SHORT
from tests.helpers import eventually_async

REMOTE = ("remote", "OverThreshold")


@pytest_asyncio.fixture
async def cluster(kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[ClusterWorld]:
    """A namespace with nothing in it."""
    async with cluster_world(kubeconfig, namespace, tmp_path) as made:
        yield made


def ours(cluster: ClusterWorld, **fields: Any) -> Any:
    """A snapshot with one model, one decode pool, and one prefill pool, in the test's namespace."""
    target = route(prefill_pools=(prefill_target(namespace=cluster.namespace),), **fields)
    return snapshot(decode_target(namespace=cluster.namespace, route=target))


async def test_what_the_cluster_says_is_served(cluster: ClusterWorld) -> None:
    decode = await cluster.add_pod("chat-0")
    prefill = await cluster.add_pod("long-0", "PrefillPool")
    decode.sidecar.files_given = asyncio.Event()
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_open("chat-0")
        # The engine has its tokenizer, the gateway not yet: served all the same.
        await gateway.eventually_routed("local", "TokenizerPending")
        assert gateway.counted("tokenizer_errors_total", code="ChecksumMismatch") == 0
        decode.sidecar.files_given.set()
        await gateway.eventually_routed(*REMOTE)
        asked = await prefill.sidecar.wait_for_prefill()
        assert asked.body["model"] == "chat"
        transfer = decode.engine.asked[-1].transfer
        assert transfer is not None
        assert transfer["producer"] == {
            "address": f"{prefill.ip}:7400",
            "identity": prefill.sidecar.identity,
        }
        async with gateway.client.get(gateway.url + "/v1/models/chat") as response:
            assert (await response.json())["max_model_len"] == 4096
        code, ready = await gateway.page("/readyz")
        assert (code, ready["status"], ready["snapshot"]["source"]) == (200, "ready", "cluster")
        _, status = await gateway.page("/status")
        assert status["models"]["chat"]["tokenizer"] == "ready"
        assert {entry["name"]: entry["in_snapshot"] for entry in status["cluster"]["pods"]} == {
            f"{cluster.namespace}/chat-0": True,
            f"{cluster.namespace}/long-0": True,
        }
        assert status["cluster"]["watches"][f"pods {cluster.namespace}"]["synced"] is True


@pytest.mark.parametrize("how", ["drain-mark", "not-ready", "deleted"])
async def test_a_pod_that_goes_gets_no_new_request_and_finishes_what_runs(
    cluster: ClusterWorld, how: str
) -> None:
    leaving = await cluster.add_pod("chat-0")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed("local", "UnderThreshold", prompt=SHORT)
        go_on = asyncio.Event()
        leaving.engine.default = Script(go_on=go_on)
        async with gateway.complete(SHORT, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            staying = await cluster.add_pod("chat-1")
            await gateway.eventually_open("chat-1")
            match how:
                case "drain-mark":
                    await cluster.mark_drain("chat-0")
                case "not-ready":
                    await cluster.set_ready("chat-0", False)
                case _:
                    await cluster.api.delete(PODS, cluster.namespace, "chat-0")
            await gateway.eventually_open("chat-0", False)
            before = len(leaving.engine.asked)
            for _ in range(5):
                assert (await gateway.routed(SHORT))[0] == "local"
            assert len(leaving.engine.asked) == before
            assert len(staying.engine.asked) == 5
            go_on.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_a_pod_that_comes_back_gets_requests_again_and_keeps_what_is_known(
    cluster: ClusterWorld,
) -> None:
    await cluster.add_pod("chat-0")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_open("chat-0")
        decoder = gateway.decoder("chat-0")
        assert decoder is not None
        await cluster.set_ready("chat-0", False)
        await gateway.eventually_open("chat-0", False)
        assert await gateway.routed(SHORT) == ("503", "NoDecodeEngine")
        await cluster.set_ready("chat-0", True)
        await gateway.eventually_open("chat-0")
        assert gateway.decoder("chat-0") is decoder


async def test_a_decode_pod_that_drains_while_its_request_waits_is_not_given_another_transfer(
    cluster: ClusterWorld,
) -> None:
    first = await cluster.add_pod("chat-0")
    prefills = [await cluster.add_pod(f"long-{n}", "PrefillPool") for n in range(2)]
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed(*REMOTE)
        await eventually_async(lambda: all(p.fingerprint for p in gateway.services.fleet.prefillers))
        finish = asyncio.Event()
        for pod in prefills:
            pod.sidecar.prefill_scripts = [PrefillScript(status=503, finish=finish)]
        first.engine.scripts = [Script(begin=asyncio.Event())]
        asked = len(first.engine.asked)
        waiting = asyncio.create_task(gateway.routed())
        await first.engine.wait_for(asked + 1)
        second = await cluster.add_pod("chat-1")
        await gateway.eventually_open("chat-1")
        await cluster.mark_drain("chat-0")
        await gateway.eventually_open("chat-0", False)
        finish.set()
        assert (await asyncio.wait_for(waiting, 20))[0] in ("remote", "local")
        assert len(first.engine.asked) == asked + 1
        assert len(second.engine.asked) == 1
        assert gateway.counted("ladder_steps_total", step="retry_decode", code="Draining") == 1


async def test_a_draining_decode_pod_keeps_its_request_when_no_other_could_take_it(
    cluster: ClusterWorld,
) -> None:
    only = await cluster.add_pod("chat-0")
    prefills = [await cluster.add_pod(f"long-{n}", "PrefillPool") for n in range(2)]
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed(*REMOTE)
        await eventually_async(lambda: all(p.fingerprint for p in gateway.services.fleet.prefillers))
        finish, begin = asyncio.Event(), asyncio.Event()
        for pod in prefills:
            pod.sidecar.prefill_scripts = [PrefillScript(status=503, finish=finish)]
        only.engine.scripts = [Script(begin=begin)]
        asked = len(only.engine.asked)
        waiting = asyncio.create_task(gateway.routed())
        await only.engine.wait_for(asked + 1)
        await cluster.mark_drain("chat-0")
        await gateway.eventually_open("chat-0", False)
        finish.set()
        await eventually_async(
            lambda: waiting.done() or any(call[0] == "fail" for call in only.sidecar.calls)
        )
        begin.set()
        assert await asyncio.wait_for(waiting, 20) == ("local", "PrefillFailed")
        assert len(only.engine.asked) == asked + 1


async def test_only_equal_fingerprints_exchange_kv(cluster: ClusterWorld) -> None:
    await cluster.add_pod("chat-0")
    old = await cluster.add_pod("long-old", "PrefillPool", fingerprint=OTHER_FINGERPRINT)
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed("local", "IncompatibleKV")
        new = await cluster.add_pod("long-new", "PrefillPool")
        await gateway.eventually_routed(*REMOTE)
        assert old.sidecar.prefills == []
        assert len(new.sidecar.prefills) == 1


async def test_modes_of_a_route(cluster: ClusterWorld) -> None:
    await cluster.add_pod("chat-0")
    prefill = await cluster.add_pod("long-0", "PrefillPool")
    await cluster.write_snapshot(ours(cluster, mode="Observe"))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed("local", "Observed")
        async with gateway.complete() as response:
            assert response.headers["x-prfaas-would-be"] == "remote"
            await response.read()
        counted = gateway.counted(
            "observed_decisions_total", model="chat", would_be="remote", reason="Observed"
        )
        assert counted >= 2
        assert prefill.sidecar.prefills == []
        await cluster.write_snapshot(ours(cluster, mode="Canary", canary_percent=0))
        await gateway.eventually_routed("local", "NotInCanary")
        await cluster.write_snapshot(ours(cluster, mode="Canary", canary_percent=100))
        await gateway.eventually_routed(*REMOTE)
        until = datetime.now(UTC) + timedelta(hours=1)
        await cluster.write_snapshot(ours(cluster, local_only_until=until))
        await gateway.eventually_routed("local", "RemoteDisabled")
        await cluster.write_snapshot(snapshot(decode_target(namespace=cluster.namespace, route=None)))
        await gateway.eventually_routed("local", "NoRoute")


async def test_two_decode_pools_of_a_model_have_each_their_own_route(cluster: ClusterWorld) -> None:
    far = prefill_target(namespace=cluster.namespace)
    pools = [
        decode_target("chat", cluster.namespace, route=route(prefill_pools=(far,), threshold_tokens=100_000)),
        decode_target("eager", cluster.namespace, route=route(prefill_pools=(far,), threshold_tokens=10)),
    ]
    await cluster.add_pod("chat-0")
    await cluster.add_pod("eager-0", pool="eager")
    await cluster.add_pod("long-0", "PrefillPool")
    await cluster.write_snapshot(snapshot(*pools))
    async with cluster.gateway() as gateway:
        await gateway.eventually_open("chat-0")
        await gateway.eventually_open("eager-0")
        eager = gateway.decoder("eager-0")
        assert eager is not None
        # Whoever is idlest is asked; the same prompt is short for one and long for the other.
        with eager.request():
            await gateway.eventually_routed("local", "UnderThreshold")
        await cluster.mark_drain("chat-0")
        await gateway.eventually_routed(*REMOTE)


async def test_a_new_revision_with_other_files_swaps_the_tokenizer_and_drops_nothing(
    cluster: ClusterWorld,
) -> None:
    old = await cluster.add_pod("chat-0")
    await cluster.add_pod("long-0", "PrefillPool")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed(*REMOTE)
        first = gateway.services.models["chat"]
        go_on = asyncio.Event()
        old.engine.default = Script(go_on=go_on)
        async with gateway.complete(SHORT, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            await cluster.add_pod("chat-1", files=tokenizer_files("new"))
            await gateway.eventually_open("chat-1")
            # A tie: the tokenizer in use stays, and the pod with other files gets nothing remote.
            decoder = gateway.decoder("chat-1")
            assert decoder is not None
            await eventually_async(lambda: decoder.files != "")
            assert gateway.services.models["chat"].files == first.files != decoder.files
            await cluster.mark_drain("chat-0")
            await eventually_async(lambda: gateway.services.models["chat"].files == decoder.files)
            await gateway.eventually_routed(*REMOTE)
            go_on.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        assert len(list((cluster.folder / "state" / "tokenizers").iterdir())) == 2


async def test_files_that_do_not_match_their_digest_are_not_used(cluster: ClusterWorld) -> None:
    pod = await cluster.add_pod("chat-0")
    files = pod.sidecar.files
    lying = dict(files)

    class Changing(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            return b"x" * len(lying[name])

    pod.sidecar.files = Changing(files)
    await cluster.add_pod("long-0", "PrefillPool")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await eventually_async(
            lambda: gateway.counted("tokenizer_errors_total", code="ChecksumMismatch") >= 1
        )
        assert await gateway.routed() == ("local", "TokenizerPending")
        _, status = await gateway.page("/status")
        assert status["cluster"]["tokenizer_trouble"]["chat"]["code"] == "ChecksumMismatch"
        pod.sidecar.files = files
        await gateway.eventually_routed(*REMOTE)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"version": 1, "models"', "Malformed"),
        (json.dumps({"version": 0, "revision": "x"}), "UnknownVersion"),
    ],
    ids=["broken", "older-version"],
)
async def test_a_bad_snapshot_leaves_the_last_good_one_in_force(
    cluster: ClusterWorld, text: str, code: str, logs: list[dict[str, Any]]
) -> None:
    await cluster.add_pod("chat-0")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_open("chat-0")
        await cluster.write_snapshot(text)
        await eventually_async(lambda: gateway.counted("snapshot_errors_total", code=code) >= 1)
        assert (await gateway.routed(SHORT))[0] == "local"
        _, ready = await gateway.page("/readyz")
        assert ready["snapshot"]["source"] == "rejected"
        assert any(line["levelname"] == "ERROR" and line.get("code") == code for line in logs)
        await cluster.api.delete(CONFIG_MAPS, cluster.namespace, SNAPSHOT)
        await eventually_async(lambda: gateway.controller.sources()["snapshot"]["source"] == "missing")
        assert (await gateway.routed(SHORT))[0] == "local"
        await cluster.write_snapshot(ours(cluster, threshold_tokens=5))
        await eventually_async(lambda: gateway.controller.sources()["snapshot"]["source"] == "cluster")


async def test_readiness_is_about_the_whole_gateway(cluster: ClusterWorld) -> None:
    async with cluster.gateway() as gateway:

        async def says(code: int, status: str) -> bool:
            found, page = await gateway.page("/readyz")
            return (found, page["status"]) == (code, status)

        assert await says(503, "no snapshot: neither from the operator nor on disk")
        await cluster.write_snapshot(snapshot().sealed(region="here", trust_domain="test", models=()))
        await eventually_async(lambda: says(200, "ready"))
        await cluster.write_snapshot(ours(cluster))
        await eventually_async(lambda: says(503, "no decode engine for any model"))
        more = ModelTarget(name="other", decode_pools=(decode_target("other", cluster.namespace),))
        target = decode_target(namespace=cluster.namespace)
        await cluster.write_snapshot(snapshot(target, more=(more,)))
        await cluster.add_pod("chat-0")
        await eventually_async(lambda: says(200, "ready"))
        _, page = await gateway.page("/readyz")
        assert page["unserved_models"] == ["other"]
        assert await gateway.routed(model="other") == ("503", "NoDecodeEngine")
        assert await gateway.routed(model="unknown") == ("404", "model_not_found")


async def test_a_pod_that_is_gone_leaves_fleet_metrics_and_state(cluster: ClusterWorld) -> None:
    await cluster.add_pod("chat-0")
    await cluster.add_pod("chat-1")
    await cluster.write_snapshot(ours(cluster))
    async with cluster.gateway() as gateway:
        await gateway.eventually_open("chat-0")
        await gateway.eventually_open("chat-1")

        async def series() -> str:
            async with gateway.client.get(gateway.health_url + "/metrics") as response:
                return await response.text()

        assert f'engine="{cluster.namespace}/chat-0"' in await series()
        # As when it is deleted, or its labels are taken by another controller: it leaves the watch.
        await cluster.api.patch(
            PODS,
            cluster.namespace,
            "chat-0",
            {"metadata": {"labels": {"prfaas.io/pool": None}}},
            field_manager="test",
        )
        await eventually_async(lambda: gateway.decoder("chat-0") is None)

        async def gone() -> bool:
            return f'engine="{cluster.namespace}/chat-0"' not in await series()

        await eventually_async(gone)
        assert f'engine="{cluster.namespace}/chat-1"' in await series()
