"""The operator's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from prfaas.kube.api import Call

PASS_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
Reading = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """Counters that the parts add to, and gauges that are read when asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "prfaas_operator_reconciles_total",
            "Passes over an object, by its kind and how they ended (ok, retry, error).",
            ["kind", "result"],
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "prfaas_operator_reconcile_seconds",
            "Duration of a pass.",
            ["kind"],
            buckets=PASS_SECONDS,
            registry=self.registry,
        )
        self.writes = Counter(
            "prfaas_operator_api_writes_total",
            "Attempts to write at the API server, by verb, resource, and ok or the error's reason.",
            ["verb", "resource", "result"],
            registry=self.registry,
        )
        self.dry_runs = Counter(
            "prfaas_operator_api_dry_runs_total",
            "Dry runs at the API server, by resource, and ok or the error's reason.",
            ["resource", "result"],
            registry=self.registry,
        )
        self.events_dropped = Counter(
            "prfaas_operator_events_dropped_total",
            "Kubernetes Events that could not be written, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.audits = Counter(
            "prfaas_operator_watch_audits_total",
            "Comparisons of what a watch brought with a list, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.engine_reports = Counter(
            "prfaas_operator_engine_reports_total",
            "Questions to sidecars for what their engine is, by outcome.",
            ["outcome"],
            registry=self.registry,
        )

        self.load_reports = Counter(
            "prfaas_operator_load_reports_total",
            "Questions to sidecars of managed pools for the load of their engine, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.price_signals = Counter(
            "prfaas_operator_price_signals_total",
            "Readings of price and carbon signals, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.scaling_rounds = Counter(
            "prfaas_operator_scaling_rounds_total",
            "Rounds of the autoscaler, by how they ended (ok, timeout, error).",
            ["result"],
            registry=self.registry,
        )
        self.scaling_changes = Counter(
            "prfaas_operator_scaling_changes_total",
            "Sizes of pools that the autoscaler has changed, by kind, direction and reason.",
            ["kind", "direction", "reason"],
            registry=self.registry,
        )
        # (desired, needed, what keeps one from the other) by kind, namespace and name of managed pools.
        self.scaling_sizes: dict[tuple[str, str, str], tuple[int, int, str]] = {}
        self.gauges(
            "prfaas_operator_scaling_replicas",
            "Instances of a managed pool that are asked for (desired), and that its load needs (needed).",
            ("kind", "namespace", "name", "what"),
            self._scaling_replicas,
        )
        self.gauges(
            "prfaas_operator_scaling_limited",
            "1 for what keeps a managed pool from the instances that it needs.",
            ("kind", "namespace", "name", "reason"),
            self._scaling_limits,
        )

    def _scaling_replicas(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for place, (desired, needed, _) in tuple(self.scaling_sizes.items()):
            yield (*place, "desired"), float(desired)
            yield (*place, "needed"), float(needed)

    def _scaling_limits(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for place, (_, _, limit) in tuple(self.scaling_sizes.items()):
            if limit:
                yield (*place, limit), 1.0

    def count_write(self, call: Call, result: str) -> None:
        """One attempt to write that ended."""
        resource = str(call.resource) + (f"/{call.subresource}" if call.subresource else "")
        if call.dry_run:
            self.dry_runs.labels(resource, result).inc()
        else:
            self.writes.labels(call.verb, resource, result).inc()

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge without labels that is read when asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def gauges(self, name: str, help_text: str, labels: tuple[str, ...], read: Reading) -> None:
        """A gauge with labels, all of whose values are read when asked for."""
        self.registry.register(_Readings(name, help_text, labels, read))


class _Readings(Collector):
    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], read: Reading) -> None:
        self._name, self._help, self._labels, self._read = name, help_text, labels, read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for values, number in self._read():
            family.add_metric(values, number)
        yield family
