"""Removing the release leaves what `keep` says, and nothing else."""

from __future__ import annotations

import pytest

from tests.e2e.stage import SERVING, SYSTEM, Stage, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
KINDS = ("prefillpools", "decodepools", "prefillroutes", "modelkvprofiles")


def test_uninstalling_keeps_definitions_pools_and_their_pods(fleet: Stage) -> None:
    before = {pod["metadata"]["uid"] for pod in fleet.pool_pods("DecodePool", "chat")}
    fleet.helm("uninstall", "prfaas", "--wait", "--timeout=180s")
    found = fleet.kubectl("get", "crds", "--output=name")
    assert all(f"{kind}.prfaas.io" in found for kind in KINDS)
    assert {pod["metadata"]["uid"] for pod in fleet.pool_pods("DecodePool", "chat")} == before
    until(
        lambda: fleet.pods("app.kubernetes.io/instance=prfaas", SYSTEM) == [], "the release's pods are gone"
    )
    cluster_wide = fleet.kubectl(
        "get",
        "clusterroles,clusterrolebindings",
        "--selector=app.kubernetes.io/instance=prfaas",
        "--output=name",
    )
    assert cluster_wide == ""


def test_installing_again_takes_over_what_was_kept(fleet: Stage) -> None:
    before = {pod["metadata"]["uid"] for pod in fleet.pool_pods("DecodePool", "chat")}
    fleet.install()
    fleet.until_ready("decodepool", "chat")
    assert {pod["metadata"]["uid"] for pod in fleet.pool_pods("DecodePool", "chat")} == before


def test_deleting_a_pool_deletes_all_that_was_made_for_it(fleet: Stage) -> None:
    for kind, name in (("prefillroute", "chat"), ("decodepool", "chat"), ("prefillpool", "long")):
        fleet.kubectl("delete", kind, name, f"--namespace={SERVING}")
    until(
        lambda: fleet.kubectl(
            "get", "deployments,pods,configmaps,secrets,poddisruptionbudgets", f"--namespace={SERVING}",
            "--selector=app.kubernetes.io/managed-by=prfaas", "--output=name",
        ) == "",
        "nothing is left of the pools",
        within_seconds=180,
    )  # fmt: skip
