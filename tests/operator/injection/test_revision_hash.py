"""What makes a new revision, and what does not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_operator.injection import revision_hash
from tests.operator.injection.pools import SETTINGS, container, pool, template

UPGRADED = SETTINGS.model_copy(update={"version": "2.0.0", "sidecar_image": "registry.example.org/new"})


def hashed(**spec: Any) -> str:
    return revision_hash(pool(**spec), SETTINGS)


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 7},
        {"scaling": {"mode": "External"}},
        {"rollout": {"maxUnavailable": 3}},
        {"model": {"name": "chat", "profileRef": {"name": "x"}}},
        {"model": {"name": "chat", "revision": "abc"}},
        {"kv": {"arena": "4Gi"}},
        {"kv": {"arena": "4096Mi"}},
        {"drain": {"timeoutSeconds": 120}},
        {"transport": {"streams": 4}},
        {"engine": {"type": "VLLM", "container": "engine", "port": 8000, "extraArgs": []}},
        {"sidecar": {"upgrade": "OnNextRollout"}},
        {"pod_template": template(restartPolicy="Always", dnsPolicy="ClusterFirst", volumes=[])},
        {"pod_template": template(container(imagePullPolicy="IfNotPresent", tty=False, env=None))},
        {"pod_template": {"metadata": {"labels": {}, "annotations": {}}, **template()}},
    ],
    ids=str,
)
def test_no_new_revision(spec: dict[str, Any]) -> None:
    assert hashed(**spec) == hashed()


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "DecodePool"},
        {"model": {"name": "other"}},
        {"kv": {"arena": "5Gi"}},
        {"drain": {"timeoutSeconds": 60}},
        {"transport": {"streams": 8}},
        {"engine": {"type": "VLLM", "port": 9000}},
        {"engine": {"type": "VLLM", "extraArgs": ["--enforce-eager"]}},
        {"sidecar": {"resources": {"limits": {"memory": "1Gi"}}}},
        {"sidecar": {"upgrade": "Rolling"}},
        {"pod_template": template(container(image="vllm/vllm-openai:v0.32.1"))},
        {"pod_template": template(container(args=["org/model", "--enforce-eager"]))},
        {"pod_template": template(container(imagePullPolicy="Always"))},
        {"pod_template": template(container(securityContext={}))},
        {"pod_template": template(nodeSelector={"gpu": "h100"})},
        {"pod_template": {"metadata": {"annotations": {"a": "b"}}, **template()}},
        {"pod_template": {"spec": {"containers": "broken"}}},
    ],
    ids=str,
)
def test_a_new_revision(spec: dict[str, Any]) -> None:
    assert hashed(**spec) != hashed()


def test_amounts_count_by_their_value() -> None:
    def of(**limits: Any) -> str:
        return hashed(pod_template=template(container(resources={"limits": limits})))

    assert of(cpu="1000m", memory="8Gi") == of(memory="8192Mi", cpu=1)
    assert of(cpu="1") != of(cpu="2")


def test_an_upgrade_of_the_operator_rolls_only_those_who_asked_for_it() -> None:
    made, rolling = pool(), pool(sidecar={"upgrade": "Rolling"})
    assert revision_hash(made, SETTINGS) == revision_hash(made, UPGRADED)
    assert revision_hash(rolling, SETTINGS) != revision_hash(rolling, UPGRADED)


@pytest.mark.parametrize("upgrade", ["OnNextRollout", "Rolling"])
def test_a_pool_made_anew_has_the_same_revision(upgrade: str) -> None:
    made = pool(sidecar={"upgrade": upgrade})
    other = made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": "other"})})
    assert revision_hash(made, SETTINGS) == revision_hash(other, SETTINGS)


def test_the_revision_of_a_model_counts_where_prfaas_names_the_model() -> None:
    bare = container()
    del bare["args"]
    one, two = (
        hashed(pod_template=template(bare), model={"name": "chat", "revision": revision}) for revision in "ab"
    )
    assert one != two


def test_the_hash_is_the_same_in_every_version() -> None:
    # If this changes, an upgrade of the operator restarts every pod of every user.
    assert hashed() == "adab8d3f"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab$", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def shuffled(value: Any, source: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        source.shuffle(keys)
        return {key: shuffled(value[key], source) for key in keys}
    return [shuffled(one, source) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(st.sampled_from(["affinity", "dnsConfig", "hostAliases"]), JSON), st.randoms())
def test_the_order_of_keys_does_not_count(spec: dict[str, Any], source: random.Random) -> None:
    made = template(**spec)
    assert hashed(pod_template=made) == hashed(pod_template=shuffled(made, source))


def test_a_grace_period_that_is_too_short_is_brought_to_light() -> None:
    """Written into a pool that runs, it would else be ignored: for an equal hash nothing is done."""
    written = template(terminationGracePeriodSeconds=30)
    assert hashed(pod_template=written) != hashed()


def test_the_usual_grace_period_is_a_default_where_nothing_drains() -> None:
    drain = {"timeoutSeconds": 0}
    written = template(terminationGracePeriodSeconds=30)
    assert hashed(pod_template=written, drain=drain) == hashed(drain=drain)
