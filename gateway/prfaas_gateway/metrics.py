"""What operators can count. Labels are bounded: configured names, reasons, codes; never a client's words."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MetricT = TypeVar("MetricT", Counter, Gauge)
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """All metrics of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "prfaas_gateway_{}".format
        r = self.registry
        self.requests = Counter(
            name("requests"),
            "Requests answered, by final route and reason; code is OK, the gateway's code, or Http<status>",
            ("model", "route", "reason", "code"),
            registry=r,
        )
        self.snapshot_errors = Counter(
            name("snapshot_errors"),
            "Snapshots of the operator that could not be used; the last good one stays in force",
            ("code",),
            registry=r,
        )
        self.state_errors = Counter(
            name("state_errors"), "Failures to keep the last good state on disk", ("code",), registry=r
        )
        self.tokenizer_errors = Counter(
            name("tokenizer_errors"),
            "Failures to get or load an engine's tokenizer files",
            ("code",),
            registry=r,
        )
        self.from_disk = Gauge(
            name("from_disk"),
            "1 while this was read from the disk and the API server has not said anything yet",
            ("what",),
            registry=r,
        )
        self.watch_silent_seconds = Gauge(
            name("watch_silent_seconds"),
            "Since the API server was last heard on a watch; bookmarks are due every minute",
            ("watch",),
            registry=r,
        )
        self.tokenizer_ready = Gauge(
            name("tokenizer_ready"),
            "1 when prompts of the model can be tokenised here; until then they stay local",
            ("model",),
            registry=r,
        )
        self.observed = Counter(
            name("observed_decisions"),
            "Decisions that a route's mode held back; would_be is the route without the mode",
            ("model", "would_be", "reason"),
            registry=r,
        )
        self.first_token_seconds = Histogram(
            name("time_to_first_token_seconds"),
            "From the request's arrival to the first byte of the answer",
            ("model", "route"),
            buckets=_TTFT_BUCKETS,
            registry=r,
        )
        self.request_seconds = Histogram(
            name("request_seconds"), "Whole requests", ("model", "route"), buckets=_TTFT_BUCKETS, registry=r
        )
        self.prepare_seconds = Histogram(
            name("prepare_seconds"),
            "Rendering, tokenising and hashing a prompt, waiting for a thread included",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
            registry=r,
        )
        self.refused = Counter(
            name("refused"),
            "Requests turned away before anything was done for them",
            ("model", "slo_class", "code"),
            registry=r,
        )
        self.waiting = Gauge(
            name("waiting"), "Requests that wait for a decode engine with room", ("model",), registry=r
        )
        self.fallen_back = Gauge(
            name("fallen_back"),
            "1 while a route keeps everything local because remote prefill broke its objective",
            ("route",),
            registry=r,
        )
        self.link_scarce = Gauge(
            name("link_scarce"),
            "1 while the bandwidth from a region counts as scarce",
            ("source",),
            registry=r,
        )
        self.link_threshold_factor = Gauge(
            name("link_threshold_factor"),
            "What the threshold is multiplied with because of a full link",
            ("source",),
            registry=r,
        )
        self.decision_seconds = Histogram(
            name("decision_seconds"),
            "Deciding where a prompt is prefilled, hashing not counted",
            buckets=(2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3),
            registry=r,
        )
        self.index_bytes = Gauge(
            name("prefix_index_bytes"), "Memory of the prefix index of all engines", registry=r
        )
        self.in_flight = Gauge(name("in_flight"), "Requests being served", registry=r)
        self.buffered_bytes = Gauge(name("buffered_bytes"), "Bodies held in memory", registry=r)
        self.background_jobs = Gauge(name("background_jobs"), "Jobs that outlive their request", registry=r)
        self.background_jobs_dropped = Gauge(
            name("background_jobs_dropped"), "Jobs not run because too many were running", registry=r
        )
        self.ladder_steps = Counter(
            name("ladder_steps"),
            "Steps of the failure ladder: step and what led to it",
            ("step", "code"),
            registry=r,
        )
        self.prefill_legs = Counter(
            name("prefill_legs"), "Prefill legs by engine and outcome", ("engine", "code"), registry=r
        )
        self.transfers = Counter(
            name("transfers"),
            "How transfers ended, says the consumer's sidecar",
            ("engine", "code"),
            registry=r,
        )
        self.prompt_tokens = Counter(
            name("prompt_tokens"),
            "Prompt tokens of tokenised requests: cached, taken from a transfer, computed here",
            ("model", "source"),
            registry=r,
        )
        self.control_fields_removed = Counter(
            name("control_fields_removed"), "Requests from which control fields were removed", registry=r
        )
        self.client_gone = Counter(name("client_gone"), "Clients that left before the end", registry=r)
        self.engine_healthy = Gauge(
            name("engine_healthy"), "1 when the engine would be asked", ("engine", "part"), registry=r
        )
        self.engine_load = Gauge(
            name("engine_load"),
            "Requests in flight (decode) or tokens being prefilled (prefill)",
            ("engine",),
            registry=r,
        )
        self.prefix_index_blocks = Gauge(
            name("prefix_index_blocks"), "Blocks that an engine is believed to hold", ("engine",), registry=r
        )
        self.tokenizer_agrees = Gauge(
            name("tokenizer_agrees"),
            "1 when the engine tokenises as this gateway does, 0 when not",
            ("engine", "model"),
            registry=r,
        )
        self.exchange_age_seconds = Gauge(
            name("exchange_age_seconds"),
            "Age of what another region has told; it speaks at least once a second",
            ("region",),
            registry=r,
        )
        self.exchange_bytes = Counter(
            name("exchange_bytes"),
            "Bytes of the exchange with other regions' gateways, sent or received",
            ("region", "direction"),
            registry=r,
        )
        self.exchange_stops = Counter(
            name("exchange_stops"),
            "Streams from another region that ended or did not begin; each is tried again",
            ("region", "code"),
            registry=r,
        )
        self.region_usable = Gauge(
            name("region_usable"),
            "1 when requests may be prefilled in the region: it speaks, and offers pods",
            ("region",),
            registry=r,
        )
        self.peer_pods = Gauge(
            name("peer_pods"), "Prefill pods that another region has told of", ("region",), registry=r
        )
        self.peer_legs = Counter(
            name("peer_legs"),
            "Prefill legs sent through another region's gateways, by outcome",
            ("region", "code"),
            registry=r,
        )
        self.passed_legs = Counter(
            name("passed_legs"),
            "Prefill legs of another region's gateways passed on to own pods, by outcome",
            ("region", "code"),
            registry=r,
        )
        self.peers_refused = Counter(
            name("peers_refused"),
            "Connections and streams of other regions' gateways that were refused here, by reason",
            ("region", "code"),
            registry=r,
        )
        self._of_engines: dict[str, set[tuple[Counter | Gauge, tuple[str, ...]]]] = {}

    def of_engine(self, metric: MetricT, engine: str, *labels: str) -> MetricT:
        """The series of an engine, remembered so that it can go with it: to look for it costs more than all
        of a scrape."""
        self._of_engines.setdefault(engine, set()).add((metric, (engine, *labels)))
        return metric.labels(engine, *labels)

    def forget_engine(self, engine: str) -> None:
        """Drop all series of an engine that is gone."""
        for metric, labels in self._of_engines.pop(engine, ()):
            metric.remove(*labels)

    def forget_region(self, region: str) -> None:
        """Drop the gauges of a region that is gone; what was counted stays counted."""
        for gauge in (self.exchange_age_seconds, self.region_usable, self.peer_pods):
            with suppress(KeyError):
                gauge.remove(region)

    def forget_engines_but(self, names: AbstractSet[str]) -> None:
        """Drop all series of engines that are none of these."""
        for engine in self._of_engines.keys() - names:
            self.forget_engine(engine)
