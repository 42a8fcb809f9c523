"""What the chart makes of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas.api import keys
from prfaas_gateway.config import Config as GatewayConfig
from prfaas_operator.config import parse as parse_operator_config
from prfaas_operator.injection.settings import Settings
from tests.chart.rendering import CHART, GATEWAY_API, MONITORING, VALUES_FILES, helm, render

PRODUCTION = CHART / "ci" / "production-values.yaml"
ALL_APIS = (MONITORING, GATEWAY_API)


@pytest.mark.parametrize("file", VALUES_FILES, ids=lambda path: path.stem)
def test_every_example_of_values_lints_and_renders(file: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(file))
    assert render(files=[file], api_versions=ALL_APIS).documents


@pytest.mark.parametrize("files", [[], [PRODUCTION]], ids=["defaults", "production"])
def test_two_renders_are_equal(files: list[Path]) -> None:
    first, second = (render(files=files, api_versions=ALL_APIS).text for _ in range(2))
    assert first == second


def test_no_template_asks_for_chance_time_or_the_cluster() -> None:
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text()
            for word in ("lookup ", "rand", "now ", "genCA", "genSigned", "uuidv4", "htpasswd"):
                in_templates = [
                    line
                    for line in text.splitlines()
                    if "{{" in line and word in line and "description" not in line
                ]
                assert not in_templates, f"{path.name}: {in_templates}"


@pytest.mark.parametrize("file", [None, *VALUES_FILES], ids=lambda path: path.stem if path else "defaults")
def test_no_object_has_its_name_twice(file: Path | None) -> None:
    rendered = render(files=[file] if file else [], api_versions=ALL_APIS)
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in rendered.documents
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("file", [None, *VALUES_FILES], ids=lambda path: path.stem if path else "defaults")
def test_pods_are_restricted_with_a_read_only_root_and_bounded_volumes(file: Path | None) -> None:
    for name, spec in render(files=[file] if file else []).pod_specs():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"startupProbe", "livenessProbe", "readinessProbe", "resources"} <= container.keys()
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], volume


def test_one_registry_and_digests_hold_for_every_image_also_those_of_pools() -> None:
    rendered = render(files=[PRODUCTION])
    config = yaml.safe_load(rendered.one("ConfigMap", "prfaas-operator")["data"]["operator.yaml"])
    images = [each["image"] for _, spec in rendered.pod_specs() for each in spec["containers"]]
    images += config["images"].values()
    assert len(images) == 5
    for image in images:
        assert image.startswith("registry.example.org:5000/mirror/prfaas/"), image
        assert "@sha256:" in image
    for _, spec in rendered.pod_specs():
        assert spec["imagePullSecrets"] == [{"name": "mirror"}]


def test_a_tag_is_the_app_version_unless_given() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    by_name = dict(render({"gateway.image.tag": "dev-1"}).pod_specs())
    assert by_name["prfaas-operator"]["containers"][0]["image"] == f"prfaas.io/operator:{version}"
    assert by_name["prfaas-gateway"]["containers"][0]["image"] == "prfaas.io/gateway:dev-1"


def test_an_empty_registry_leaves_the_repository_alone() -> None:
    spec = dict(render({"image.registry": ""}).pod_specs())["prfaas-operator"]
    assert spec["containers"][0]["image"].startswith("operator:")


def test_the_gateway_gets_a_configuration_that_it_accepts() -> None:
    rendered = render(files=[PRODUCTION])
    raw = yaml.safe_load(rendered.one("ConfigMap", "prfaas-gateway")["data"]["gateway.yaml"])
    config = GatewayConfig.model_validate(raw)
    assert config.cluster is not None
    assert config.cluster.namespace == "prfaas-system"
    assert config.cluster.pod_namespaces == ("serving", "batch")
    assert config.cluster.snapshot == keys.GATEWAY_POLICY_CONFIG_MAP
    assert config.tenant_header == "x-tenant"
    (volume,) = [each for each in _gateway(rendered)["volumes"] if "secret" in each]
    assert volume["secret"]["secretName"] == keys.GATEWAY_TLS_SECRET
    mounts = {each["name"]: each["mountPath"] for each in _gateway(rendered)["containers"][0]["volumeMounts"]}
    assert config.tls is not None
    assert {
        str(path.parent) for path in (config.tls.certificate, config.tls.key, config.tls.trust_bundle)
    } == {mounts["tls"]}
    assert str(config.cluster.state_dir) == mounts["state"]


@pytest.mark.parametrize("file", [None, *VALUES_FILES], ids=lambda path: path.stem if path else "defaults")
def test_the_operator_gets_a_configuration_that_it_accepts(file: Path | None) -> None:
    rendered = render(files=[file] if file else [])
    (raw,) = [
        each["data"]["operator.yaml"]
        for each in rendered.of_kind("ConfigMap")
        if "operator.yaml" in each["data"]
    ]
    config = parse_operator_config(raw, "the chart's")
    deployment = next(each for name, each in rendered.pod_specs() if name.endswith("-operator"))
    port = deployment["containers"][0]["ports"][0]["containerPort"]
    assert config.health_listen.endswith(f":{port}")
    names = [each["metadata"]["name"] for each in rendered.of_kind("Deployment")]
    assert config.gateway_name in names or len(names) == 1


def test_what_pools_get_is_told_to_the_operator() -> None:
    def settings(values: dict[str, object]) -> Settings:
        raw = render(values).one("ConfigMap", "prfaas-operator")["data"]["operator.yaml"]
        return parse_operator_config(raw, "the chart's").injection_settings()

    assert settings({}).prefill_addresses == ("0.0.0.0/0:7400", "[::/0]:7400")
    told = settings(
        {
            "pools.prefillCidrs": ["10.0.0.0/8", "fd00:10::/48"],
            "pools.imagePullSecrets": ["mirror"],
            "pools.connectorAsImageVolume": True,
        }
    )
    assert told.prefill_addresses == ("10.0.0.0/8:7400", "[fd00:10::/48]:7400")
    assert (told.image_pull_secrets, told.connector_as_image_volume) == (("mirror",), True)


def test_a_gateway_has_time_to_drain_before_it_is_killed() -> None:
    rendered = render({"gateway.drainSeconds": 120})
    raw = yaml.safe_load(rendered.one("ConfigMap", "prfaas-gateway")["data"]["gateway.yaml"])
    timeouts = GatewayConfig.model_validate(raw).timeouts
    assert timeouts.drain_seconds == 120
    assert _gateway(rendered)["terminationGracePeriodSeconds"] >= timeouts.drain_seconds + 10


def test_own_settings_of_both_files_go_in_and_win() -> None:
    rendered = render(
        {"gateway.config": {"limits": {"max_in_flight": 7}}, "operator.config": {"log_level": "debug"}}
    )
    gateway = yaml.safe_load(rendered.one("ConfigMap", "prfaas-gateway")["data"]["gateway.yaml"])
    assert gateway["limits"] == {"max_in_flight": 7}
    assert (
        yaml.safe_load(rendered.one("ConfigMap", "prfaas-operator")["data"]["operator.yaml"])["log_level"]
        == "debug"
    )


def test_operator_and_gateway_agree_on_the_gateways_name() -> None:
    rendered = render({"fullnameOverride": "other"})
    operator = yaml.safe_load(rendered.one("ConfigMap", "other-operator")["data"]["operator.yaml"])
    gateway = yaml.safe_load(rendered.one("ConfigMap", "other-gateway")["data"]["gateway.yaml"])
    assert gateway["identity"].endswith(f"/ns/prfaas-system/gateway/{operator['gateway_name']}")


def test_a_changed_configuration_restarts_its_own_pods_and_no_others() -> None:
    def checksums(values: dict[str, Any]) -> dict[str, str]:
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for each in render(values).of_kind("Deployment")
        }

    before, after = checksums({}), checksums({"gateway.tenantHeader": "x-who"})
    assert before["prfaas-gateway"] != after["prfaas-gateway"]
    assert before["prfaas-operator"] == after["prfaas-operator"]


def test_what_other_projects_serve_is_made_only_where_it_is_served() -> None:
    wanted = {"HTTPRoute", "PodMonitor", "PrometheusRule"}
    assert not wanted & render(files=[PRODUCTION]).kinds()
    assert wanted <= render(files=[PRODUCTION], api_versions=ALL_APIS).kinds()
    assert not wanted & render(api_versions=ALL_APIS).kinds()


def test_an_hpa_owns_the_replicas_alone() -> None:
    rendered = render({"gateway.autoscaling.enabled": True})
    assert "replicas" not in rendered.one("Deployment", "prfaas-gateway")["spec"]
    (hpa,) = rendered.of_kind("HorizontalPodAutoscaler")
    assert hpa["spec"]["scaleTargetRef"]["name"] == "prfaas-gateway"
    assert render().one("Deployment", "prfaas-gateway")["spec"]["replicas"] == 2


def test_a_single_pod_has_no_budget_that_would_stop_a_drain() -> None:
    assert len(render().of_kind("PodDisruptionBudget")) == 2
    assert not render({"operator.replicas": 1, "gateway.replicas": 1}).of_kind("PodDisruptionBudget")


def test_budgets_services_and_spread_select_the_pods_that_there_are() -> None:
    rendered = render(files=[PRODUCTION])
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in rendered.of_kind("Deployment")]
    selectors = [each["spec"]["selector"]["matchLabels"] for each in rendered.of_kind("PodDisruptionBudget")]
    selectors += [each["spec"]["selector"] for each in rendered.of_kind("Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in rendered.of_kind("Deployment")]
    selectors += [
        constraint["labelSelector"]["matchLabels"]
        for _, spec in rendered.pod_specs()
        for constraint in spec["topologySpreadConstraints"]
    ]
    for selector in selectors:
        assert sum(selector.items() <= labels.items() for labels in pods) == 1, selector


def test_common_labels_are_on_everything_but_the_definitions() -> None:
    for each in render(files=[PRODUCTION], api_versions=ALL_APIS).documents:
        if each["kind"] != "CustomResourceDefinition":
            assert each["metadata"]["labels"]["team"] == "inference", (each["kind"], each["metadata"]["name"])


def test_definitions_can_be_kept_deleted_or_left_out() -> None:
    kept = render().of_kind("CustomResourceDefinition")
    assert {each["spec"]["names"]["kind"] for each in kept} == {
        keys.PREFILL_POOL,
        keys.DECODE_POOL,
        keys.PREFILL_ROUTE,
        keys.MODEL_KV_PROFILE,
        keys.REGION,
        keys.KV_LINK,
    }
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in kept)
    for each in render({"crds.keep": False}).of_kind("CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in each["metadata"].get("annotations", {})
    assert not render({"crds.enabled": False}).of_kind("CustomResourceDefinition")


def test_network_policies_can_be_switched_off_and_select_both_parts() -> None:
    assert not render({"networkPolicy.enabled": False}).of_kind("NetworkPolicy")
    policies = render(files=[PRODUCTION]).of_kind("NetworkPolicy")
    assert {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in policies} == {
        ("prfaas-system", "prfaas-operator"),
        ("prfaas-system", "prfaas-gateway"),
        ("prfaas-system", "prfaas-kv-proxy"),
        ("serving", "prfaas-pools"),
        ("batch", "prfaas-pools"),
    }


def _gateway(rendered: Any) -> dict[str, Any]:
    return dict(rendered.pod_specs())["prfaas-gateway"]
