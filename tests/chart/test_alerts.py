"""The chart's alerts: every name in an expression is one that the code defines, and each has a runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from prfaas_gateway.metrics import Metrics as GatewayMetrics
from prfaas_operator.runtime import app as operator_app
from prfaas_operator.runtime.metrics import Metrics as OperatorMetrics
from prfaas_sidecar.metrics import Metrics as SidecarMetrics
from tests.chart.rendering import CHART, CHECKOUT, MONITORING, render

RULES = [
    rule
    for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
# What Prometheus adds to every series of a pod.
TARGET_LABELS = {"namespace", "pod", "container", "job", "instance"}
TEMPLATE_LABEL = re.compile(r"\$labels\.(\w+)")


def defined() -> dict[str, set[str]]:
    """Every series that the code can write, with its labels."""
    found: dict[str, set[str]] = {}
    for registry in registries():
        for collector, names in registry._collector_to_names.items():
            labels = set(getattr(collector, "_labelnames", ()) or getattr(collector, "_labels", ()))
            for name in names or [getattr(collector, "_name", "")]:
                found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


def registries() -> Iterator[CollectorRegistry]:
    yield GatewayMetrics().registry
    yield operator_registry()
    yield SidecarMetrics().registry


def operator_registry() -> CollectorRegistry:
    """With the gauges that the operator registers when it starts."""
    about: Any = SimpleNamespace(metrics=OperatorMetrics(), _watch_ages=tuple, _pools_by_condition=tuple)
    operator_app.Operator._register_gauges(about)
    return about.metrics.registry


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector below a node of an expression's tree."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, (str, float)):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def groupings(node: Any) -> Iterator[str]:
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
        yield from modifier.labels
    for name in ("lhs", "rhs", "expr"):
        child = getattr(node, name, None)
        if child is not None:
            yield from groupings(child)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_names_only_metrics_and_labels_that_the_code_defines(rule: dict[str, Any]) -> None:
    tree = promql_parser.parse(rule["expr"])
    series = defined()
    found = list(selectors(tree))
    assert found, "no selector was found in the expression"
    known = set(TARGET_LABELS)
    for selector in found:
        assert selector.name in series, f"{selector.name} is written by no part"
        known |= series[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in series[selector.name] | TARGET_LABELS, (selector.name, matcher.name)
    assert set(groupings(tree)) <= known


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alerts_text_uses_labels_that_its_result_has(rule: dict[str, Any]) -> None:
    tree = promql_parser.parse(rule["expr"])
    kept = set(groupings(tree)) or TARGET_LABELS
    used = set(TEMPLATE_LABEL.findall(" ".join(rule["annotations"].values())))
    assert used <= kept


def test_the_check_notices_a_metric_that_nobody_writes() -> None:
    (selector,) = selectors(promql_parser.parse("sum(rate(prfaas_gateway_requsts_total[5m])) > 1"))
    assert selector.name == "prfaas_gateway_requsts_total"
    assert selector.name not in defined()


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_how_bad_it_is_and_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description"} <= rule["annotations"].keys()
    headings = re.findall(r"^## (\w+)$", (CHECKOUT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert rule["alert"] in headings


def test_every_runbook_has_its_alert() -> None:
    headings = re.findall(r"^## (\w+)$", (CHECKOUT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert headings == NAMES


def test_rendered_rules_link_to_their_runbooks_and_can_be_left_out() -> None:
    values = {
        "monitoring.rules.enabled": True,
        "monitoring.rules.runbookBaseUrl": "https://wiki.example.org/prfaas",
        "monitoring.rules.disabled": ["PrfaasGatewayFallsBack"],
    }
    (made,) = render(values, api_versions=[MONITORING]).of_kind("PrometheusRule")
    rules = {rule["alert"]: rule for group in made["spec"]["groups"] for rule in group["rules"]}
    assert sorted(rules) == sorted(set(NAMES) - {"PrfaasGatewayFallsBack"})
    url = rules["PrfaasSidecarArenaFull"]["annotations"]["runbook_url"]
    assert url == "https://wiki.example.org/prfaas#prfaassidecararenafull"
    assert rules["PrfaasSidecarArenaFull"]["expr"] == next(
        rule["expr"] for rule in RULES if rule["alert"] == "PrfaasSidecarArenaFull"
    )
