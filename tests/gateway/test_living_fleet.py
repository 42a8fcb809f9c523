"""The fleet that serves requests follows what is desired, and disturbs nothing that runs."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.routing import Reason, Route
from prfaas.scheduling import SloClass
from prfaas_gateway.cluster.living import apply
from prfaas_gateway.cluster.membership import desired_fleet
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.cluster.policy import pools_of
from prfaas_gateway.cluster.store import StateError, Store
from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.fleet import Decoder, Pick, compatible_prefillers, healthy_prefillers, pick_decoder
from prfaas_gateway.intake import Intake
from prfaas_gateway.placement import place
from prfaas_gateway.prefix_index import Matches, PromptBlocks
from prfaas_gateway.prompt import ShortPrompt
from prfaas_gateway.services import ModelRuntime, Services
from prfaas_gateway.standing import observe
from tests.gateway.cluster_values import (
    FINGERPRINT,
    OTHER_FINGERPRINT,
    decode_target,
    pod,
    prefill_target,
    report,
    route,
    snapshot,
)

POOLS = pools_of(snapshot(decode_target("chat"), decode_target("more", route=None)))


def bare_services(folder: Path) -> Services:
    """Services with an empty fleet."""
    config = Config.model_validate(
        {
            "region": "here",
            "models": [
                {"name": "m", "tokenizer": folder / "m", "max_model_tokens": 1, "threshold_tokens": 1}
            ],
            "decode_engines": [{"name": "d", "url": "http://192.0.2.1:1"}],
        }
    )
    services = build_services(config, {}, None)
    services.fleet.decoders = ()
    return services


@pytest.fixture
async def services(tmp_path: Path) -> Any:
    made = bare_services(tmp_path)
    yield made
    await close_services(made)


PODS = st.lists(
    st.builds(
        pod,
        st.sampled_from(["a", "b", "c", "d"]),
        pool=st.sampled_from(["chat", "more", "long", "unknown"]),
        kind=st.sampled_from(["DecodePool", "PrefillPool"]),
        ip=st.sampled_from(["", "192.0.2.1", "192.0.2.2"]),
        ready=st.booleans(),
        deleting=st.booleans(),
        draining=st.booleans(),
        restarts=st.integers(0, 2),
    ),
    unique_by=lambda made: made.uid,
    max_size=4,
)


@given(st.lists(PODS, max_size=6))
async def test_after_any_history_the_fleet_is_what_is_desired(history: list[list[Pod]]) -> None:
    services = bare_services(Path("/nowhere"))
    try:
        for pods in history:
            before = {member.uid: member for member in (*services.fleet.decoders,)}
            desired = desired_fleet(POOLS, pods, {"uid-a": report()})
            applied = apply(services, desired)
            fleet = services.fleet
            assert {d.uid: (d.open, d.config.url, d.fingerprint) for d in fleet.decoders} == {
                uid: (d.open, d.url, d.fingerprint) for uid, d in desired.decoders.items()
            }
            assert {p.uid: (p.open, p.config.kv_address, p.pool) for p in fleet.prefillers} == {
                uid: (p.open, p.kv_address, p.pool) for uid, p in desired.prefillers.items()
            }
            for decoder in fleet.decoders:
                assert before.get(decoder.uid, decoder) is decoder
            gone = {uid: member for uid, member in before.items() if uid not in desired.decoders}
            assert {member.name for member in gone.values()} <= set(applied.removed)
            assert not any(member.open for member in gone.values())
            assert not apply(services, desired).added
            assert not apply(services, desired).removed
    finally:
        await close_services(services)


def only_decoder(services: Services) -> Decoder:
    (decoder,) = services.fleet.decoders
    return decoder


@pytest.mark.parametrize("model", ["/models/chat", "a chat", "m" * 256, "模型", "-", "a\nb"])
async def test_whatever_name_the_api_takes_for_a_model_is_served(services: Services, model: str) -> None:
    pools = pools_of(snapshot(model=model))
    pods = [pod("a"), pod("b", "long", "PrefillPool", ip="2001:db8::1")]
    apply(services, desired_fleet(pools, pods, {"uid-a": report(), "uid-b": report()}))
    assert pick_decoder(services.fleet.decoders, model, Matches(), now=0) is not None
    assert healthy_prefillers(services.fleet.prefillers, model, 0)
    assert services.fleet.prefillers[0].target.url.host == "2001:db8::1"


async def test_a_member_that_stays_keeps_its_counters_index_and_requests(services: Services) -> None:
    apply(services, desired_fleet(POOLS, [pod("a")], {}))
    decoder = only_decoder(services)
    decoder.index.add(PromptBlocks((1, 2, 3)))
    with decoder.request():
        apply(services, desired_fleet(POOLS, [pod("a", ready=False)], {}))
        assert only_decoder(services) is decoder
        assert pick_decoder(services.fleet.decoders, "chat", Matches(), now=0) is None
        apply(services, desired_fleet(POOLS, [pod("a")], {}))
        assert only_decoder(services).in_flight == 1
        assert len(decoder.index) == 3


@pytest.mark.parametrize(
    "change", [{"restarts": 1}, {"ip": "192.0.2.9"}], ids=["engine-restarted", "other-address"]
)
async def test_an_engine_that_lost_its_cache_is_not_believed_to_have_one(
    services: Services, change: dict[str, Any]
) -> None:
    apply(services, desired_fleet(POOLS, [pod("a")], {}))
    decoder = only_decoder(services)
    decoder.index.add(PromptBlocks((1,)))
    decoder.tokenizer_agrees["chat"] = False
    apply(services, desired_fleet(POOLS, [pod("a", **change)], {}))
    assert only_decoder(services) is decoder
    assert len(decoder.index) == 0
    assert decoder.tokenizer_agrees == {}


async def test_a_pod_of_the_same_name_is_another_member(services: Services) -> None:
    apply(services, desired_fleet(POOLS, [pod("a")], {}))
    first = only_decoder(services)
    apply(services, desired_fleet(POOLS, [pod("a", uid="uid-later")], {}))
    assert only_decoder(services) is not first
    assert not first.open


def series_of_engines(services: Services) -> set[str]:
    """Names of engines that have any series."""
    return {
        sample.labels["engine"]
        for metric in services.metrics.registry.collect()
        for sample in metric.samples
        if "engine" in sample.labels
    }


async def test_series_of_a_removed_pod_go_with_it(services: Services) -> None:
    apply(services, desired_fleet(POOLS, [pod("a"), pod("b", "long", "PrefillPool")], {}))
    services.metrics.of_engine(services.metrics.transfers, "llm/b", "complete").inc()
    observe(services)
    assert series_of_engines(services) == {"llm/a", "llm/b"}
    apply(services, desired_fleet(POOLS, [pod("a")], {}))
    assert series_of_engines(services) == {"llm/a"}


async def test_what_is_counted_for_a_removed_pod_later_goes_with_the_next_look(services: Services) -> None:
    apply(services, desired_fleet(POOLS, [pod("b", "long", "PrefillPool")], {}))
    apply(services, desired_fleet(POOLS, [], {}))
    observe(services)
    # An answer may stream for an hour before its transfer is counted, and a busy gateway always has some.
    other = asyncio.Event()
    services.supervisor.start(other.wait(), "a job of another request")
    services.metrics.of_engine(services.metrics.transfers, "llm/b", "complete").inc()
    observe(services)
    services.metrics.of_engine(services.metrics.transfers, "llm/b", "complete").inc()
    observe(services)
    assert series_of_engines(services) == set()
    other.set()


async def test_pods_that_come_and_go_leave_nothing_in_memory(services: Services) -> None:
    def known() -> int:
        gc.collect()
        return sum(isinstance(each, Decoder) for each in gc.get_objects())

    before = known()
    for number in range(20):
        apply(services, desired_fleet(POOLS, [pod(f"a-{number}")], {}))
    assert known() == before + 1


def partners(services: Services) -> tuple[list[str], list[str]]:
    """Names of healthy and of compatible prefill engines for the one decode engine."""
    decoder = only_decoder(services)
    policy = decoder.route("chat")
    healthy = healthy_prefillers(services.fleet.prefillers, "chat", 0, frozenset(), policy.prefill_pools)
    compatible = compatible_prefillers(healthy, decoder, policy)
    return [engine.name for engine in healthy], [engine.name for engine in compatible]


@pytest.mark.parametrize(
    ("decode", "prefill", "compatible"),
    [
        (FINGERPRINT, FINGERPRINT, True),
        (FINGERPRINT, OTHER_FINGERPRINT, False),
        (FINGERPRINT, None, False),
        (None, FINGERPRINT, False),
        (None, None, False),
    ],
    ids=["equal", "different", "prefill-unknown", "decode-unknown", "both-unknown"],
)
async def test_only_equal_and_known_fingerprints_pair(
    services: Services, decode: str | None, prefill: str | None, compatible: bool
) -> None:
    pods = [pod("a"), pod("b", "long", "PrefillPool")]
    reports = {"uid-a": report(fingerprint=decode), "uid-b": report(fingerprint=prefill)}
    apply(services, desired_fleet(POOLS, pods, reports))
    assert partners(services) == (["llm/b"], ["llm/b"] if compatible else [])


async def test_a_decode_pool_is_fed_by_the_pools_of_its_own_route_only(services: Services) -> None:
    far = decode_target("more", route=route(prefill_pools=(prefill_target("far"),)))
    pools = pools_of(snapshot(decode_target("chat"), far))
    pods = [pod("a"), pod("b", "long", "PrefillPool"), pod("c", "far", "PrefillPool")]
    apply(services, desired_fleet(pools, pods, dict.fromkeys(("uid-a", "uid-b", "uid-c"), report())))
    assert partners(services) == (["llm/b"], ["llm/b"])


def test_state_survives_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.prepare()
    assert store.load_snapshot() is None
    assert store.load_pods() is None
    pods = [pod("a"), pod("b", ready=False, restarts=3)]
    store.save_snapshot("first", 1.0)
    store.save_snapshot("second", 2.0)
    store.save_pods(pods, 3.0)
    again = Store(tmp_path / "state")
    assert again.load_snapshot() == ("second", 2.0)
    assert again.load_pods() == (pods, 3.0)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["pods.json", "snapshot.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 1}', '{"format": 1, "saved_at": 1, "content": [{"uid": 1}]}', "[" * 100_000],
    ids=["empty", "cut", "list", "no-content", "not-a-pod", "deep"],
)
def test_state_that_is_broken_is_refused_and_not_believed(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    (tmp_path / "pods.json").write_text(content)
    with pytest.raises(StateError):
        store.load_pods()


def test_state_of_another_format_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "pods.json").write_text('{"format": 2, "saved_at": 1, "content": []}')
    assert Store(tmp_path).load_pods() is None


def test_what_a_process_that_died_left_half_written_goes_and_what_another_writes_stays(
    tmp_path: Path,
) -> None:
    left, being_written, foreign = (
        tmp_path / name for name in (".pods.json.a", ".snapshot.json.b", ".other")
    )
    for path in (left, being_written, foreign):
        path.write_text("{")
    for path in (left, foreign):
        os.utime(path, (1.0, 1.0))
    Store(tmp_path).prepare()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", ".snapshot.json.b"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        Store(tmp_path / "file" / "state").prepare()


@pytest.mark.parametrize("mode", ["Enforce", "Observe"])
async def test_a_prompt_that_was_short_when_it_came_is_short_under_a_new_route_too(
    services: Services, mode: str
) -> None:
    pools = pools_of(snapshot(decode_target("chat", route=route(threshold_tokens=100, mode=mode))))
    pods = [pod("a"), pod("b", "long", "PrefillPool")]
    apply(services, desired_fleet(pools, pods, {"uid-a": report(), "uid-b": report()}))
    services.control = object()  # type: ignore[assignment]
    model = ModelRuntime("chat", (), 16, 4096, None, threshold_tokens=4000)
    nothing: Any = None
    # Not tokenised, since it could not be longer than the threshold that held then.
    intake = Intake(nothing, nothing, model, ShortPrompt(3000), None, Matches(), "", SloClass("standard"))
    placement = place(services, intake, Pick(only_decoder(services), 0), frozenset(), "id")
    services.control = None
    assert (placement.decision.route, placement.prefiller) == (Route.LOCAL, None)
    assert placement.decision.reason is Reason.UNDER_THRESHOLD
