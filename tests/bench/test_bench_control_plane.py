"""The benchmark of the control plane: what it reads from logs and pages, and what it makes of figures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prfaas.api.v1alpha1 import PoolSpec, PrefillRouteSpec
from prfaas_bench.control_plane import bodies, delays, following, programs, usage
from prfaas_bench.control_plane.audit_log import AuditLog, created_at, parse, real_writes
from prfaas_bench.control_plane.cluster import OPERATOR, audit_policy
from prfaas_bench.control_plane.results import (
    Gateway,
    Operator,
    Result,
    Scale,
    Start,
    Steady,
    percentile,
    ratio,
    table,
    targets_missed,
)


def audit_line(resource: str, name: str, **changes: Any) -> str:
    event: dict[str, Any] = {
        "stage": "ResponseComplete",
        "verb": "patch",
        "user": {"username": OPERATOR},
        "objectRef": {"resource": resource, "namespace": "serving", "name": name},
        "responseStatus": {"code": 201},
        "requestURI": "/apis/x",
        "stageTimestamp": "2026-01-01T00:00:00.250000Z",
    }
    return json.dumps({**event, **changes})


def test_a_write_is_read_with_its_moment() -> None:
    about = {"resource": "prefillpools", "apiGroup": "prfaas.io", "subresource": "status", "name": "long"}
    (write,) = parse([audit_line("", "", objectRef=about, responseStatus={"code": 200})])
    assert (write.resource, write.name, write.created) == ("prefillpools.prfaas.io/status", "long", False)
    assert write.at % 1 == 0.25


def test_other_stages_are_no_writes() -> None:
    assert parse([audit_line("secrets", "a", stage="Panic")]) == []


def test_leases_dry_runs_and_others_are_not_counted() -> None:
    lease = {"resource": "leases", "apiGroup": "coordination.k8s.io", "name": "prfaas-operator"}
    lines = [
        audit_line("secrets", "a"),
        audit_line("secrets", "a", requestURI="/api/v1/x?dryRun=All"),
        audit_line("", "", objectRef=lease),
        audit_line("secrets", "a", user={"username": "admin"}),
    ]
    assert [each.name for each in real_writes(parse(lines), OPERATOR)] == ["a"]


def test_children_are_there_once_the_last_of_them_is() -> None:
    early = audit_line("secrets", "long-prefill-tls")
    late = audit_line("configmaps", "long-prefill-peers", stageTimestamp="2026-01-01T00:00:02Z")
    other = audit_line("configmaps", "longer", stageTimestamp="2026-01-01T00:00:09Z")
    kinds = ("secrets", "configmaps")
    assert created_at(parse([early, other]), "serving", "long", kinds) is None
    done = created_at(parse([early, late, other]), "serving", "long", kinds)
    assert done is not None
    assert done - parse([early])[0].at == pytest.approx(1.75)


def test_a_dry_run_or_a_change_creates_no_child() -> None:
    dry = audit_line("secrets", "long-a", requestURI="/api/v1/x?dryRun=All")
    changed = audit_line("secrets", "long-a", responseStatus={"code": 200})
    assert created_at(parse([dry, changed]), "serving", "long", ("secrets",)) is None


def test_a_log_is_read_on_from_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    assert log.read() == []
    line = audit_line("secrets", "a")
    file.write_text(line + "\n" + line[:20])
    assert len(log.read()) == 1
    file.write_text(line + "\n" + line + "\n")
    assert len(log.read()) == 2
    log.skip()
    assert log.read() == []


def test_the_audit_policy_ends_with_nothing() -> None:
    rules = audit_policy()["rules"]
    assert rules[-1] == {"level": "None"}
    assert all(rule["level"] == "Metadata" for rule in rules[:-1])


def test_processor_time_of_a_program_with_a_strange_name() -> None:
    fields = " ".join(["S", *["0"] * 10, "250", "50", *["0"] * 10])
    assert usage.parse_cpu_seconds(f"7 (a) b) {fields}", 100) == 3.0
    assert usage.cpu_seconds(os.getpid()) > 0


def test_memory_is_read_in_kib() -> None:
    assert usage.parse_kib("Rss:  9 kB\nPss:  1024 kB\nPss_Dirty: 3 kB\n", "Pss") == 1024
    with pytest.raises(ValueError, match="VmHWM"):
        usage.parse_kib("Rss: 9 kB", "VmHWM")
    used = usage.memory(os.getpid())
    assert used.peak_rss_mib > 0
    assert used.pss_mib > 0


def test_passes_are_read_from_metrics() -> None:
    text = (
        "# TYPE prfaas_operator_reconciles_total counter\n"
        'prfaas_operator_reconciles_total{kind="PrefillPool",result="ok"} 12.0\n'
        'prfaas_operator_reconcile_seconds_count{kind="PrefillPool"} 99.0\n'
    )
    assert programs.parse_passes(text) == {"PrefillPool/ok": 12.0}


def test_the_fleet_is_valid_and_in_pairs() -> None:
    pools, routes = bodies.fleet(4)
    assert [each["kind"] for each in pools] == ["PrefillPool"] * 2 + ["DecodePool"] * 2
    names = {each["metadata"]["name"] for each in pools}
    for each in pools:
        PoolSpec.model_validate(each["spec"])
    for each in routes:
        spec = PrefillRouteSpec.model_validate(each["spec"])
        assert {spec.decode_pool_ref.name, *(ref.name for ref in spec.prefill_pool_refs)} <= names


def test_the_peer_gets_the_same_spec() -> None:
    assert bodies.peer_pool("a")["spec"] == bodies.pool("PrefillPool", "a", "a")["spec"]


def pool_with(generation: int = 1, observed: int = 1, **states: str) -> dict[str, Any]:
    states = {"Ready": "True", "Reconciling": "False", "KVCompatible": "True", **states}
    conditions = [{"type": type_, "status": state} for type_, state in states.items()]
    return {
        "metadata": {"generation": generation},
        "status": {"observedGeneration": observed, "conditions": conditions},
    }


def test_a_pool_has_converged_when_nothing_is_to_come() -> None:
    assert following.pool_has_converged(pool_with())
    assert not following.pool_has_converged(pool_with(generation=2))
    assert not following.pool_has_converged(pool_with(Reconciling="True"))
    assert not following.pool_has_converged(pool_with(KVCompatible="Unknown"))
    assert not following.pool_has_converged({"metadata": {"generation": 1}})
    assert following.route_has_converged(pool_with())
    assert not following.route_has_converged(pool_with(Ready="False"))


def test_a_deployment_is_ready_with_all_its_pods() -> None:
    assert following.deployment_is_ready({"spec": {"replicas": 1}, "status": {"readyReplicas": 1}})
    assert not following.deployment_is_ready({"spec": {"replicas": 1}, "status": {}})


def test_the_gateways_page_tells_who_gets_requests() -> None:
    page = {
        "decode": [
            {"name": "s/a", "open": True, "engine_healthy": True},
            {"name": "s/b", "open": True, "engine_healthy": False},
            {"name": "s/c", "open": False, "engine_healthy": True},
        ]
    }
    assert delays.parse_open(page) == {"s/a": True, "s/b": False, "s/c": False}


def test_an_acceptance_that_was_not_logged_is_an_error() -> None:
    (write,) = parse([audit_line("prefillpools", "long")])
    with pytest.raises(LookupError, match="no creation of prefillpools long"):
        delays.accepted_at([replace(write, created=False)], "long", "prefillpools")
    assert delays.accepted_at([write], "long", "prefillpools") == write.at


def test_percentiles_and_ratios() -> None:
    assert percentile([5.0], 0.95) == 5.0
    assert percentile([float(number) for number in range(101)], 0.95) == pytest.approx(95.0)
    assert ratio([[2.0, 4.0], [9.0]], [[1.0, 2.0], [3.0]]) == (2.5, 2.0, 3.0)


def result(**changes: Any) -> Result:
    start = Start(1.0, 2.0, 3.0, 0.5, 4.0, 80.0, 90.0, 0, {"PrefillPool/ok": 10.0})
    steady = Steady(60.0, 0.5, 80.0, 90.0, 0)
    one = Operator(start, start, 5.0, [start], steady, [[100.0]], [[50.0]], [[40.0]])
    one = replace(one, **changes)
    return Result(1, [Scale(10, one, 0.1, one, Gateway([30.0], 0.2, 60.0))])


def test_few_pools_have_neither_a_gateway_nor_silent_sidecars() -> None:
    [scale] = result().scales
    text = table(Result(1, [replace(scale, silent_cpu_percent=None, gateway=None)]))
    assert "at rest." in text
    assert "gateway at rest" not in text
    assert "pod's readiness" not in text


def test_the_peak_of_memory_is_that_of_any_start() -> None:
    [scale] = result().scales
    one = scale.prfaas
    hungry = replace(one.cold_start, peak_rss_mib=201.0)
    assert replace(one, cold_start=hungry).peak_rss_mib == 201.0
    assert replace(one, restarts=[hungry]).peak_rss_mib == 201.0
    missed = targets_missed(Result(1, [replace(scale, prfaas=replace(one, restarts=[hungry]))]))
    assert any("memory" in each for each in missed)


def test_targets_that_are_met_are_not_listed() -> None:
    assert targets_missed(result()) == []


def test_each_target_that_is_missed_is_named() -> None:
    late = Start(1.0, 61.0, 3.0, 0.5, 4.0, 80.0, 90.0, 4)
    missed = targets_missed(
        result(
            cold_start=late,
            restarts=[late],
            steady=Steady(60.0, 2.5, 80.0, 201.0, 0),
            apply_rounds_ms=[[1500.0]],
        )
    )
    assert [each.partition(":")[0] for each in missed] == [
        "converged from a cold start",
        "steady CPU",
        "memory at most",
        "writes of unchanged passes",
        "p95 from apply to children",
    ]
    never = replace(late, converged_seconds=None)
    assert "nothing" in targets_missed(result(cold_start=never))[0]


def test_the_tables_have_a_row_for_each_operator_and_delay() -> None:
    text = table(result())
    assert text.count("| kopf, usual style |") == 1
    assert "| 10 | prfaas | 1.0 | 2.0 |" in text
    assert "| `kubectl apply` to all children | 10 | 100 | 100 | 1000 | 1.00 (1.00 to 1.00) |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows if "restart" in line or "kopf, usual" in line}) == 1
