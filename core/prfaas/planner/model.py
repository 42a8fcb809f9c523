"""The mixed-integer linear programme of a problem, as sparse matrices.

Columns, in this order: x, requests per second of each pair of pools and length bucket; u, the same unserved;
n, instances of each pool; s, instances by which a pool stays below its minimum; up and down, changes of each
pool; θ, the factor on all arrivals. Rows come in groups (`Rows`), whose duals `bindings` reads.

With E[T | bucket] and E[S | bucket] computed exactly, everything is linear in x, and Eq. 3 to 6 of the paper
are the special case of one remote pool, one local pool, one decode pool and one link; Eq. 7 and 8 hold at its
optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
from scipy import sparse

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import InvalidInputError
from prfaas.capacity.lengths import Bucket, Lengths, equal_work_buckets, mean_of
from prfaas.capacity.profiles import BITS_PER_BYTE
from prfaas.planner.problem import DecodePool, Goal, Options, PrefillPool, Problem, Route, Routing

Floats = npt.NDArray[np.float64]
GIGA = 1e9
HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A usable route with its numbers; arrays have one entry per length bucket of the decode pool.

    Attributes:
        prefill, decode, links: positions in the problem.
        columns: of its x.
        seconds: E[T_prefill | bucket].
        wire_bits: bits on each of its links per request, E[... | bucket].
    """

    route: Route
    prefill: int
    decode: int
    links: tuple[int, ...]
    columns: slice
    seconds: Floats
    wire_bits: Floats


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of the matrix say what."""

    flow: slice
    prefill: slice
    decode: slice
    links: slice
    quotas: slice
    moves: slice
    minimum: slice
    threshold: slice


@dataclass(frozen=True)
class Model:
    """The programme: bounds of columns, matrix, bounds of rows, and what they stand for.

    `tied`: positions of a prefill pool and of the decode pool whose instances it uses.
    """

    problem: Problem
    pairs: tuple[Pair, ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    lower: Floats
    upper: Floats
    integral: npt.NDArray[np.int_]
    matrix: sparse.csr_array
    row_lower: Floats
    row_upper: Floats
    rows: Rows
    unserved: slice
    instances: slice
    short: slice
    up: slice
    down: slice
    theta: int
    cost_per_hour: Floats
    tied: tuple[tuple[int, int], ...] = ()
    unserved_of: tuple[slice, ...] = field(default=())

    @property
    def size(self) -> int:
        """Number of columns."""
        return len(self.lower)

    @property
    def demand_per_second(self) -> float:
        """All arrivals, in requests per second."""
        return sum(pool.arrivals_per_second for pool in self.problem.decode_pools)


class Coefficients:
    """E[T | bucket] and E[S | bucket], each computed once for the same curve, lengths and hits."""

    def __init__(self, problem: Problem, buckets: int) -> None:
        by_lengths: dict[int, tuple[Bucket, ...]] = {}
        for pool in problem.decode_pools:
            if id(pool.lengths) not in by_lengths:
                by_lengths[id(pool.lengths)] = equal_work_buckets(pool.lengths, buckets)
        self.buckets = tuple(by_lengths[id(pool.lengths)] for pool in problem.decode_pools)
        self._scaled: dict[tuple[int, float], Curve] = {}
        self._means: dict[tuple[int, float, int], Floats] = {}

    def mean(self, curve: Curve, share: float, lengths: Lengths, buckets: Sequence[Bucket]) -> Floats:
        """E[curve(share · L) | bucket] for each bucket."""
        key = (id(curve), share, id(lengths))
        if key not in self._means:
            # What was scaled is kept, so that no other curve gets its id.
            scaled = self._scaled.setdefault((id(curve), share), curve.of_share(share))
            self._means[key] = np.array(
                [mean_of(scaled, lengths, bucket.from_tokens, bucket.to_tokens) for bucket in buckets]
            )
        return self._means[key]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the search for a plan that meets the time to first token tightens.

    Attributes:
        utilisation: cap of each prefill pool, in the order of the problem.
        forbidden: (pair, bucket) that may carry nothing.
    """

    utilisation: tuple[float, ...]
    forbidden: frozenset[tuple[int, int]] = frozenset()


