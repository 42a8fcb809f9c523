"""The scenario file of `prfaas plan`: YAML in, a problem for the planner out; see docs/planner.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from prfaas.capacity import (
    Curve,
    DecodeRate,
    InvalidInputError,
    KVSize,
    Lengths,
    LengthSketch,
    TruncatedLogNormal,
    Wire,
)
from prfaas.commands.plan.changes import apply
from prfaas.planner import (
    Cluster,
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    PrefillPool,
    Problem,
    Quota,
    Region,
    Residency,
    Routing,
    direct_routes,
)

T = TypeVar("T")
GIGA = 1e9


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class _Curve(_Part):
    """Measured points, or the coefficients of a polynomial up to `longest_tokens`."""

    points: tuple[tuple[float, float], ...] | None = None
    extrapolate: bool = False
    polynomial: tuple[float, ...] | None = None
    longest_tokens: float | None = None

    def made(self) -> Curve:
        if self.points is not None and self.polynomial is None:
            return Curve.from_points(self.points, extrapolates=self.extrapolate)
        if self.polynomial is not None and self.points is None and self.longest_tokens is not None:
            if not 1 <= len(self.polynomial) <= 3:
                raise InvalidInputError(
                    "polynomial", f"has {len(self.polynomial)} coefficients", "give 1 to 3, constant first"
                )
            constant, linear, quadratic = (*self.polynomial, 0.0, 0.0)[:3]
            return Curve.polynomial(constant, linear, quadratic, to_tokens=self.longest_tokens)
        raise InvalidInputError(
            "points", "a curve is not given", "give either points, or polynomial and longestTokens"
        )


class _Model(_Part):
    """S_kv of a model: state, and either bytes per token or measured [tokens, bytes]."""

    state_bytes: float = 0.0
    bytes_per_token: float | None = None
    longest_tokens: float = 1_048_576
    points: tuple[tuple[float, float], ...] | None = None

    def made(self) -> KVSize:
        if (self.points is None) == (self.bytes_per_token is None):
            raise InvalidInputError("points", "the size is not given", "give either points or bytesPerToken")
        if self.points is not None:
            return KVSize.from_points(self.points, state_bytes=self.state_bytes)
        assert self.bytes_per_token is not None  # noqa: S101 (checked above, for mypy)
        return KVSize.per_token(
            self.bytes_per_token, state_bytes=self.state_bytes, to_tokens=self.longest_tokens
        )


class _LogNormal(_Part):
    mu: float
    sigma: float
    min_tokens: float
    max_tokens: float


class _Lengths(_Part):
    log_normal: _LogNormal | None = None
    tokens: tuple[float, ...] | None = None
    counted: tuple[tuple[float, float], ...] | None = None

    def made(self) -> Lengths:
        if sum(each is not None for each in (self.log_normal, self.tokens, self.counted)) != 1:
            raise InvalidInputError(
                "logNormal", "lengths are not given", "give either logNormal or tokens or counted"
            )
        if self.tokens is not None:
            return LengthSketch.of(self.tokens)
        if self.counted is not None:
            return LengthSketch.weighted(self.counted)
        form = self.log_normal
        assert form is not None  # noqa: S101 (one of the three is given)
        return TruncatedLogNormal(form.mu, form.sigma, form.min_tokens, form.max_tokens)


class _Instances(_Part):
    maximum: int
    minimum: int = 0
    current: int | None = None
    available: int | None = None
    accelerators_each: int = 1
    price_per_hour: float | None = None
    carbon_kilograms_per_hour: float = 0.0
    start_seconds: float = 0.0


class _Prefill(_Part):
    name: str
    cluster: str
    model: str
    prefill: str
    instances: _Instances | None = None
    instances_of: str | None = None
    utilisation_max: float = 0.85


class _Decode(_Part):
    name: str
    cluster: str
    model: str
    step_seconds: float
    batch_max: float
    output_tokens: float
    lengths: _Lengths
    arrivals_per_second: float
    instances: _Instances
    ttft_seconds: float | None = None
    allowed_regions: frozenset[str] | None = None
    denied_regions: frozenset[str] = frozenset()
    prefill_pools: frozenset[str] | None = None
    utilisation_max: float = 0.9


class _Link(_Part):
    name: str
    source: str
    target: str
    gbits_per_second: float
    utilisation_max: float = 0.8
    rtt_seconds: float = 0.0
    price_per_gigabyte: float = 0.0


class _Wire(_Part):
    state_ratio: float = 1.0
    token_ratio: float = 1.0
    held_share: float = 0.0


class _Region(_Part):
    name: str
    within: str | None = None


class _Cluster(_Part):
    name: str
    region: str


class _Quota(_Part):
    name: str
    pools: frozenset[str]
    accelerators: float


class _Options(_Part):
    routing: Routing = Routing.THRESHOLD
    time_limit_seconds: float = 10.0
    buckets: int = 16
    gap: float = 1e-4
    keep_within: float = 0.0
    horizon_hours: float = 1.0
    carbon_price_per_kilogram: float = 0.0


class _Document(_Part):
    goal: Goal = Goal.LEAST_COST
    options: _Options = _Options()
    prefill_times: dict[str, _Curve]
    models: dict[str, _Model]
    prefill_pools: tuple[_Prefill, ...]
    decode_pools: tuple[_Decode, ...]
    links: tuple[_Link, ...] = ()
    wire: _Wire = _Wire()
    prefill_hit_share: float = 0.0
    clusters: tuple[_Cluster, ...] = ()
    regions: tuple[_Region, ...] = ()
    quotas: tuple[_Quota, ...] = ()
    simulation: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a file says, as the planner takes it.

    Attributes:
        simulation: the section of that name as it is written; `prfaas simulate` reads it.
    """

    problem: Problem
    options: Options
    simulation: Mapping[str, Any]


