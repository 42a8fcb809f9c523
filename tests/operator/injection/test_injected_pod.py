"""What a pod of a pool has that the user's template has not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas_operator.injection import Injected, inject
from prfaas_operator.injection.inject import drain_token
from prfaas_sidecar.config import parse_text
from tests.operator.injection.pools import (
    SETTINGS,
    container,
    engine_after,
    injected,
    pool,
    sidecar_after,
    template,
)

GOLDEN = Path(__file__).parent / "golden"
GUARANTEED = {"limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}}


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_a_pool_becomes_the_pods_of_its_golden_file(case: str) -> None:
    written, expected = yaml.safe_load_all((GOLDEN / f"{case}.yaml").read_text())
    made = pool(
        written["kind"],
        written["spec"]["workload"]["template"],
        **{key: value for key, value in written["spec"].items() if key != "workload"},
    )
    actual = injected(made)
    for one in actual["spec"]["initContainers"]:
        for variable in one.get("env") or []:
            if variable["name"] == "PRFAAS_SIDECAR_CONFIG":
                variable["value"] = yaml.safe_load(variable["value"])
    assert actual == expected


@pytest.mark.parametrize("kind", ["PrefillPool", "DecodePool"])
@pytest.mark.parametrize("drain", [0, 120])
def test_the_sidecars_own_loader_takes_its_configuration(kind: str, drain: int) -> None:
    made = pool(
        kind, engine={"type": "VLLM", "port": 9000}, transport={"streams": 7}, drain={"timeoutSeconds": drain}
    )
    (variable,) = sidecar_after(made)["env"]
    config = parse_text(variable["value"], "test")
    assert config.engine.url == "http://127.0.0.1:9000"
    assert config.engine.socket_mode == 0o666
    assert config.arena_bytes == 4 << 30
    assert config.arena_charged_to == ("engine" if kind == "PrefillPool" else "sidecar")
    assert config.link.streams == 7
    assert config.peers_file == Path("/etc/prfaas/peers/peers.yaml")
    assert config.drain_token == (drain_token(made) if drain else None)


def test_the_sidecar_goes_first_and_the_users_init_containers_keep_their_order() -> None:
    own = [{"name": "fetch", "image": "a"}, {"name": "warm", "image": "b", "restartPolicy": "Always"}]
    pod = injected(pool(pod_template=template(initContainers=own)))["spec"]
    assert [one["name"] for one in pod["initContainers"]] == [
        "prfaas-sidecar",
        "prfaas-connector",
        "fetch",
        "warm",
    ]
    assert pod["initContainers"][2:] == own


def test_only_a_prefill_pod_depends_on_its_sidecar_being_ready() -> None:
    assert sidecar_after(pool("PrefillPool"))["readinessProbe"]["httpGet"] == {
        "path": "/readyz",
        "port": 7402,
    }
    assert "readinessProbe" not in sidecar_after(pool("DecodePool"))


def test_a_guaranteed_pod_stays_so_with_whole_cpus_for_the_sidecar() -> None:
    for kind, memory in (("PrefillPool", "256Mi"), ("DecodePool", "4352Mi")):
        pod = injected(pool(kind, template(container(resources=GUARANTEED))))["spec"]
        for one in pod["initContainers"]:
            assert one["resources"]["requests"] == one["resources"]["limits"]
        assert pod["initContainers"][0]["resources"]["limits"] == {"cpu": "1", "memory": memory}


@pytest.mark.parametrize(
    "other",
    [
        {"name": "exporter", "image": "x"},
        {"name": "exporter", "image": "x", "resources": {"limits": {"cpu": "1"}}},
        {
            "name": "exporter",
            "image": "x",
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
        },
    ],
)
def test_a_pod_that_is_not_guaranteed_gives_the_sidecar_no_limit_of_cpu(other: dict[str, Any]) -> None:
    pod_template = template(container(resources=GUARANTEED))
    pod_template["spec"]["containers"].append(other)
    resources = sidecar_after(pool("DecodePool", pod_template))["resources"]
    assert "cpu" not in resources["limits"]
    assert resources["limits"]["memory"] == "4352Mi"
    assert resources["requests"] == {"cpu": "100m", "memory": "4224Mi"}


def test_the_users_resources_for_the_sidecar_count_and_a_decode_pods_hold_the_arena_too() -> None:
    chosen = {"resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}}
    arena = {"arena": "1536Mi"}
    assert sidecar_after(pool("PrefillPool", sidecar=chosen, kv=arena))["resources"] == {
        "requests": {"cpu": "2"},
        "limits": {"memory": "1Gi"},
    }
    assert sidecar_after(pool("DecodePool", sidecar=chosen, kv=arena))["resources"] == {
        "requests": {"cpu": "2"},
        "limits": {"memory": "2560Mi"},
    }


@pytest.mark.parametrize(
    ("pythonpath", "expected"), [(None, "/opt/prfaas"), ("", "/opt/prfaas"), ("/a:/b", "/opt/prfaas:/a:/b")]
)
def test_pythonpath_keeps_what_the_user_has(pythonpath: str | None, expected: str) -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "PYTHONPATH", "value": pythonpath},
        {"name": "B", "value": "2"},
    ]
    if pythonpath is None:
        del env[1]
    after = engine_after(pool(pod_template=template(container(env=env))))["env"]
    assert {one["name"]: one["value"] for one in after} == {"A": "1", "B": "2", "PYTHONPATH": expected}
    assert len(after) == 3


@pytest.mark.parametrize(
    ("own", "expected"),
    [([], "/opt/prfaas:$(PYTHONPATH)"), ([{"name": "PYTHONPATH", "value": "/a"}], "/opt/prfaas:/a")],
    ids=["only the ConfigMap may have one", "env wins over envFrom, as without prfaas"],
)
def test_a_pythonpath_from_a_config_map_is_not_hidden(own: list[dict[str, str]], expected: str) -> None:
    sources = [{"configMapRef": {"name": "settings"}}]
    engine = engine_after(pool(pod_template=template(container(env=own, envFrom=sources))))
    assert engine["env"] == [{"name": "PYTHONPATH", "value": expected}]
    assert engine["envFrom"] == sources


def test_probes_of_the_users_stay_and_a_liveness_probe_is_not_put_off_by_a_startup_probe() -> None:
    own = {"livenessProbe": {"httpGet": {"path": "/own", "port": 1}}}
    after = engine_after(pool(pod_template=template(container(**own))))
    assert after["livenessProbe"] == own["livenessProbe"]
    assert "startupProbe" not in after
    assert after["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8000}
    after = engine_after(pool())
    assert after["startupProbe"]["periodSeconds"] * after["startupProbe"]["failureThreshold"] == 3600


def test_the_drain_is_the_engines_prestop_and_the_grace_period_grows_to_hold_it() -> None:
    pod_template = template(container(lifecycle={"postStart": {"exec": {"command": ["true"]}}}))
    made = pool(pod_template=pod_template, drain={"timeoutSeconds": 300})
    lifecycle = engine_after(made)["lifecycle"]
    assert lifecycle["preStop"]["httpGet"] == {
        "path": f"/drain?seconds=300&token={drain_token(made)}",
        "port": 7402,
    }
    assert lifecycle["postStart"] == {"exec": {"command": ["true"]}}
    assert injected(made)["spec"]["terminationGracePeriodSeconds"] == 330


def test_without_a_drain_neither_prestop_nor_grace_period_are_touched() -> None:
    own = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    made = pool(pod_template=template(container(lifecycle=own)), drain={"timeoutSeconds": 0})
    assert engine_after(made)["lifecycle"] == own
    assert "terminationGracePeriodSeconds" not in injected(made)["spec"]
    assert "lifecycle" not in engine_after(pool(drain={"timeoutSeconds": 0}))


def test_a_grace_period_that_holds_the_drain_stays() -> None:
    made = pool(pod_template=template(terminationGracePeriodSeconds=150))
    assert injected(made)["spec"]["terminationGracePeriodSeconds"] == 150


def test_the_drains_token_differs_between_pools_of_one_name() -> None:
    made = pool()
    other = made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": "other"})})
    assert drain_token(made) != drain_token(other)


def test_what_is_added_meets_the_restricted_standard_and_leaves_the_user_id_to_pod_or_image() -> None:
    for one in injected(pool(pod_template=template(securityContext={"runAsUser": 1000650000})))["spec"][
        "initContainers"
    ]:
        context = one["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "runAsUser" not in context
    for one in injected(pool(pod_template=template(securityContext={"runAsUser": 0})))["spec"][
        "initContainers"
    ]:
        assert one["securityContext"]["runAsUser"] == 65532


def test_the_carrier_can_be_an_image_volume() -> None:
    settings = SETTINGS.model_copy(update={"connector_as_image_volume": True, "image_pull_policy": "Never"})
    made = pool()
    pod = injected(made, settings)["spec"]
    assert [one["name"] for one in pod["initContainers"]] == ["prfaas-sidecar"]
    volume = next(one for one in pod["volumes"] if one["name"] == "prfaas-connector")
    assert volume["image"] == {"reference": SETTINGS.connector_image, "pullPolicy": "Never"}
    mount = next(
        one for one in engine_after(made, settings)["volumeMounts"] if one["name"] == "prfaas-connector"
    )
    assert mount == {
        "name": "prfaas-connector",
        "mountPath": "/opt/prfaas",
        "readOnly": True,
        "subPath": "connector",
    }


def test_pull_secrets_of_the_cluster_join_those_of_the_user() -> None:
    settings = SETTINGS.model_copy(update={"image_pull_secrets": ("mirror", "own")})
    pod = injected(pool(pod_template=template(imagePullSecrets=[{"name": "own"}])), settings)["spec"]
    assert pod["imagePullSecrets"] == [{"name": "own"}, {"name": "mirror"}]


def test_the_engines_port_is_not_declared_twice() -> None:
    own = [{"name": "http", "containerPort": 8000}]
    assert engine_after(pool(pod_template=template(container(ports=own))))["ports"] == own
    assert engine_after(pool())["ports"] == [
        {"name": "prfaas-engine", "containerPort": 8000, "protocol": "TCP"}
    ]


def test_the_pool_that_was_given_does_not_change() -> None:
    made = pool(
        pod_template=template(container(env=[{"name": "PYTHONPATH", "value": "/x"}], volumeMounts=[]))
    )
    before = copy.deepcopy(made.to_api())
    injected(made)
    assert made.to_api() == before


def test_the_annotation_names_images_and_version_and_the_charge_says_whose_limit() -> None:
    prefill, decode = inject(pool(), SETTINGS), inject(pool("DecodePool"), SETTINGS)
    assert isinstance(prefill, Injected)
    assert isinstance(decode, Injected)
    assert yaml.safe_load(prefill.info.annotation()) == {
        "sidecar": SETTINGS.sidecar_image,
        "connector": SETTINGS.connector_image,
        "version": "1.2.3",
    }
    assert (prefill.info.charged_to, decode.info.charged_to) == ("Engine", "Sidecar")
    assert prefill.info.arena_bytes == 4 << 30
