"""`prfaas plan --from-cluster`: from objects to a scenario, and the command at a real API server."""

from __future__ import annotations

import asyncio
import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from prfaas.capacity import InvalidInputError, TruncatedLogNormal, share_above
from prfaas.cli import main
from prfaas.commands.plan.live_demand import added, tallies_of
from prfaas.commands.plan.live_objects import Live
from prfaas.commands.plan.live_scenario import OWN, LiveScenario, scenario_of
from prfaas.commands.plan.scenario import loaded
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import (
    DECODE_POOLS,
    KV_LINKS,
    MODEL_KV_PROFILES,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    REGIONS,
    Object,
)
from prfaas.scheduling import Outcome, Tally
from tests.api.crd_cases import POOL_SPEC
from tests.operator.runtime_world import client_of

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
TIME = "2026-03-01T12:00:00Z"
PROFILE = {
    "model": {"name": "chat"},
    "kvBytes": [{"tokens": 1024, "bytes": 150_994_944}, {"tokens": 32_768, "bytes": 4_831_838_208}],
    "prefill": [
        {
            "hardware": hardware,
            "points": [
                {"tokens": 1024, "seconds": 0.05 * factor},
                {"tokens": 32_768, "seconds": 2.1 * factor},
            ],
        }
        for hardware, factor in (("h200", 1), ("h20", 4))
    ],
    "decode": [{"hardware": "h20", "batch": 32, "tokensPerSecond": 1800}],
}


def thing(kind: str, name: str, spec: Object, status: Object | None = None, **about: Any) -> Object:
    metadata = {"name": name, "namespace": "serving", "generation": 1, **about}
    return {"apiVersion": "prfaas.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec} | (
        {"status": status} if status else {}
    )


def pool(kind: str, name: str, hardware: str, cluster: str, count: int, **scaling: Any) -> Object:
    spec = copy.deepcopy(POOL_SPEC) | {
        "replicas": count,
        "model": {"name": "chat", "profileRef": {"name": "chat"}},
        "scaling": {"instance": {"hardware": hardware, "accelerators": 8}, **scaling},
        "placement": {"clusters": [{"name": cluster}]},
    }
    status = {"observedGeneration": 1, "replicas": count, "readyReplicas": count, "desiredReplicas": count}
    return thing(kind, name, spec, status)


def region(name: str, *, own: bool = False) -> Object:
    condition = {
        "type": "Reachable",
        "status": "True",
        "reason": "OwnRegion" if own else "Reachable",
        "message": "it is.",
        "lastTransitionTime": TIME,
    }
    return thing("Region", name, {}, {"conditions": [condition]}, namespace="")


def link(name: str = "us-eu", *, status: Object | None = None, **spec: Any) -> Object:
    source, _, destination = name.partition("-")
    ends = {"source": {"region": source}, "destination": {"region": destination}}
    return thing("KVLink", name, ends | spec, status, namespace="")


def route(**status: Any) -> Object:
    spec: Object = {
        "decodePoolRef": {"name": "chat"},
        "prefillPoolRefs": [{"name": "long"}],
        "mode": "Canary",
    }
    spec["canary"] = {"percent": 50}
    usual = {
        "effectiveMode": "Canary",
        "effectiveThresholdTokens": 4096,
        "observed": {
            "updatedAt": TIME,
            "hours": 10,
            "requests": 18_000,
            "remotePercent": 20,
            "measuredRequests": 0,
        },
    }
    return thing("PrefillRoute", "chat", spec, usual | status)


def live(**changes: Any) -> Live:
    usual: dict[str, Any] = {
        "prefill_pools": (pool("PrefillPool", "long", "h200", "us", 2),),
        "decode_pools": (pool("DecodePool", "chat", "h20", "eu", 3),),
        "routes": (route(),),
        "profiles": (thing("ModelKVProfile", "chat", PROFILE),),
        "links": (link(capacityBitsPerSecond=10_000_000_000),),
        "regions": (region("eu", own=True), region("us")),
    }
    return Live(NOW, **(usual | changes))


