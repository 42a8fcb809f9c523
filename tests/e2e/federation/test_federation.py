"""Two regions as users see them: what is applied in one runs in the other, and no cut stops either."""

from __future__ import annotations

import itertools

import pytest

from tests.e2e.federation.regions import NEW_REQUESTS_SECONDS, Regions, document
from tests.e2e.stage import DECODE, PREFILL, until
from tests.e2e.traffic import Answer, Traffic, ask

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LONG_TOKENS = 700
LONG_SEED = 3
# What an engine has computed is in its cache, and then short of the threshold.
FRESH_SEEDS = itertools.count(100)
LEASE_SECONDS = 60.0
MIRROR_SECONDS = 60.0


@pytest.fixture(scope="module")
def remote_answer(federated: Regions) -> Answer:
    """A prompt that entered eu and was prefilled in us."""
    url = federated.eu.gateway_url

    def remote() -> Answer | None:
        answer = ask(url, LONG_TOKENS, seed=LONG_SEED)
        return answer if answer.route.startswith("remote") and answer.failure is None else None

    answer: Answer = until(remote, "a long prompt is prefilled in us", 180.0)
    return answer


def test_what_is_applied_in_the_hub_runs_where_it_is_placed(federated: Regions) -> None:
    mirrored = federated.us.pool("prefillpool", PREFILL)
    assert mirrored["metadata"]["labels"]["prfaas.io/mirrored"] == "true"
    assert len(federated.us.pool_pods("PrefillPool", PREFILL)) == 1
    assert federated.eu.pool_pods("PrefillPool", PREFILL) == []
    assert len(federated.eu.pool_pods("DecodePool", DECODE)) == 1
    assert federated.us.pool_pods("DecodePool", DECODE) == []
    until(
        lambda: federated.eu.pool("prefillpool", PREFILL)["status"].get("placed") == "us 1/1",
        "the hub's pool counts the instances of us",
        MIRROR_SECONDS,
    )
    shown = federated.eu.kubectl("get", "ppool", PREFILL, "--namespace=serving")
    assert "us 1/1" in shown


def test_a_prompt_that_enters_eu_is_prefilled_in_us(federated: Regions, remote_answer: Answer) -> None:
    assert len(remote_answer.token_ids) == 8
    status = document(federated.prfaas(federated.eu, "status", "--output=json"))
    assert {region["name"] for region in status["regions"]} == {"eu", "us"}
    assert federated.region_condition(federated.eu, "us", "Reachable")["status"] == "True"


def test_cut_apart_both_regions_go_on(federated: Regions, remote_answer: Answer) -> None:
    eu, us = federated.eu, federated.us
    before = {pod["metadata"]["uid"] for pod in us.pool_pods("PrefillPool", PREFILL)}
    federated.wan.cut()
    try:
        # The engine still has what came from us: the same tokens tell that KV from there means the same here.
        answer = ask(eu.gateway_url, LONG_TOKENS, seed=LONG_SEED)
        assert answer.failure is None
        assert answer.token_ids == remote_answer.token_ids
        until(
            lambda: ask(eu.gateway_url, LONG_TOKENS, seed=next(FRESH_SEEDS)).route.startswith("local"),
            "new prompts stay in eu",
            NEW_REQUESTS_SECONDS,
        )
        us.kubectl("rollout", "restart", "deployment", "--namespace=prfaas",
                   "--selector=app.kubernetes.io/component=operator")  # fmt: skip
        us.kubectl("rollout", "status", "deployment", "--namespace=prfaas", "--timeout=120s",
                   "--selector=app.kubernetes.io/component=operator", timeout_seconds=130)  # fmt: skip
        until(
            lambda: federated.region_condition(us, "us", "HubReachable").get("status") == "False",
            "us says that the hub is away",
            LEASE_SECONDS,
        )
        until(
            lambda: federated.region_condition(eu, "us", "Reachable").get("status") == "False",
            "eu says that us cannot be reached",
            LEASE_SECONDS,
        )
        us.kubectl("scale", f"prefillpool/{PREFILL}", "--replicas=2", "--namespace=serving")
        until(lambda: len(us.pool_pods("PrefillPool", PREFILL)) == 2, "us scales without its hub", 60.0)
        us.kubectl("scale", f"prefillpool/{PREFILL}", "--replicas=1", "--namespace=serving")
        until(
            lambda: {pod["metadata"]["uid"] for pod in us.pool_pods("PrefillPool", PREFILL)} == before,
            "the engine that was there has stayed",
            60.0,
        )
    finally:
        federated.wan.restore()
    until(
        lambda: federated.region_condition(us, "us", "HubReachable").get("status") == "True",
        "us hears its hub again",
        LEASE_SECONDS,
    )
    until(
        lambda: ask(eu.gateway_url, LONG_TOKENS, seed=next(FRESH_SEEDS)).route.startswith("remote"),
        "prompts are prefilled in us again",
        LEASE_SECONDS,
    )


def test_authorities_are_replaced_under_load_without_a_failed_request(federated: Regions) -> None:
    with Traffic(federated.eu.gateway_url) as traffic:
        federated.rotate_authority(federated.us)
    assert traffic.failures == []


def test_a_wrong_bundle_is_named_and_harms_nothing_else(federated: Regions) -> None:
    eu = federated.eu
    stored = federated.region(eu, "us")["spec"]["trustBundle"]
    wrong = federated.region(eu, "eu")["spec"]["trustBundle"]
    federated.patch_bundle(eu, "us", wrong)
    try:
        until(
            lambda: federated.region_condition(eu, "us", "Reachable").get("reason") == "TLSFailed",
            "the hop that fails is named",
            LEASE_SECONDS,
        )
        assert "trustBundle" in federated.region_condition(eu, "us", "Reachable")["message"]
        answer = ask(eu.gateway_url, LONG_TOKENS, seed=next(FRESH_SEEDS))
        assert (answer.failure, answer.route.split()[0]) == (None, "local")
    finally:
        federated.patch_bundle(eu, "us", stored)
    until(
        lambda: federated.region_condition(eu, "us", "Reachable").get("status") == "True",
        "us is believed again",
        LEASE_SECONDS,
    )


def test_what_is_deleted_in_the_hub_goes_everywhere(federated: Regions) -> None:
    federated.eu.kubectl("delete", "prefillpool", PREFILL, "--namespace=serving", timeout_seconds=120)
    until(lambda: not federated.us.pool_pods("PrefillPool", PREFILL), "the engine in us goes", 120.0)
    left = federated.us.kubectl.get("prefillpools", "--namespace=serving")["items"]
    assert left == []
    assert len(federated.eu.pool_pods("DecodePool", DECODE)) == 1
    answer = ask(federated.eu.gateway_url, LONG_TOKENS, seed=LONG_SEED)
    assert (answer.failure, answer.route.split()[0]) == (None, "local")
