"""What the engine has to do, for the autoscaler: `GET /load` on the health port.

The engine's own counters, of which the reader takes differences; nothing about single requests. The engine is
asked when somebody asks, at most once a second.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from prfaas_sidecar.drain import RUNNING, WAITING, EnginePageError, engine_page
from prfaas_sidecar.node import Node
from prfaas_sidecar.records import Records

FRESH_SECONDS = 1.0
ASK_SECONDS = 2.0
BUCKETS_MAX = 64
KV_SAMPLES_MAX = 32
KV_USAGE = "vllm:kv_cache_usage_perc"
TOTALS = {
    "prefill_seconds": "vllm:request_prefill_time_seconds",
    "computed_tokens": "vllm:request_prefill_kv_computed_tokens",
    "output_tokens": "vllm:request_generation_tokens",
    "step_seconds": "vllm:inter_token_latency_seconds",
    "running_seconds": "vllm:request_inference_time_seconds",
    "first_token_seconds": "vllm:time_to_first_token_seconds",
}
_WITH_BUCKETS = frozenset({"computed_tokens", "first_token_seconds"})


class LoadReport:
    """Answers of `/load`. Callers that come together share one question to the engine."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._known: dict[str, Any] = {}
        self._at = -math.inf

    async def read(self) -> dict[str, Any]:
        """The answer; what the engine does not say is null, and `error` says why."""
        async with self._lock:
            if self._node.clock() - self._at >= FRESH_SECONDS:
                self._known = await self._ask()
                self._at = self._node.clock()
        engine = self._node.engine
        return {
            "version": 1,
            "incarnation": engine.incarnation if engine is not None and engine.ready else None,
            "draining": self._node.draining,
            **self._known,
            "kv_samples": kv_samples(self._node.records),
            "links_out": self._node.sending.as_json(),
        }

    async def _ask(self) -> dict[str, Any]:
        url = self._node.config.engine.url
        if url is None:
            return unknown("the sidecar's configuration has no engine.url")
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                return of_page(await engine_page(session, url))
        except EnginePageError as error:
            return unknown(f"the engine does not tell: {error}")


def unknown(why: str) -> dict[str, Any]:
    """An answer without numbers."""
    return {"error": why, "running": None, "waiting": None, "kv_cache_usage": None, "totals": {}}


def of_page(exposition: str) -> dict[str, Any]:
    """From the engine's ``/metrics``, over all its ranks; of the cache's use the fullest rank's."""
    names = (RUNNING, WAITING, KV_USAGE, *TOTALS.values())
    lines = [line for line in exposition.splitlines() if line.startswith(names)]
    gauges: dict[str, list[float]] = {}
    totals: dict[str, dict[str, float]] = {}
    buckets: dict[str, dict[float, float]] = {}
    by_name = {metric: name for name, metric in TOTALS.items()}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if not math.isfinite(sample.value):
                    return unknown("the engine's /metrics have a number that is none")
                if sample.name in (RUNNING, WAITING, KV_USAGE):
                    gauges.setdefault(sample.name, []).append(sample.value)
                    continue
                metric, _, end = sample.name.rpartition("_")
                name = by_name.get(metric)
                if name is None:
                    continue
                if end in ("sum", "count"):
                    known = totals.setdefault(name, {"sum": 0.0, "count": 0.0})
                    known[end] += sample.value
                elif end == "bucket" and name in _WITH_BUCKETS:
                    upto = float(sample.labels["le"])
                    row = buckets.setdefault(name, {})
                    row[upto] = row.get(upto, 0.0) + sample.value
    except (ValueError, OverflowError, KeyError):
        return unknown("the engine's /metrics cannot be read")
    if RUNNING not in gauges or WAITING not in gauges:
        return unknown("the engine's /metrics do not show its requests (--disable-log-stats?)")
    return {
        "error": None,
        "running": sum(gauges[RUNNING]),
        "waiting": sum(gauges[WAITING]),
        "kv_cache_usage": max(gauges[KV_USAGE]) if KV_USAGE in gauges else None,
        "totals": {
            name: {**known, **({"buckets": _row(buckets[name])} if name in buckets else {})}
            for name, known in totals.items()
        },
    }


def _row(counts: dict[float, float]) -> list[list[float]]:
    """[upper bound, requests up to it], without the last one, which is the count."""
    return [[upto, counts[upto]] for upto in sorted(counts) if math.isfinite(upto)][:BUCKETS_MAX]


def kv_samples(records: Records) -> list[list[float]]:
    """[tokens, bytes of KV, ended at] of the last transfers that this engine took whole."""
    found = [
        [float(record.taken_tokens), float(record.bytes_kv), record.ended_at]
        for record in records.all()
        if record.side == "consumer"
        and record.ended_at is not None
        and record.taken_tokens
        and record.bytes_kv
        and record.units_landed == record.units_wanted
    ]
    return found[-KV_SAMPLES_MAX:]