def said(found: LiveScenario) -> str:
    return "\n".join(found.assumed)


def decode(found: LiveScenario) -> dict[str, Any]:
    (only,) = found.document["decodePools"]
    return dict(only)


def test_all_that_is_known_becomes_a_scenario_that_can_be_planned() -> None:
    found = scenario_of(live())
    chat = decode(found)
    assert chat["arrivalsPerSecond"] == pytest.approx(0.5)
    assert chat["cluster"] == "eu"
    assert chat["prefillPools"] == [f"chat{OWN}", "long"]
    assert chat["instances"] == {
        "maximum": 3,
        "minimum": 3,
        "current": 3,
        "acceleratorsEach": 8,
        "pricePerHour": 0.0,
    }
    assert chat["batchMax"] == 32
    assert chat["stepSeconds"] == pytest.approx(32 / 1800, rel=1e-6)
    assert [each["gbitsPerSecond"] for each in found.document["links"]] == [10]
    assert found.document["goal"] == "MostServed"
    read = loaded(yaml.safe_dump(found.document))
    own, long = read.problem.prefill_pools[1], read.problem.prefill_pools[0]
    assert (own.instances_of, long.instances_of) == ("chat", None)
    assert own.prefill.at(1024) == pytest.approx(4 * long.prefill.at(1024))


def test_lengths_go_through_the_share_that_the_route_tells() -> None:
    found = scenario_of(live())
    form = decode(found)["lengths"]["logNormal"]
    lengths = TruncatedLogNormal(form["mu"], form["sigma"], form["minTokens"], form["maxTokens"])
    assert share_above(lengths, 4096) == pytest.approx(0.2, rel=1e-3)
    assert "such that 20 % are longer than 4,096 tokens" in said(found)
    planned = {
        "thresholdTokens": 9000,
        "remotePercent": 5.0,
        "binds": "x",
        "madeAt": TIME,
        "validUntil": TIME,
    }
    by_plan = decode(scenario_of(live(routes=(route(plan=planned),))))["lengths"]["logNormal"]
    lengths = TruncatedLogNormal(by_plan["mu"], by_plan["sigma"], 16, 32_768)
    assert share_above(lengths, 9000) == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"routes": (route(observed=None),)}, "nobody has measured its demand: 1 request/s is assumed"),
        (
            {"routes": (route(observed=None),)},
            "nobody has measured lengths of prompts: log-normal around 2,048",
        ),
        ({"links": ()}, "there is no KVLink us-eu; --set link.us-eu=5Gbit asks what if"),
        ({"links": (link(),)}, "link us-eu was never measured: left out"),
        ({"links": (link(status={"goodputBitsPerSecond": 7}),)}, "its measured goodput counts as all"),
        ({"unread": ("KVLink",)}, "KVLink objects cannot be read here"),
        ({"profiles": ()}, "there is no ModelKVProfile chat"),
        ({"regions": (region("eu"), region("us"))}, "no Region says that it is this cluster's own"),
        ({"regions": (region("eu", own=True),)}, "long: no Region has the cluster us"),
    ],
)
def test_what_is_assumed_is_said(changes: dict[str, Any], words: str) -> None:
    try:
        text = said(scenario_of(live(**changes)))
    except InvalidInputError as error:
        text = str(error)
    assert words in text


def test_a_link_that_is_down_is_left_out_unless_asked_what_if() -> None:
    condition = {
        "type": "Down",
        "status": "True",
        "reason": "NoTransfers",
        "message": "",
        "lastTransitionTime": TIME,
    }
    down = link(capacityBitsPerSecond=10**10, status={"conditions": [condition]})
    found = scenario_of(live(links=(down,)))
    assert found.document["links"] == []
    assert found.links[0].is_down
    asked = scenario_of(live(links=(down,)), ["link.us-eu=500Mbit"])
    assert [each["gbitsPerSecond"] for each in asked.document["links"]] == [0.5]


