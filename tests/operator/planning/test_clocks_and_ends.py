"""What a plan must survive: clocks that jump, partners that end, and specs that are refused half way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from prfaas_operator.injection import Settings
from prfaas_operator.planning.drain import GATEWAYS_SEE_SECONDS, plan_drain
from prfaas_operator.planning.values import ObservedPod
from prfaas_operator.runtime.planning_adapter import Planning
from tests.operator.planning.pool_world import NOW, SETTINGS, World, observed, settled


def marked(name: str, **changes: object) -> ObservedPod:
    values = {"ready": True, "node": "n", "phase": "Running", "ready_changed_at": NOW, **changes}
    return ObservedPod(name, f"uid-{name}", "r", NOW, **values)  # type: ignore[arg-type]


def test_a_mark_of_a_clock_that_was_set_back_is_made_anew() -> None:
    """Else the pod would get no request, and the Deployment would not shrink, for the whole jump."""
    pods = [marked("a"), marked("b", drain_since=NOW + timedelta(hours=1))]
    drain = plan_drain(pods, 1, NOW)
    assert [(mark.name, mark.drain_since) for mark in drain.marks] == [("b", NOW)]
    assert (drain.may_shrink, drain.wait_seconds) == (False, GATEWAYS_SEE_SECONDS)


def test_clocks_of_two_leaders_may_differ_a_little() -> None:
    pods = [marked("a"), marked("b", drain_since=NOW + timedelta(seconds=1))]
    drain = plan_drain(pods, 1, NOW)
    assert (drain.marks, drain.wait_seconds) == ((), GATEWAYS_SEE_SECONDS + 1)


def planning(settings: Settings = SETTINGS) -> Planning:
    return Planning(settings, gateway_namespace="prfaas", gateway_name="gateway")


def test_a_partner_that_is_being_deleted_is_not_waited_for() -> None:
    """The server raises its generation with the deletion, and no status follows any more."""
    world = settled()
    status = world.pool.status
    key = replace(world.pool.key, kind="DecodePool", name="chat")
    ending = replace(world.pool, key=key, deleted=True, generation=world.pool.generation + 1, status=status)
    rolling = World(replace(world.pool, partners=(planning().partner(ending),)), accelerators=2)
    rolling.change(image="engine:2")
    rolling.settle()
    assert rolling.deployments() == {"engine-1": 0, "engine-2": 2}


def test_a_deleted_partner_keeps_its_identity_among_the_peers() -> None:
    """What it has begun goes on until its pods have ended."""
    assert planning().partner(replace(observed(), deleted=True)).identity.endswith("/pool/PrefillPool/long")
