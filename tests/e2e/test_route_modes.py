"""A route on its way to being enforced: observed, then for a share of the requests. Tokens never change."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prfaas.routing import in_canary
from tests.e2e.stage import DECODE, SYSTEM, Stage, until
from tests.e2e.traffic import Answer, ask

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
LONG_TOKENS, SHORT_TOKENS = 540, 40
PERCENT = 40
SEEDS = count(20_000)


def test_observing_counts_what_would_be_remote_and_does_it_locally(fleet: Stage) -> None:
    _set_mode(fleet, "Observe", "Observing")
    observed, prefilled = _counts(fleet, "observed_decisions"), _counts(fleet, "prefill_legs")
    long_seeds = [next(SEEDS) for _ in range(3)]
    answers = [ask(fleet.gateway_url, LONG_TOKENS, seed=seed) for seed in long_seeds]
    short = ask(fleet.gateway_url, SHORT_TOKENS, seed=next(SEEDS))

    assert [_told(answer) for answer in answers] == [("local Observed", "remote")] * 3
    assert _told(short) == ("local UnderThreshold", "local")
    grown = _counts(fleet, "observed_decisions") - observed
    assert grown == {("Observed", "remote"): 3, ("UnderThreshold", "local"): 1}
    assert _counts(fleet, "prefill_legs") == prefilled
    assert [answer.token_ids for answer in answers] == [_alone(fleet, seed) for seed in long_seeds]


def test_a_canary_is_the_share_that_its_percentage_says_and_the_same_for_a_request_id(fleet: Stage) -> None:
    _set_mode(fleet, "Canary", "Canary", canary={"percent": PERCENT})
    observed = _counts(fleet, "observed_decisions")
    wanted = Counter({True: 2, False: 2})
    for number in count():
        request_id, seed = f"canary-{number}", next(SEEDS)
        chosen = in_canary(request_id, PERCENT)
        if not wanted[chosen]:
            continue
        wanted[chosen] -= 1
        answer = ask(fleet.gateway_url, LONG_TOKENS, seed=seed, request_id=request_id)
        expected = ("remote OverThreshold", None) if chosen else ("local NotInCanary", "remote")
        assert _told(answer) == expected
        assert answer.token_ids == _alone(fleet, seed)
        if not any(wanted.values()):
            break
    assert _counts(fleet, "observed_decisions") - observed == {("NotInCanary", "remote"): 2}
    _set_mode(fleet, "Enforce", "Enforcing")


def _set_mode(fleet: Stage, mode: str, reason: str, **spec: object) -> None:
    fleet.apply_route(mode=mode, **spec)
    until(
        lambda: fleet.condition("prefillroute", DECODE, "Ready").get("reason") == reason,
        f"the route is Ready with reason {reason}",
        within_seconds=60,
    )
    until(lambda: _is_told(fleet, mode), f"every gateway acts by {mode}", within_seconds=60)


def _is_told(fleet: Stage, mode: str) -> bool:
    stored = fleet.kubectl.get("configmap", "prfaas-gateway-policy", f"--namespace={SYSTEM}")
    snapshot = json.loads(stored["data"]["snapshot.json"])
    modes = {pool["route"]["mode"] for model in snapshot["models"] for pool in model["decode_pools"]}
    acts_by = {gateway["cluster"]["snapshot"]["revision"] for gateway in fleet.gateway_sees()}
    return modes == {mode} and acts_by == {snapshot["revision"]}


def _told(answer: Answer) -> tuple[str, str | None]:
    assert answer.failure is None
    return answer.route, answer.headers.get("x-prfaas-would-be")


def _alone(fleet: Stage, seed: int) -> tuple[int, ...]:
    """What an engine says that is asked directly, without any gateway."""
    engine = fleet.pool_pods("PrefillPool", "long")[0]["status"]["podIP"]
    answer = ask(f"http://{engine}:8000", LONG_TOKENS, seed=seed)
    assert answer.failure is None
    return answer.token_ids


def _counts(fleet: Stage, counter: str) -> Counter[tuple[str, ...]]:
    """A counter of all gateways together, by its labels but model and engine in the order of their names."""
    found: Counter[tuple[str, ...]] = Counter()
    for pod in fleet.pods("app.kubernetes.io/component=gateway", SYSTEM):
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8002/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        for family in families:
            if family.name == f"prfaas_gateway_{counter}":
                for sample in family.samples:
                    labels = tuple(
                        v for k, v in sorted(sample.labels.items()) if k not in ("model", "engine")
                    )
                    if sample.name.endswith("_total") and sample.value:
                        found[labels] += int(sample.value)
    return found