def test_a_managed_pool_may_be_sized_between_its_bounds_by_cost() -> None:
    managed = pool(
        "PrefillPool",
        "long",
        "h200",
        "us",
        2,
        mode="Managed",
        minReplicas=0,
        maxReplicas=8,
        instance={"hardware": "h200", "pricePerHour": 20.0},
    )
    managed["status"]["capacity"] = {"pendingReplicas": 1, "medianPendingToReadySeconds": 240}
    found = scenario_of(live(prefill_pools=(managed,)))
    instances = found.document["prefillPools"][0]["instances"]
    assert instances["minimum"] == 0
    assert instances["maximum"] == 8
    assert instances["available"] == 1
    assert instances["startSeconds"] == 240
    assert found.document["goal"] == "LeastCost"
    held = copy.deepcopy(managed)
    held["status"]["hold"] = {"replicas": 2, "until": TIME}
    bound = scenario_of(live(prefill_pools=(held,))).document["prefillPools"][0]["instances"]
    assert (bound["minimum"], bound["maximum"]) == (2, 2)


def test_fresh_arrivals_of_the_autoscaler_count_more_than_the_days_mean() -> None:
    chat = pool("DecodePool", "chat", "h20", "eu", 3)
    told = {
        "time": TIME,
        "desired": 3,
        "needed": 3,
        "reason": "Steady",
        "inputs": [{"name": "arrivals", "value": 4.5}],
    }
    chat["status"]["scaling"] = {"explanation": told}
    assert decode(scenario_of(live(decode_pools=(chat,))))["arrivalsPerSecond"] == 4.5
    told["time"] = "2026-03-01T11:00:00Z"
    assert decode(scenario_of(live(decode_pools=(chat,))))["arrivalsPerSecond"] == pytest.approx(0.5)


def test_a_pool_in_two_clusters_is_two_and_pools_of_equal_names_are_told_apart() -> None:
    both = pool("PrefillPool", "chat", "h200", "us", 2)
    both["spec"]["placement"]["clusters"].append({"name": "eu", "replicas": 5})
    found = scenario_of(live(prefill_pools=(both,)))
    names = [each["name"] for each in found.document["prefillPools"]]
    assert names[:2] == ["ppool/chat@us", "ppool/chat@eu"]
    assert decode(found)["name"] == "dpool/chat"
    assert "us tells nothing of it here" in said(found)
    assert [each["name"] for each in found.document["links"]] == ["us-eu", "within eu"]


def test_lengths_and_demand_as_gateways_have_counted_them() -> None:
    one, other = Tally(seconds=100.0), Tally(seconds=90.0)
    for number in range(300):
        (one if number % 3 else other).count(Outcome(100 + 20 * number, worth_it=False, remote=False))
    answers = [
        tallies_of(
            json.dumps({"version": 1, "routes": {"serving/chat": {"tally": each.to_document()}}}), "gateway"
        )
        for each in (one, other)
    ]
    found = scenario_of(live(), (), added(answers))
    assert decode(found)["arrivalsPerSecond"] == pytest.approx(3.0)
    (pool,) = loaded(yaml.safe_dump(found.document)).problem.decode_pools
    # 300 lengths from 100 to 6080, evenly.
    assert pool.lengths.quantile(0.5) == pytest.approx(3100, rel=0.05)
    assert "lengths" not in said(found)
    for bad in ("[]", "{", '{"version": 9, "routes": {}}', '{"version": 1, "routes": {"a/b": {"tally": 1}}}'):
        with pytest.raises(InvalidInputError, match="gateway: is"):
            tallies_of(bad, "gateway")