def loaded(text: str, changes: Sequence[str] = ()) -> Scenario:
    """Read a scenario, with changes such as `link.NAME=5` (Gbit/s); see `changes`.

    Raises:
        InvalidInputError: what is wrong, with the path in the file and what to write instead.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError("scenario", f"is not YAML: {error}", "mend the syntax") from error
    if not isinstance(document, dict):
        raise InvalidInputError("scenario", "is not a mapping", "begin with prefillTimes and models")
    for change in changes:
        apply(document, change)
    try:
        read = _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(field, first["msg"], "see docs/planner.md for the fields") from error
    return Scenario(_problem(read), _options(read), read.simulation)


def _options(read: _Document) -> Options:
    return _named("options", lambda: Options(goal=read.goal, **read.options.model_dump()))


def _problem(read: _Document) -> Problem:
    times = {name: _named(f"prefillTimes[{name}]", curve.made) for name, curve in read.prefill_times.items()}
    sizes = {name: _named(f"models[{name}]", model.made) for name, model in read.models.items()}
    prefill = tuple(
        _named(f"prefillPools[{pool.name}]", _prefill_of, pool, times, read.decode_pools)
        for pool in read.prefill_pools
    )
    decode = tuple(_named(f"decodePools[{pool.name}]", _decode_of, pool, sizes) for pool in read.decode_pools)
    links = tuple(_named(f"links[{link.name}]", _link_of, link) for link in read.links)
    wire = _named("wire", lambda: Wire(**read.wire.model_dump()))
    routes = _named(
        "prefillHitShare",
        lambda: direct_routes(prefill, decode, links, wire=wire, prefill_hit_share=read.prefill_hit_share),
    )
    return Problem(
        prefill_pools=prefill,
        decode_pools=decode,
        routes=routes,
        links=links,
        clusters=tuple(Cluster(each.name, each.region) for each in read.clusters),
        regions=tuple(Region(each.name, each.within) for each in read.regions),
        quotas=tuple(
            _named(f"quotas[{each.name}]", Quota, each.name, each.pools, each.accelerators)
            for each in read.quotas
        ),
    )


def _link_of(link: _Link) -> Link:
    if not link.gbits_per_second > 0:
        raise InvalidInputError(
            "gbitsPerSecond", f"is {link.gbits_per_second}", "leave out a link that carries nothing"
        )
    return Link(
        link.name,
        link.source,
        link.target,
        link.gbits_per_second * GIGA,
        link.utilisation_max,
        link.rtt_seconds,
        link.price_per_gigabyte,
    )


def _prefill_of(pool: _Prefill, times: dict[str, Curve], decode: Sequence[_Decode]) -> PrefillPool:
    return PrefillPool(
        pool.name,
        pool.cluster,
        pool.model,
        _found("prefill", "prefillTimes", pool.prefill, times),
        _instances_of(pool, {each.name: each.instances for each in decode}),
        pool.utilisation_max,
        pool.instances_of,
    )


def _instances_of(pool: _Prefill, decode: dict[str, _Instances]) -> Instances:
    """Its own; or those of a decode pool, which are paid for there."""
    if (pool.instances is None) == (pool.instances_of is None):
        raise InvalidInputError(
            "instances", "they are not given", "give either instances or instancesOf, a decode pool's name"
        )
    own = pool.instances
    if own is not None:
        return _named("instances", lambda: Instances(**own.model_dump()))
    shared = _found("instancesOf", "decodePools", pool.instances_of or "", decode)
    return _named("instances", lambda: Instances(shared.maximum, current=shared.current, price_per_hour=0.0))


def _decode_of(pool: _Decode, sizes: dict[str, KVSize]) -> DecodePool:
    return DecodePool(
        name=pool.name,
        cluster=pool.cluster,
        model=pool.model,
        kv=_found("model", "models", pool.model, sizes),
        decode=DecodeRate(pool.step_seconds, pool.batch_max, pool.output_tokens),
        lengths=_named("lengths", pool.lengths.made),
        arrivals_per_second=pool.arrivals_per_second,
        instances=_named("instances", lambda: Instances(**pool.instances.model_dump())),
        ttft_seconds=pool.ttft_seconds,
        residency=Residency(pool.allowed_regions, pool.denied_regions),
        prefill_pools=pool.prefill_pools,
        utilisation_max=pool.utilisation_max,
    )


def _found(field: str, table: str, name: str, values: dict[str, T]) -> T:
    if name not in values:
        raise InvalidInputError(field, f"{table} has no {name}", f"use one of {', '.join(sorted(values))}")
    return values[name]


def _named(field: str, make: Callable[..., T], *arguments: Any) -> T:
    try:
        return make(*arguments)
    except InvalidInputError as error:
        raise error.inside(field) from error
