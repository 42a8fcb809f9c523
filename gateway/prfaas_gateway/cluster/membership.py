"""Who belongs to the fleet: a function of the snapshot, the pods and what their sidecars have told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.cluster.policy import Pools
from prfaas_gateway.engine_report import EngineReport, ModelFile
from prfaas_gateway.fleet import RoutePolicy, tokenised_from
from prfaas_gateway.peering.remote import RemotePod

PEER_PORT = 7400
CONTROL_PORT = 7401

NOTHING_TOLD = EngineReport()
_DEFAULT_BLOCK_TOKENS = 32
_AFFINITY_TOKENS = 1024
"""Where no route says from which length on a prompt matters, only longer ones are worth tokenising: several
decode engines may hold parts of them."""


@dataclass(frozen=True, slots=True)
class DesiredDecoder:
    """A decode pod, as it is to be used.

    Attributes:
        open: whether it gets new requests.
        files: digest of the tokenizer files that its engine uses; empty while unknown.
        restarts: changes when the engine has lost its KV.
    """

    uid: str
    name: str
    url: str
    control: str
    identity: str
    routes: Mapping[str, RoutePolicy]
    open: bool
    fingerprint: str | None
    files: str
    restarts: int


@dataclass(frozen=True, slots=True)
class DesiredPrefiller:
    """A prefill pod, as it is to be used.

    Attributes:
        uid: with the region before it, when that is another one: `control` is then its gateways' address.
    """

    uid: str
    name: str
    pool: str
    control: str
    kv_address: str
    identity: str
    models: tuple[str, ...]
    open: bool
    fingerprint: str | None
    restarts: int | str
    region: str | None = None
    kv_server_name: str | None = None


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """A model, as its engines tell.

    Attributes:
        threshold_tokens: the smallest of its routes: nobody needs the tokens of a shorter prompt.
        files: of its tokenizer; empty while no engine has told.
        sources: pods that can give the files.
    """

    name: str
    adapters: tuple[str, ...]
    threshold_tokens: int
    block_tokens: int
    max_model_tokens: int | None
    files: tuple[ModelFile, ...]
    files_digest: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Desired:
    """The fleet as it should be. Decoders and prefillers are by pod uid, models by name."""

    decoders: dict[str, DesiredDecoder] = field(default_factory=dict)
    prefillers: dict[str, DesiredPrefiller] = field(default_factory=dict)
    models: dict[str, DesiredModel] = field(default_factory=dict)


def desired_fleet(
    pools: Pools,
    pods: Iterable[Pod],
    reports: Mapping[str, EngineReport],
    *,
    unconfirmed: Collection[str] = (),
    files_in_use: Mapping[str, str] | None = None,
    remote: Iterable[RemotePod] = (),
) -> Desired:
    """The fleet that follows.

    Args:
        reports: by pod uid, of those that have told.
        unconfirmed: uids of pods that are known from the disk only. Another pod may have their address by
            now, and engines are spoken to without TLS: they get requests once their sidecar has shown itself.
        remote: pods of other regions, as those tell.
        files_in_use: digest of the tokenizer files in use, by model: kept when as many engines use others.
    """
    decoders: dict[str, DesiredDecoder] = {}
    prefillers: dict[str, DesiredPrefiller] = {}
    for pod in sorted(pods, key=lambda pod: (pod.full_name, pod.uid)):
        if not pod.ip:
            continue
        report = reports.get(pod.uid, NOTHING_TOLD)
        confirmed = pod.uid not in unconfirmed or pod.uid in reports
        takes = pod.takes_requests and not report.draining and confirmed
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        control = f"https://{host}:{CONTROL_PORT}"
        if pod.kind == DECODE_POOL and (decode := pools.decode.get(pod.pool_name)):
            decoders[pod.uid] = DesiredDecoder(
                uid=pod.uid,
                name=pod.full_name,
                url=f"http://{host}:{decode.engine_port}",
                control=control,
                identity=decode.identity,
                routes=decode.routes,
                open=takes,
                fingerprint=report.fingerprint,
                files=report.files_digest,
                restarts=pod.restarts,
            )
        elif pod.kind == PREFILL_POOL and (prefill := pools.prefill.get(pod.pool_name)):
            prefillers[pod.uid] = DesiredPrefiller(
                uid=pod.uid,
                name=pod.full_name,
                pool=pod.pool_name,
                control=control,
                kv_address=f"{host}:{PEER_PORT}",
                identity=prefill.identity,
                models=tuple(sorted(prefill.models)),
                open=takes,
                fingerprint=report.fingerprint,
                restarts=pod.restarts,
            )
    for far in sorted(remote, key=lambda far: (far.region, far.pod.uid)):
        wanted = _remote_prefiller(far, pools)
        if wanted is not None:
            prefillers[wanted.uid] = wanted
    in_use = files_in_use or {}
    models = {
        name: _model(name, pools, decoders.values(), reports, in_use.get(name, "")) for name in pools.models
    }
    return Desired(decoders, prefillers, models)


def _remote_prefiller(far: RemotePod, pools: Pools) -> DesiredPrefiller | None:
    """A pod of another region; None when no route names its pool there."""
    pod, key = far.pod, f"{far.region}/{far.pod.pool_name}"
    pool = pools.remote.get(key)
    if pool is None or pod.kind != PREFILL_POOL:
        return None
    return DesiredPrefiller(
        uid=f"{far.region}:{pod.uid}",
        name=f"{far.region}/{pod.namespace}/{pod.name or pod.uid}",
        pool=key,
        control=f"https://{far.address}",
        kv_address=pod.kv_address,
        # What its region says of its identity does not count: the route says who may prefill.
        identity=pool.identity,
        models=tuple(sorted(pool.models)),
        open=pod.takes_requests,
        fingerprint=pod.fingerprint,
        restarts=pod.incarnation,
        region=far.region,
        kv_server_name=pod.kv_server_name or None,
    )


def _model(
    name: str,
    pools: Pools,
    decoders: Iterable[DesiredDecoder],
    reports: Mapping[str, EngineReport],
    files_in_use: str,
) -> DesiredModel:
    told = {
        decoder.uid: reports[decoder.uid]
        for decoder in decoders
        if name in decoder.routes and decoder.open and reports.get(decoder.uid, NOTHING_TOLD).engine_connected
    }
    digest = most_used((report.files_digest for report in told.values()), files_in_use)
    sources = tuple(uid for uid, report in told.items() if digest and report.files_digest == digest)
    files = told[sources[0]].model_files if sources else ()
    thresholds = [
        tokenised_from(policy.threshold_tokens, adaptive=policy.adaptive)
        for pool in pools.decode.values()
        if (policy := pool.routes.get(name)) is not None and policy.threshold_tokens is not None
    ]
    adapters = {served for report in told.values() for served in report.served_models} - set(pools.models)
    return DesiredModel(
        name=name,
        adapters=tuple(sorted(adapters)),
        threshold_tokens=min(thresholds, default=_AFFINITY_TOKENS),
        block_tokens=min(
            (report.block_tokens for report in told.values() if report.block_tokens),
            default=_DEFAULT_BLOCK_TOKENS,
        ),
        # The largest: an engine with less says so itself.
        max_model_tokens=max(
            (report.max_model_tokens for report in told.values() if report.max_model_tokens), default=None
        ),
        files=files,
        files_digest=digest if files else "",
        sources=sources,
    )


def most_used(digests: Iterable[str], in_use: str) -> str:
    """The tokenizer files of most engines; in a tie those in use, so that nothing is swapped in vain.

    Between others the smaller digest wins, so that all gateways choose the same.
    """
    counts = Counter(digest for digest in digests if digest)
    if not counts:
        return ""
    return min(counts, key=lambda digest: (-counts[digest], digest != in_use, digest))


HaveT = TypeVar("HaveT")
WantT = TypeVar("WantT")


@dataclass(frozen=True, slots=True)
class Difference:
    """Uids of what comes, stays and goes."""

    added: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def difference(have: Mapping[str, HaveT], want: Mapping[str, WantT]) -> Difference:
    """What has to happen to one side for it to have the other's members."""
    return Difference(
        added=tuple(uid for uid in want if uid not in have),
        kept=tuple(uid for uid in want if uid in have),
        removed=tuple(uid for uid in have if uid not in want),
    )
