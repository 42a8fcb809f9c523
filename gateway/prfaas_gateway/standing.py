"""What the gateway says of itself: whether it is ready, its gauges, and all that it believes, for people."""

from __future__ import annotations

from typing import Any

from prfaas_gateway.fleet import Decoder, Prefiller
from prfaas_gateway.services import Services


def readiness(services: Services) -> tuple[bool, dict[str, Any]]:
    """Whether requests should come here, and the answer that says why.

    Without a cluster every model needs a decode engine that would be asked. In a cluster models come and go:
    one without pods is answered with 503, and only a gateway that could serve none of them is not ready.
    """
    if services.draining or services.stopping:
        return False, {"status": "draining"}
    now, cluster = services.clock(), services.cluster
    names = [runtime.name for runtime in services.runtimes()]
    unserved = [
        name
        for name in names
        if not any(d.open and d.serves(name) and d.engine.healthy(now) for d in services.fleet.decoders)
    ]
    if cluster is None:
        if unserved:
            return False, {"status": "no decode engine", "models": unserved}
        return True, {"status": "ready"}
    details = {"unserved_models": unserved, **cluster.sources()}
    why_not = cluster.why_not_ready()
    if why_not is not None:
        return False, {"status": why_not, **details}
    if names and len(unserved) == len(names):
        return False, {"status": "no decode engine for any model", **details}
    return True, {"status": "ready", **details}


def observe(services: Services) -> None:
    """Bring gauges up to date from the state that they show."""
    metrics, now = services.metrics, services.clock()
    metrics.in_flight.set(services.in_flight)
    metrics.buffered_bytes.set(services.budget.used_bytes)
    metrics.background_jobs.set(len(services.supervisor))
    metrics.background_jobs_dropped.set(services.supervisor.dropped)
    for decoder in services.fleet.decoders:
        metrics.of_engine(metrics.engine_healthy, decoder.name, "engine").set(
            decoder.open and decoder.engine.healthy(now)
        )
        metrics.of_engine(metrics.engine_healthy, decoder.name, "sidecar").set(decoder.can_receive(now))
        metrics.of_engine(metrics.engine_load, decoder.name).set(decoder.in_flight)
        metrics.of_engine(metrics.prefix_index_blocks, decoder.name).set(len(decoder.index))
        for model, agrees in decoder.tokenizer_agrees.items():
            metrics.of_engine(metrics.tokenizer_agrees, decoder.name, model).set(agrees)
    for prefiller in services.fleet.prefillers:
        metrics.of_engine(metrics.engine_healthy, prefiller.name, "sidecar").set(
            prefiller.open and prefiller.healthy(now)
        )
        metrics.of_engine(metrics.engine_load, prefiller.name).set(prefiller.load_tokens)
        metrics.of_engine(metrics.prefix_index_blocks, prefiller.name).set(len(prefiller.index))
    # A request that ends after its engine has left is counted once more.
    metrics.forget_engines_but({engine.name for engine in services.fleet.engines()})
    _observe_scheduler(services, now)
    if services.cluster is not None:
        services.cluster.observe(metrics)
    if services.peers is not None:
        services.peers.observe(metrics)


def _observe_scheduler(services: Services, now: float) -> None:
    metrics, scheduler = services.metrics, services.scheduler
    metrics.index_bytes.set(scheduler.blocks.size_bytes)
    for runtime in services.runtimes():
        metrics.waiting.labels(runtime.name).set(scheduler.room.waiting(runtime.name))
    metrics.fallen_back.clear()
    for name, ledger in scheduler.observations.items():
        metrics.fallen_back.labels(name).set(ledger.guard.fallen(now))
    metrics.link_scarce.clear()
    metrics.link_threshold_factor.clear()
    for source, regime in scheduler.links.regimes().items():
        metrics.link_scarce.labels(source).set(regime.scarce)
        metrics.link_threshold_factor.labels(source).set(regime.threshold_factor)