def pairs_of(problem: Problem, routes: Sequence[Route], coefficients: Coefficients) -> tuple[Pair, ...]:
    """The numbers of each usable route.

    Raises:
        InvalidInputError: a prompt is longer than a profile that may not be continued; the field names the
            pool.
    """
    prefill_at = {pool.name: index for index, pool in enumerate(problem.prefill_pools)}
    decode_at = {pool.name: index for index, pool in enumerate(problem.decode_pools)}
    link_at = {link.name: index for index, link in enumerate(problem.links)}
    pairs: list[Pair] = []
    column = 0
    for route in routes:
        prefill, decode = prefill_at[route.prefill_pool], decode_at[route.decode_pool]
        producer, consumer = problem.prefill_pools[prefill], problem.decode_pools[decode]
        buckets = coefficients.buckets[decode]
        seconds = _mean(
            coefficients,
            f"prefill_pools[{producer.name}].prefill",
            producer.prefill,
            1 - route.prefill_hit_share,
            consumer,
            buckets,
        )
        token_bytes = _mean(
            coefficients, f"decode_pools[{consumer.name}].kv", consumer.kv.token_bytes, 1.0, consumer, buckets
        )
        wire, state_bytes = route.wire, consumer.kv.state_bytes
        pairs.append(
            Pair(
                route=route,
                prefill=prefill,
                decode=decode,
                links=tuple(link_at[name] for name in route.links),
                columns=slice(column, column + len(buckets)),
                seconds=seconds,
                wire_bits=BITS_PER_BYTE
                * (wire.bytes_of(state_bytes, 0.0) + token_bytes * wire.bytes_of(0.0, 1.0)),
            )
        )
        column += len(buckets)
    return tuple(pairs)


def _mean(
    coefficients: Coefficients,
    name: str,
    curve: Curve,
    share: float,
    pool: DecodePool,
    buckets: Sequence[Bucket],
) -> Floats:
    try:
        return coefficients.mean(curve, share, pool.lengths, buckets)
    except InvalidInputError as error:
        raise error.inside(f"{name} for the lengths of {pool.name}") from error


class _Matrix:
    """A sparse matrix that grows by rows."""

    def __init__(self) -> None:
        self._rows: list[npt.NDArray[np.int_]] = []
        self._columns: list[npt.NDArray[np.int_]] = []
        self._values: list[Floats] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def row(self, lower: float, upper: float) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        return len(self.lower) - 1

    def put(self, rows: npt.ArrayLike, columns: npt.ArrayLike, values: npt.ArrayLike) -> None:
        row, column, value = map(np.ravel, np.broadcast_arrays(rows, columns, values))
        self._rows.append(row.astype(int))
        self._columns.append(column.astype(int))
        self._values.append(value.astype(float))

    def built(self, columns: int) -> sparse.csr_array:
        return sparse.csr_array(
            (
                np.concatenate(self._values),
                (np.concatenate(self._rows), np.concatenate(self._columns)),
            ),
            shape=(len(self.lower), columns),
        )


