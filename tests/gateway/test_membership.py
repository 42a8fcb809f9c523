"""Who belongs to the fleet, as tables: snapshot, pods and reports in, members and models out."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.api.snapshot import ModelTarget
from prfaas.routing import Mode
from prfaas_gateway.cluster.membership import Desired, desired_fleet, difference, most_used
from prfaas_gateway.cluster.picture import fingerprints
from prfaas_gateway.cluster.pods import Pod, slim_pod
from prfaas_gateway.cluster.policy import BadSnapshotError, pools_of, read_snapshot
from prfaas_gateway.engine_report import EngineReport, read_report
from prfaas_gateway.fleet import NO_ROUTE
from tests.gateway.cluster_values import (
    FINGERPRINT,
    decode_target,
    identity,
    pod,
    prefill_target,
    report,
    route,
    snapshot,
)


def fleet_of(pods: list[Pod], reports: dict[str, EngineReport] | None = None, **more: Any) -> Desired:
    """The fleet of one snapshot with a model, a decode pool and a prefill pool."""
    return desired_fleet(pools_of(more.pop("snapshot", snapshot())), pods, reports or {}, **more)


@pytest.mark.parametrize(
    ("change", "is_open"),
    [
        ({}, True),
        ({"ready": False}, False),
        ({"deleting": True}, False),
        ({"draining": True}, False),
    ],
    ids=["ready", "not-ready", "deleted", "drain-mark"],
)
@pytest.mark.parametrize("kind", ["DecodePool", "PrefillPool"])
def test_who_gets_new_requests(kind: str, change: dict[str, Any], is_open: bool) -> None:
    pool = "chat" if kind == "DecodePool" else "long"
    desired = fleet_of([pod("a", pool, kind, **change)])
    (member,) = [*desired.decoders.values(), *desired.prefillers.values()]
    assert member.open is is_open


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (pod("a", ip=""), "no address"),
        (pod("a", pool="other"), "a pool that no route and model names"),
        (pod("a", pool="long"), "the name of a prefill pool on a decode pod"),
        (pod("a", namespace="elsewhere"), "a pool of the same name in another namespace"),
        (pod("a", kind=""), "no kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_is_no_member(member: Pod, why: str) -> None:
    desired = fleet_of([member])
    assert not desired.decoders, why
    assert not desired.prefillers, why


def test_addresses_and_identities_follow_from_pod_and_pool() -> None:
    pods = [pod("d", ip="2001:db8::1"), pod("p", "long", "PrefillPool", ip="192.0.2.7")]
    desired = fleet_of(pods, {"uid-d": report("x"), "uid-p": report()})
    decoder, prefiller = desired.decoders["uid-d"], desired.prefillers["uid-p"]
    assert (decoder.name, decoder.url, decoder.control) == (
        "llm/d",
        "http://[2001:db8::1]:8000",
        "https://[2001:db8::1]:7401",
    )
    assert decoder.identity == identity("DecodePool", "chat")
    assert (prefiller.kv_address, prefiller.control) == ("192.0.2.7:7400", "https://192.0.2.7:7401")
    assert prefiller.identity == identity("PrefillPool", "long")
    assert (prefiller.pool, prefiller.models) == ("llm/long", ("chat",))
    assert decoder.fingerprint == prefiller.fingerprint == FINGERPRINT


def test_a_sidecar_that_drains_closes_its_pod() -> None:
    desired = fleet_of([pod("a")], {"uid-a": report(draining=True)})
    assert not desired.decoders["uid-a"].open


def test_a_pod_known_from_the_disk_gets_requests_once_its_sidecar_has_shown_itself() -> None:
    before = fleet_of([pod("a")], unconfirmed={"uid-a"})
    after = fleet_of([pod("a")], {"uid-a": report()}, unconfirmed={"uid-a"})
    assert (before.decoders["uid-a"].open, after.decoders["uid-a"].open) == (False, True)


def test_a_models_tokenizer_is_that_of_most_open_engines() -> None:
    pods = [pod("a"), pod("b"), pod("c"), pod("closed-1", ready=False), pod("closed-2", ready=False)]
    reports = {f"uid-{name}": report("new") for name in ("a", "closed-1", "closed-2")}
    reports |= {f"uid-{name}": report("old") for name in ("b", "c")}
    model = fleet_of(pods, reports).models["chat"]
    assert model.files_digest == report("old").files_digest
    assert model.sources == ("uid-b", "uid-c")
    assert (model.block_tokens, model.max_model_tokens, model.threshold_tokens) == (16, 4096, 100)


@pytest.mark.parametrize("in_use", ["old", "new"])
def test_a_tie_between_tokenizers_changes_nothing(in_use: str) -> None:
    digest = report(in_use).files_digest
    reports = {"uid-a": report("new"), "uid-b": report("old")}
    model = fleet_of([pod("a"), pod("b")], reports, files_in_use={"chat": digest}).models["chat"]
    assert model.files_digest == digest


@given(digests=st.lists(st.sampled_from(["", "a", "b", "c"])), in_use=st.sampled_from(["", "a", "b"]))
def test_the_chosen_tokenizer_is_one_that_no_other_outnumbers(digests: list[str], in_use: str) -> None:
    chosen = most_used(digests, in_use)
    told = [digest for digest in digests if digest]
    assert (chosen == "") == (not told)
    assert all(told.count(chosen) >= told.count(digest) for digest in told)
    assert most_used(reversed(digests), in_use) == chosen


def test_further_names_of_an_engine_are_adapters_unless_they_are_models() -> None:
    told = report("x", served_models=("chat", "chat-lora", "other"))
    other = ModelTarget(name="other", decode_pools=(decode_target("other"),))
    desired = fleet_of([pod("a")], {"uid-a": told}, snapshot=snapshot(more=(other,)))
    assert desired.models["chat"].adapters == ("chat-lora",)


def test_each_decode_pool_has_the_policy_of_its_own_route() -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    pools = (
        decode_target("a", route=route(threshold_tokens=500, mode="Canary", canary_percent=7)),
        decode_target("b", route=route(local_only_until=until, prefill_pools=(prefill_target("far"),))),
        decode_target("c", route=None),
    )
    desired = fleet_of([pod(name, name) for name in "abc"], snapshot=snapshot(*pools))
    policies = {name: desired.decoders[f"uid-{name}"].routes["chat"] for name in "abc"}
    assert (policies["a"].threshold_tokens, policies["a"].mode, policies["a"].canary_percent) == (
        500,
        Mode.CANARY,
        7,
    )
    assert policies["a"].prefill_pools == {"llm/long"}
    assert policies["b"].prefill_pools == {"llm/far"}
    assert not policies["b"].remote_enabled(until.timestamp() - 1)
    assert policies["b"].remote_enabled(until.timestamp())
    assert policies["c"] == NO_ROUTE
    assert desired.models["chat"].threshold_tokens == 100


@given(st.sets(st.text("abcdef", max_size=2)), st.sets(st.text("abcdef", max_size=2)))
def test_a_difference_leads_from_one_side_to_the_other(have: set[str], want: set[str]) -> None:
    change = difference(dict.fromkeys(have), dict.fromkeys(want))
    assert (have - set(change.removed)) | set(change.added) == want
    assert set(change.kept) == have & want
    assert not set(change.added) & have


POD: dict[str, Any] = {
    "metadata": {
        "uid": "u",
        "namespace": "llm",
        "name": "chat-abc-1",
        "labels": {"prfaas.io/pool": "chat", "prfaas.io/pool-kind": "DecodePool"},
    },
    "status": {
        "phase": "Running",
        "podIP": "192.0.2.1",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        "containerStatuses": [{"name": "engine", "restartCount": 2}],
        "initContainerStatuses": [{"name": "prfaas-sidecar", "restartCount": 5}],
    },
}


def test_the_facts_of_a_pod() -> None:
    assert slim_pod(POD) == pod("chat-abc-1", uid="u", restarts=2)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda p: p["status"].pop("conditions"), {"ready": False}),
        (lambda p: p["status"]["conditions"].pop(0), {"ready": False}),
        (lambda p: p["status"]["conditions"][0].update(status="Unknown"), {"ready": False}),
        (lambda p: p["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"), {"deleting": True}),
        (lambda p: p["metadata"].update(annotations={"prfaas.io/drain-since": "x"}), {"draining": True}),
        (lambda p: p["status"].pop("podIP"), {"ip": ""}),
        (lambda p: p["status"].update(phase="Failed"), {"ip": "", "ready": False}),
        (lambda p: p.update(status={}), {"ip": "", "ready": False, "restarts": 0}),
    ],
    ids=["no-conditions", "not-yet-ready", "unknown", "deleted", "drained", "no-ip", "failed", "no-status"],
)
def test_a_pod_in_another_state(
    break_it: Callable[[dict[str, Any]], object], expected: dict[str, Any]
) -> None:
    found = json.loads(json.dumps(POD))
    break_it(found)
    assert slim_pod(found) == replace(slim_pod(POD), **expected)


def test_a_snapshot_is_read_as_it_was_written_even_with_more_in_it() -> None:
    ours = snapshot()
    assert read_snapshot(ours.to_json()) == ours
    newer = json.loads(ours.to_json()) | {"weather": "fine"}
    newer.pop("revision")
    # As a newer operator would seal it.
    body = json.dumps(newer, sort_keys=True, separators=(",", ":"))

    newer["revision"] = hashlib.sha256(body.encode()).hexdigest()
    assert read_snapshot(json.dumps(newer)).models == ours.models


def _changed(**fields: object) -> str:
    return json.dumps(json.loads(snapshot().to_json()) | fields)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "Malformed"),
        ("[]", "Malformed"),
        ("{}", "Malformed"),
        ('{"version": 1}', "Malformed"),
        ('{"version": [1]}', "UnknownVersion"),
        ("[" * 100_000, "Malformed"),
        (_changed(version=0), "UnknownVersion"),
        (_changed(version=2), "UnknownVersion"),
        (_changed(region="mars"), "RevisionMismatch"),
        (_changed(models="none"), "Malformed"),
        (snapshot().to_json()[:-20], "Malformed"),
    ],
    ids=range(11),
)
def test_a_snapshot_that_cannot_be_used_says_why(text: str, code: str) -> None:
    with pytest.raises(BadSnapshotError) as caught:
        read_snapshot(text)
    assert caught.value.code == code


REPORT: dict[str, Any] = {
    "version": 1,
    "incarnation": "i",
    "engine_connected": True,
    "draining": False,
    "fingerprint": FINGERPRINT,
    "fingerprint_fields": {"model": "m@1", "dtype": "bfloat16", "odd": 1, "long": "x" * 4096},
    "role": "consumer",
    "block_tokens": 32,
    "max_model_tokens": 8192,
    "served_models": ["chat"],
    "active_transfers": 0,
    "arena_bytes": 1,
    "model_files": [
        {"name": "tokenizer.json", "bytes": 3, "sha256": "0" * 64},
        {"name": "../../etc/passwd", "bytes": 3, "sha256": "0" * 64},
    ],
    "model_files_error": None,
    "something_new": {},
}


def test_a_report_is_read_as_far_as_it_is_understood() -> None:
    told = read_report(json.dumps(REPORT).encode())
    assert (told.fingerprint, told.block_tokens, told.max_model_tokens) == (FINGERPRINT, 32, 8192)
    assert [file.name for file in told.model_files] == ["tokenizer.json"]
    fields = {"dtype": "bfloat16", "long": "x" * 128, "model": "m@1"}
    assert fingerprints([told, EngineReport()]) == {FINGERPRINT: fields}
    bare = {"version": 1, "engine_connected": False, "fingerprint": FINGERPRINT, "model_files": []}
    assert read_report(json.dumps(bare).encode()) == EngineReport()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"fingerprint": "short"},
        {"fingerprint": 7},
        {"block_tokens": "32"},
        {"block_tokens": 0},
        {"max_model_tokens": True},
        {"served_models": "chat"},
        {"served_models": [1]},
        {"model_files": [1]},
        {"model_files": [{"name": "tokenizer.json", "bytes": -1, "sha256": "0" * 64}]},
        {"model_files": [{"name": "tokenizer.json", "bytes": 1 << 40, "sha256": "0" * 64}]},
        {"model_files": [{"name": "tokenizer.json", "bytes": 1, "sha256": "../x"}]},
    ],
    ids=str,
)
def test_a_report_that_breaks_the_contract_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_report(json.dumps(REPORT | change).encode())


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_no_bytes_make_readers_fail_in_another_way(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_report(data)
    with contextlib.suppress(BadSnapshotError):
        read_snapshot(data.decode("latin-1"))


def test_no_snapshot_means_no_fleet() -> None:
    assert desired_fleet(pools_of(None), [pod("a")], {}) == Desired()


def test_identities_are_those_of_the_snapshots_pools() -> None:
    found = pools_of(snapshot(decode_target("a"), decode_target("b", route=None)))
    assert found.identities == {
        identity("DecodePool", "a"),
        identity("DecodePool", "b"),
        identity("PrefillPool", "long"),
    }