def observations(services: Services) -> dict[str, Any]:
    """What was counted of each route, what paces were learned and how links stand; no single request."""
    now, scheduler = services.clock(), services.scheduler
    document = scheduler.observations.to_document(now)
    for name, entry in document["routes"].items():
        entry |= _engines_of(services, name)
    return {
        **document,
        "region": services.config.region,
        "prefill": scheduler.paces.points(),
        "links": {
            source: {"scarce": regime.scarce, "threshold_factor": regime.threshold_factor}
            for source, regime in scheduler.links.regimes().items()
        },
    }


def _engines_of(services: Services, route: str) -> dict[str, Any]:
    """What serves a route, and how fast: what its threshold can be planned from."""
    paces, links = services.scheduler.paces, services.scheduler.links.links
    local = [
        (decoder, policy)
        for decoder in services.fleet.decoders
        for policy in decoder.routes.values()
        if policy.name == route and decoder.open
    ]
    remote: dict[str, dict[str, Any]] = {}
    for prefiller in services.fleet.prefillers:
        used = any(
            policy.prefill_pools is None or prefiller.pool in policy.prefill_pools for _, policy in local
        )
        if not used or not prefiller.open:
            continue
        link = links.get(prefiller.region) if prefiller.region is not None else None
        entry = remote.setdefault(
            prefiller.kind,
            {
                "name": prefiller.pool or prefiller.name,
                "instances": 0,
                "points": paces.points_of(prefiller.kind),
                "bits_per_second": link.planned_bits_per_second if link is not None else None,
                "rtt_seconds": link.rtt_seconds if link is not None else 0.0,
            },
        )
        entry["instances"] += 1
    kinds = {decoder.kind for decoder, _ in local}
    points = max((paces.points_of(kind) for kind in kinds), key=len, default=[])
    return {"local": {"instances": len(local), "points": points}, "remote": list(remote.values())}


def status(services: Services) -> dict[str, Any]:
    """All that the gateway believes. Nothing about single requests."""
    now = services.clock()
    found: dict[str, Any] = {
        "version": 1,
        "region": services.config.region,
        "in_flight": services.in_flight,
        "stopping": services.stopping or services.draining,
        "models": {
            runtime.name: {
                "max_model_tokens": runtime.max_model_tokens,
                "block_tokens": runtime.block_tokens,
                "adapters": list(runtime.adapters),
                "tokenizer": "ready" if runtime.maker is not None else "pending",
                "files": runtime.files or None,
            }
            for runtime in services.runtimes()
        },
        "decode": [
            _decoder(decoder, now) for decoder in sorted(services.fleet.decoders, key=lambda d: d.name)
        ],
        "prefill": [
            _prefiller(prefiller, now)
            for prefiller in sorted(services.fleet.prefillers, key=lambda p: p.name)
        ],
    }
    if services.cluster is not None:
        found["cluster"] = services.cluster.status()
    return found


def _decoder(decoder: Decoder, now: float) -> dict[str, Any]:
    return {
        "name": decoder.name,
        "url": decoder.config.url,
        "models": list(decoder.config.models),
        "open": decoder.open,
        "engine_healthy": decoder.engine.healthy(now),
        "sidecar_healthy": decoder.can_receive(now),
        "in_flight": decoder.in_flight,
        "index": {"blocks": len(decoder.index), "from": decoder.index.tells},
        "fingerprint": decoder.fingerprint,
        "tokenizer_agrees": dict(decoder.tokenizer_agrees),
    }


def _prefiller(prefiller: Prefiller, now: float) -> dict[str, Any]:
    return {
        "name": prefiller.name,
        "control": prefiller.config.control,
        "models": list(prefiller.config.models),
        "pool": prefiller.pool,
        "open": prefiller.open,
        "sidecar_healthy": prefiller.healthy(now),
        "region": prefiller.region,
        "in_flight_tokens": prefiller.in_flight_tokens,
        "load_tokens": prefiller.load_tokens,
        "index": {"blocks": len(prefiller.index), "from": prefiller.index.tells},
        "fingerprint": prefiller.fingerprint,
    }