def test_what_cannot_be_planned_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInputError, match="there is no decode pool to plan for"):
        scenario_of(Live(NOW))
    broken = pool("DecodePool", "chat", "h20", "eu", 3)
    broken["spec"]["replicas"] = "many"
    with pytest.raises(InvalidInputError, match=r"DecodePool/serving/chat: spec\.replicas"):
        scenario_of(live(decode_pools=(broken,)))


async def put(
    client: KubeClient, namespace: str, own: str, other: str, lasting: list[tuple[Any, str]]
) -> None:
    """The fleet above, with regions that no other test has; `lasting` is what outlives the namespace."""
    made = [
        (REGIONS, region(own, own=True)),
        (REGIONS, region(other)),
        (KV_LINKS, link(f"{other}-{own}", capacityBitsPerSecond=10_000_000_000)),
        (MODEL_KV_PROFILES, thing("ModelKVProfile", "chat", PROFILE)),
        (PREFILL_POOLS, pool("PrefillPool", "long", "h200", other, 2)),
        (DECODE_POOLS, pool("DecodePool", "chat", "h20", own, 3)),
        (PREFILL_ROUTES, route()),
    ]
    made[2][1]["spec"] |= {"source": {"region": other}, "destination": {"region": own}}
    for resource, body in made:
        about = body["metadata"]
        about.pop("generation")
        if resource.namespaced:
            about["namespace"] = namespace
        else:
            about.pop("namespace")
        status = body.pop("status", None)
        await client.create(resource, body)
        if not resource.namespaced:
            lasting.append((resource, about["name"]))
        if status is not None:
            shown = {key: body[key] for key in ("apiVersion", "kind")} | {
                "metadata": dict(about),
                "status": status,
            }
            await client.apply_status(resource, shown, field_manager="test")


async def test_the_command_reads_a_cluster_and_says_what_binds(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    own, other = f"aa{namespace[-20:]}e", f"aa{namespace[-20:]}u"
    where = ["--kubeconfig", str(kubeconfig), "-n", namespace]

    async def call(*arguments: str) -> Any:
        return await asyncio.to_thread(
            CliRunner().invoke, main, ["plan", "--from-cluster", *where, *arguments]
        )

    async with client_of(kubeconfig) as client:
        lasting: list[tuple[Any, str]] = []
        try:
            await put(client, namespace, own, other, lasting)
            picture = tmp_path / "t.svg"
            # What `prfaas profile` has written is what the API server takes.
            example = yaml.safe_load((ROOT / "examples/planner/smollm2-cpu-profile.yaml").read_text())
            example["metadata"]["namespace"] = namespace
            await client.create(MODEL_KV_PROFILES, example)
            text = await call("--picture", str(picture))
            assert text.exit_code == 0, text.output
            assert f"Now in namespace {namespace}, and by the plan:" in text.output
            assert "chat   Canary  4,096" in text.output
            assert "what binds:" in text.output
            assert "assumed:" in text.output
            assert "<- most" in text.output
            assert picture.read_text().startswith("<svg xmlns=")

            narrow = await call("--set", f"link.{other}-{own}=100Mbit", "-o", "json")
            assert narrow.exit_code == 0, narrow.output
            told = json.loads(narrow.output)
            wide = json.loads((await call("--set", "pool.long.replicas=3", "-o", "json")).output)
            assert told["factor"] < wide["factor"]
            assert {each["name"]: each["instances"] for each in wide["pools"]}["long"] == 3
            assert told["now"]["routes"][0]["threshold_tokens"] == 4096

            scenario = tmp_path / "scenario.yaml"
            written = await call("-o", "yaml", "--set", "demand.chat=2")
            scenario.write_text(written.output)
            assert written.output.startswith("# From namespace")
            again = await asyncio.to_thread(CliRunner().invoke, main, ["plan", str(scenario), "-o", "json"])
            assert again.exit_code == 0, again.output
            assert json.loads(again.output)["decode_pools"][0]["name"] == "chat"
        finally:
            for resource, name in lasting:
                await client.delete(resource, None, name)
