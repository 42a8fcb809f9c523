"""A newer release, a node's maintenance and a rolling update, while clients ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prfaas.api.crds.definitions import KINDS
from prfaas_cluster import engine_pods
from prfaas_cluster.errors import ClusterError
from tests.e2e.older_release import ADDED_COLUMN, columns, has_added_field
from tests.e2e.stage import DECODE, PREFILL, SERVING, SYSTEM, Stage, restarts, two_nodes, uids, until
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
DRAIN_SECONDS = 240.0
DEFINITIONS = [kind.crd_name for kind in KINDS if kind.name.endswith("Pool")]


def test_upgrading_the_release_brings_newer_definitions_and_restarts_only_who_asked_for_it(
    fleet: Stage, tmp_path: Path
) -> None:
    chat = restarts(fleet.pool_pods("DecodePool", DECODE))
    long = uids(fleet.pool_pods("PrefillPool", PREFILL))
    operators = uids(fleet.pods("app.kubernetes.io/component=operator", SYSTEM))
    gateways = uids(fleet.pods("app.kubernetes.io/component=gateway", SYSTEM))
    objects = _what_users_wrote(fleet)
    assert not any(_is_newer(each) for each in _definitions(fleet))
    with pytest.raises(ClusterError, match="unknown field"):
        _with_new_field(fleet)

    image = fleet.load_sidecar_as(tmp_path, "next")
    with Traffic(fleet.gateway_url) as traffic:
        until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
        fleet.install(**_upgraded(fleet, "next"))
        until(
            lambda: (
                operators.isdisjoint(uids(fleet.pods("app.kubernetes.io/component=operator", SYSTEM)))
                and gateways.isdisjoint(uids(fleet.pods("app.kubernetes.io/component=gateway", SYSTEM)))
            ),
            "operators and gateways are new ones",
        )
        until(
            lambda: long.isdisjoint(uids(fleet.pool_pods("PrefillPool", PREFILL))),
            "the pool with sidecar.upgrade: Rolling has begun",
        )
        fleet.until_ready("prefillpool", PREFILL, 1)
        remote = traffic.remote
        until(lambda: traffic.remote > remote, "the new prefill engine is used", within_seconds=120)
    assert traffic.failures == []
    assert [_sidecar(pod) for pod in fleet.pool_pods("PrefillPool", PREFILL)] == [image]
    assert restarts(fleet.pool_pods("DecodePool", DECODE)) == chat
    assert image not in {_sidecar(pod) for pod in fleet.pool_pods("DecodePool", DECODE)}

    assert all(_is_newer(each) for each in _definitions(fleet))
    assert _what_users_wrote(fleet) == objects
    assert "profileRef" in _with_new_field(fleet)


def test_draining_a_node_moves_its_engines_and_loses_no_request(fleet: Stage) -> None:
    first = two_nodes(fleet)[0]
    before = uids(fleet.pool_pods("DecodePool", DECODE))
    assert len(fleet.engines_on(first)) == 1, "one decode engine is on each node"
    try:
        with Traffic(fleet.gateway_url) as traffic:
            until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
            fleet.kubectl(
                "drain", first, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s",
                timeout_seconds=DRAIN_SECONDS,
            )  # fmt: skip
            until(
                lambda: len(uids(fleet.pool_pods("DecodePool", DECODE)) - before) == 1,
                "the moved engine has a successor",
            )
            fleet.until_ready("decodepool", DECODE, 2)
            answered = traffic.answered
            until(lambda: traffic.answered >= answered + 3, "clients are answered", within_seconds=120)
        assert traffic.failures == []
        assert fleet.engines_on(first) == set()
    finally:
        fleet.kubectl("uncordon", first)


def test_a_rolling_update_under_load_loses_no_request_and_brings_the_new_sidecar(fleet: Stage) -> None:
    before = uids(fleet.pool_pods("DecodePool", DECODE))
    sidecars = {_sidecar(pod) for pod in fleet.pool_pods("PrefillPool", PREFILL)}
    with Traffic(fleet.gateway_url) as traffic:
        until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
        fleet.apply_fleet(arguments=("--seed", "7"), sidecar_of_prefill="OnNextRollout")
        fleet.until_ready("decodepool", DECODE, 2)
        fleet.until_ready("prefillpool", PREFILL, 1)
        remote = traffic.remote
        until(lambda: traffic.remote > remote, "the new engines work together", within_seconds=120)
    assert traffic.failures == []
    after = fleet.pool_pods("DecodePool", DECODE)
    assert before.isdisjoint(uids(after))
    assert all("--seed" in pod["spec"]["containers"][0]["args"] for pod in after)
    assert {_sidecar(pod) for pod in after} == sidecars


def test_rolling_the_release_back_restarts_no_engine(fleet: Stage) -> None:
    pools = (("PrefillPool", PREFILL), ("DecodePool", DECODE))
    before = restarts([pod for pool in pools for pod in fleet.pool_pods(*pool)])
    objects = _what_users_wrote(fleet)
    fleet.helm("rollback", "prfaas", "--wait", "--timeout=180s")
    for kind, name in pools:
        fleet.until_ready(kind.lower(), name)
    assert restarts([pod for pool in pools for pod in fleet.pool_pods(*pool)]) == before
    assert _what_users_wrote(fleet) == objects


def _upgraded(fleet: Stage, sidecar_tag: str) -> dict[str, Any]:
    values = fleet.values
    marked = {"podAnnotations": {"example.org/upgrade": "2"}}
    return {
        "operator": {**values["operator"], **marked},
        "gateway": {**values["gateway"], **marked},
        "pools": {**values["pools"], "sidecar": {**values["pools"]["sidecar"], "tag": sidecar_tag}},
    }


def _sidecar(pod: dict[str, Any]) -> str:
    containers = pod["spec"]["initContainers"]
    image: str = next(each["image"] for each in containers if each["name"] == "prfaas-sidecar")
    return image


def _definitions(fleet: Stage) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet.kubectl.get("crds", *DEFINITIONS)["items"]
    return found


def _is_newer(definition: dict[str, Any]) -> bool:
    return has_added_field(definition) and ADDED_COLUMN in columns(definition)


def _what_users_wrote(fleet: Stage) -> list[Any]:
    """The custom resources without what the operator writes."""
    kinds = "prefillpools,decodepools,prefillroutes"
    found = fleet.kubectl.get(kinds, f"--namespace={SERVING}", "--show-managed-fields")["items"]
    for each in found:
        about = each["metadata"]
        del each["status"], about["resourceVersion"]
        about["managedFields"] = [e for e in about["managedFields"] if e.get("subresource") != "status"]
    return sorted(found, key=lambda each: str(each["metadata"]["uid"]))


def _with_new_field(fleet: Stage) -> str:
    """What the server would make of a pool with a field that the older version does not know."""
    pool = engine_pods.pool(
        "DecodePool", "newer", SERVING, fleet.template("DecodePool"),
        model={"name": engine_pods.CLIENT_MODEL, "profileRef": {"name": "measured"}},
    )  # fmt: skip
    return fleet.dry_run(pool)
