"""Prefill times that the operator tells gateways, of pools here and in other regions."""

from __future__ import annotations

from prfaas.api.snapshot import DecodeTarget
from prfaas_gateway.cluster.policy import profiled, read_snapshot
from tests.gateway.cluster_values import decode_target, identity, snapshot

POINTS = [[1000, 0.5], [8000, 4.0]]
FAR = "spiffe://test/region/us/ns/llm/pool/PrefillPool/far"


def test_pools_of_other_regions_have_their_paces_too() -> None:
    target = decode_target("a").model_dump(mode="json")
    target["prefill_points"] = POINTS
    target["route"]["remote_prefill_pools"] = [
        {"namespace": "llm", "name": "far", "identity": FAR, "region": "us", "prefill_points": POINTS},
        {"namespace": "llm", "name": "unmeasured", "identity": FAR + "2", "region": "us"},
    ]
    told = snapshot(DecodeTarget.model_validate(target))
    found = profiled(read_snapshot(told.model_dump_json()))
    assert found.keys() == {identity("DecodePool", "a"), FAR}
    assert found[FAR].at(8000) == 4.0
