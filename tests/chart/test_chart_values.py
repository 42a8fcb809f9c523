"""The chart's values: what is refused, and that schema, defaults, table and templates agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from prfaas.chart.__main__ import generated, main
from prfaas.chart.generate import TABLE_BEGIN, with_table
from tests.chart.rendering import CHART, CHECKOUT, HelmError, render

REFUSED = {
    "a misspelt section": ({"gatway.replicas": 3}, "gatway"),
    "a misspelt value": ({"gateway.replica": 3}, "replica"),
    "a word for a number": ({"gateway.replicas": "three"}, "replicas"),
    "less than none": ({"operator.replicas": -1}, "replicas"),
    "a region with a slash": ({"region": "eu/west"}, "region"),
    "no region": ({"region": ""}, "region"),
    "a trust domain with capitals": ({"trustDomain": "Example.org"}, "trustDomain"),
    "a digest that is cut off": ({"gateway.image.digest": "sha256:1234"}, "digest"),
    "a digest as the tag": ({"gateway.image.tag": "sha256:" + "1" * 64}, "tag"),
    "a registry as a URL": ({"image.registry": "https://registry.example.org"}, "registry"),
    "a namespace with a wildcard": ({"watchNamespaces": ["team-*"]}, "watchNamespaces"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    "a log level that is none": ({"operator.logLevel": "verbose"}, "logLevel"),
    "a pull policy that is none": ({"image.pullPolicy": "Sometimes"}, "pullPolicy"),
    "pull secrets as names": ({"image.pullSecrets": ["mirror"]}, "pullSecrets"),
    "a service type that is none": ({"gateway.service.type": "Ingress"}, "type"),
    "a port out of range": ({"gateway.service.port": 70000}, "port"),
    "an interval without unit": ({"monitoring.podMonitor.interval": "30"}, "interval"),
    "a peer as an address": ({"networkPolicy.peerCidrs": ["10.80.0.1"]}, "peerCidrs"),
    "labels with numbers": ({"commonLabels": {"team": 7}}, "commonLabels"),
    "more at least than at most": (
        {"gateway.autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
        "maxReplicas (2) is less than minReplicas (5)",
    ),
    "a policy for pools nobody named": ({"networkPolicy.pools": True}, "needs watchNamespaces"),
}


@pytest.mark.parametrize(("values", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_value_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(HelmError, match=re.escape(named)):
        render(values)


def test_a_route_without_a_parent_is_refused_where_it_would_be_made() -> None:
    with pytest.raises(HelmError, match="parentRefs is empty"):
        render({"gateway.httpRoute.enabled": True}, api_versions=["gateway.networking.k8s.io/v1"])


def test_the_chart_can_be_a_subchart_with_global_values() -> None:
    assert render({"global.imageRegistry": "ignored.example.org"}).documents


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated(CHECKOUT).items():
        assert path.read_text() == text, f"{path.relative_to(CHECKOUT)}: run python -m prfaas.chart"


def test_a_difference_fails_the_check_and_names_the_file(tmp_path: Any) -> None:
    from click.testing import CliRunner

    chart = tmp_path / "charts" / "prfaas"
    chart.mkdir(parents=True)
    (chart / "Chart.yaml").write_text("name: prfaas\n")
    (chart / "README.md").write_text((CHART / "README.md").read_text())
    made = CliRunner().invoke(main, ["--root", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert CliRunner().invoke(main, ["--root", str(tmp_path), "--check"]).exit_code == 0
    (chart / "values.yaml").write_text("region: other\n")
    checked = CliRunner().invoke(main, ["--root", str(tmp_path), "--check"])
    assert checked.exit_code == 1
    assert "charts/prfaas/values.yaml" in checked.output


def test_a_readme_without_a_place_for_the_table_is_told() -> None:
    with pytest.raises(ValueError, match=re.escape(TABLE_BEGIN)):
        with_table("# Chart\n")


def test_every_value_is_used_by_a_template() -> None:
    text = (
        "\n".join(
            path.read_text()
            for path in (CHART / "templates").rglob("*")
            if path.is_file() and path.parent.name != "crds"
        )
        + (CHART / "templates" / "crds" / "decodepools.prfaas.io.yaml").read_text()
    )
    unused = [
        path
        for path in _leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
        if not _named(path, text)
    ]
    assert unused == ["global"]


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node and not path.endswith(".resources"):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def _named(path: str, text: str) -> bool:
    """Whether a template reads the value, by its whole path or through a variable of its section."""
    *section, name = path.split(".")
    return f".{path}" in text if len(section) < 1 else bool(re.search(rf"[$.\w]*\.{name}\b", text))