def build(
    problem: Problem, options: Options, coefficients: Coefficients, pairs: tuple[Pair, ...], limits: Limits
) -> Model:
    """Put the programme together. `problem` is validated; `pairs` are its usable routes."""
    pools = problem.pools
    count = len(pools)
    serve_all = options.goal is Goal.MOST_SERVED
    first = pairs[-1].columns.stop if pairs else 0
    sizes = [len(buckets) for buckets in coefficients.buckets]
    starts = [first, *(first + total for total in accumulate(sizes))]
    unserved_of = tuple(slice(a, b) for a, b in pairwise(starts))
    unserved = slice(first, starts[-1])
    blocks = [slice(starts[-1] + k * count, starts[-1] + (k + 1) * count) for k in range(4)]
    instances, short, up, down = blocks
    theta = down.stop
    columns = theta + 1

    lower, upper = np.zeros(columns), np.full(columns, np.inf)
    if serve_all:
        upper[unserved] = 0.0
    else:
        lower[theta] = upper[theta] = 1.0
    upper[instances] = [pool.instances.most for pool in pools]
    upper[short] = [pool.instances.minimum for pool in pools]
    for position, pool in enumerate(pools):
        if pool.instances.current is None:
            upper[up.start + position] = upper[down.start + position] = 0.0
    for position, bucket in limits.forbidden:
        upper[pairs[position].columns.start + bucket] = 0.0
    integral = np.zeros(columns, dtype=int)
    integral[instances] = 1

    matrix = _Matrix()
    flow = _flow_rows(matrix, problem, coefficients, pairs, unserved_of, theta)
    prefill_rows, decode_rows, link_rows = _capacity_rows(matrix, problem, pairs, instances, limits)
    quotas = _quota_rows(matrix, problem, pools, instances)
    tied = _tied(problem)
    for prefill, decode in tied:
        matrix.put(matrix.row(0.0, 0.0), [instances.start + prefill, instances.start + decode], [1.0, -1.0])
    moves_from = len(matrix.lower)
    for position, pool in enumerate(pools):
        if pool.instances.current is not None:
            row = matrix.row(pool.instances.current, pool.instances.current)
            own = [instances.start + position, up.start + position, down.start + position]
            matrix.put(row, own, [1, -1, 1])
    minimum_from = len(matrix.lower)
    for position, pool in enumerate(pools):
        if pool.instances.minimum:
            row = matrix.row(pool.instances.minimum, np.inf)
            matrix.put(row, [instances.start + position, short.start + position], 1.0)
    threshold_from = len(matrix.lower)
    if options.routing is Routing.THRESHOLD:
        _threshold_rows(matrix, coefficients, pairs)
    rows = Rows(
        flow=flow,
        prefill=prefill_rows,
        decode=decode_rows,
        links=link_rows,
        quotas=quotas,
        moves=slice(moves_from, minimum_from),
        minimum=slice(minimum_from, threshold_from),
        threshold=slice(threshold_from, len(matrix.lower)),
    )
    cost = np.zeros(columns)
    cost[instances] = [
        (pool.instances.price_per_hour or 0.0)
        + pool.instances.carbon_kilograms_per_hour * options.carbon_price_per_kilogram
        for pool in pools
    ]
    cost[up] = cost[instances] * [
        pool.instances.start_seconds / HOUR_SECONDS / options.horizon_hours for pool in pools
    ]
    for pair in pairs:
        per_gigabyte = sum(problem.links[link].price_per_gigabyte for link in pair.links)
        cost[pair.columns] = pair.wire_bits / BITS_PER_BYTE / GIGA * per_gigabyte * HOUR_SECONDS
    return Model(
        problem=problem,
        pairs=pairs,
        buckets=coefficients.buckets,
        lower=lower,
        upper=upper,
        integral=integral,
        matrix=matrix.built(columns),
        row_lower=np.array(matrix.lower),
        row_upper=np.array(matrix.upper),
        rows=rows,
        unserved=unserved,
        instances=instances,
        short=short,
        up=up,
        down=down,
        theta=theta,
        cost_per_hour=cost,
        tied=tied,
        unserved_of=unserved_of,
    )


def _flow_rows(
    matrix: _Matrix,
    problem: Problem,
    coefficients: Coefficients,
    pairs: Sequence[Pair],
    unserved_of: Sequence[slice],
    theta: int,
) -> slice:
    """Σ_i x + u - θ λ w = 0 for each decode pool and bucket."""
    start_of = []
    for position, (pool, buckets) in enumerate(zip(problem.decode_pools, coefficients.buckets, strict=True)):
        start = len(matrix.lower)
        start_of.append(start)
        for _ in buckets:
            matrix.row(0.0, 0.0)
        own = np.arange(start, start + len(buckets))
        matrix.put(own, _range(unserved_of[position]), 1.0)
        matrix.put(own, theta, [-pool.arrivals_per_second * bucket.share for bucket in buckets])
    for pair in pairs:
        start = start_of[pair.decode]
        matrix.put(np.arange(start, start + len(pair.seconds)), _range(pair.columns), 1.0)
    return slice(0, len(matrix.lower))


def _capacity_rows(
    matrix: _Matrix, problem: Problem, pairs: Sequence[Pair], instances: slice, limits: Limits
) -> tuple[slice, slice, slice]:
    """Eq. 3 to 5: busy prefill instances, busy decode instances, gigabits per second of each link."""
    prefill_from = len(matrix.lower)
    for position in range(len(problem.prefill_pools)):
        row = matrix.row(-np.inf, 0.0)
        matrix.put(row, instances.start + position, -limits.utilisation[position])
    decode_from = len(matrix.lower)
    for position, pool in enumerate(problem.decode_pools):
        row = matrix.row(-np.inf, 0.0)
        matrix.put(row, instances.start + len(problem.prefill_pools) + position, -pool.utilisation_max)
    links_from = len(matrix.lower)
    for link in problem.links:
        matrix.row(-np.inf, link.usable_bits_per_second / GIGA)
    decode_of = dict(_tied(problem))
    for pair in pairs:
        own = _range(pair.columns)
        matrix.put(prefill_from + pair.prefill, own, pair.seconds)
        if pair.prefill in decode_of:
            shared = decode_of[pair.prefill] - len(problem.prefill_pools)
            matrix.put(decode_from + shared, own, pair.seconds)
        per_request = 1 / problem.decode_pools[pair.decode].decode.requests_per_second
        matrix.put(decode_from + pair.decode, own, per_request)
        for position in pair.links:
            matrix.put(links_from + position, own, pair.wire_bits / GIGA)
    return (
        slice(prefill_from, decode_from),
        slice(decode_from, links_from),
        slice(links_from, len(matrix.lower)),
    )


def _tied(problem: Problem) -> tuple[tuple[int, int], ...]:
    decode_at = {pool.name: index for index, pool in enumerate(problem.decode_pools)}
    return tuple(
        (index, len(problem.prefill_pools) + decode_at[pool.instances_of])
        for index, pool in enumerate(problem.prefill_pools)
        if pool.instances_of is not None
    )


def _quota_rows(
    matrix: _Matrix, problem: Problem, pools: Sequence[PrefillPool | DecodePool], instances: slice
) -> slice:
    start = len(matrix.lower)
    for quota in problem.quotas:
        row = matrix.row(-np.inf, quota.accelerators)
        for position, pool in enumerate(pools):
            if pool.name in quota.pools:
                matrix.put(row, instances.start + position, float(pool.instances.accelerators_each))
    return slice(start, len(matrix.lower))


def _threshold_rows(matrix: _Matrix, coefficients: Coefficients, pairs: Sequence[Pair]) -> None:
    """The remote share of a bucket is at least that of the next shorter one."""
    remote: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.links:
            remote.setdefault(pair.decode, []).append(pair)
    for decode, its_pairs in sorted(remote.items()):
        weights = np.array([bucket.share for bucket in coefficients.buckets[decode]])
        rows = np.array([matrix.row(-np.inf, 0.0) for _ in weights[1:]], dtype=int)
        if not len(rows):
            continue
        for pair in its_pairs:
            own = _range(pair.columns)
            matrix.put(rows, own[:-1], 1 / weights[:-1])
            matrix.put(rows, own[1:], -1 / weights[1:])


def _range(columns: slice) -> npt.NDArray[np.int_]:
    return np.arange(columns.start, columns.stop)
