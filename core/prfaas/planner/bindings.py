"""Which constraint binds, what one unit more of it would be worth, and a sentence that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prfaas.planner.model import Floats, Model
from prfaas.planner.plan import Binding, BindingKind
from prfaas.planner.problem import DecodePool, PrefillPool
from prfaas.planner.solve import Relaxation

_LEAST_GAIN = 1e-6
_FULL_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class ThresholdShift:
    """How a link that binds has moved a decode pool's threshold."""

    decode_pool: str
    from_tokens: float
    to_tokens: float

    def words(self) -> str:
        """ "t of chat raised from 19.4K to 25.4K tokens"."""
        verb = "raised" if self.to_tokens > self.from_tokens else "lowered"
        return (
            f"t of {self.decode_pool} {verb} from {kilo(self.from_tokens)} to {kilo(self.to_tokens)} tokens"
        )


def kilo(tokens: float) -> str:
    """A number of tokens in words."""
    if tokens == float("inf"):
        return "all"
    return f"{tokens / 1000:.1f}K" if tokens >= 1000 else f"{tokens:.0f}"


def of_throughput(model: Model, values: Floats, duals: Relaxation, *, per_objective: float) -> list[Binding]:
    """With the instances fixed: what limits how much is served. Prices in requests per second.

    `per_objective` is requests per second for one unit of the minimised objective.
    """
    problem, rows = model.problem, model.rows
    used = model.matrix @ values
    found: list[tuple[float, Binding]] = []
    for position, link in enumerate(problem.links):
        row = rows.links.start + position
        gain = -float(duals.row_duals[row]) * per_objective * link.utilisation_max
        found += _kept(gain, model.row_upper[row], _link(model, position, used[row], gain, "requests/s"))
    groups: list[tuple[int, PrefillPool | DecodePool, BindingKind, int]] = [
        (rows.prefill.start + position, pool, BindingKind.PREFILL, position)
        for position, pool in enumerate(problem.prefill_pools)
    ]
    groups += [
        (rows.decode.start + position, pool, BindingKind.DECODE, len(problem.prefill_pools) + position)
        for position, pool in enumerate(problem.decode_pools)
    ]
    for row, pool, kind, column in groups:
        size = float(values[model.instances.start + column])
        own = -float(model.matrix[[row], [model.instances.start + column]].item())
        gain = -float(duals.row_duals[row]) * per_objective * own
        verb = "prefill" if kind is BindingKind.PREFILL else "decode"
        if any(each.instances_of == pool.name for each in problem.prefill_pools):
            verb = "prefill and decode"
        busy = float(used[row] / own + size)
        binding = Binding(
            kind,
            pool.name,
            busy,
            size,
            "instances",
            gain,
            "requests/s",
            f"{verb} in {pool.name} binds: {_count(size)} full{_why_no_more(model, values, pool)}; "
            f"one more would serve {gain:.2g} requests/s more",
        )
        found += _kept(gain, max(size, 1.0), binding)
    return _ordered(found)


def of_cost(model: Model, values: Floats, duals: Relaxation) -> list[Binding]:
    """With all demand served: what makes the plan dearer. Prices per hour."""
    problem, rows = model.problem, model.rows
    used = model.matrix @ values
    found: list[tuple[float, Binding]] = []
    for position, link in enumerate(problem.links):
        row = rows.links.start + position
        gain = -float(duals.row_duals[row]) * link.utilisation_max
        found += _kept(gain, model.row_upper[row], _link(model, position, used[row], gain, "per hour"))
    for position, quota in enumerate(problem.quotas):
        row = rows.quotas.start + position
        gain = -float(duals.row_duals[row])
        sentence = (
            f"quota {quota.name} binds at {used[row]:g} of {quota.accelerators:g} accelerators: "
            f"one more would save {gain:.3g} per hour"
        )
        found += _kept(
            gain,
            quota.accelerators,
            Binding(
                BindingKind.QUOTA,
                quota.name,
                float(used[row]),
                quota.accelerators,
                "accelerators",
                gain,
                "per hour",
                sentence,
            ),
        )
    for position, pool in enumerate(problem.pools):
        size = float(values[model.instances.start + position])
        most = float(pool.instances.most)
        gain = -float(duals.upper_duals[model.instances.start + position])
        sentence = (
            f"{pool.name} may have no more than {_count(most)}{_why_no_more(model, values, pool)}: "
            f"one more would save {gain:.3g} per hour"
        )
        found += _kept(
            gain,
            max(most, 1.0),
            Binding(BindingKind.MAXIMUM, pool.name, size, most, "instances", gain, "per hour", sentence),
        )
    with_minimum = [pool for pool in problem.pools if pool.instances.minimum]
    for row, pool in enumerate(with_minimum, start=rows.minimum.start):
        gain = float(duals.row_duals[row])
        least = float(pool.instances.minimum)
        sentence = (
            f"the minimum of {pool.name} binds at {_count(least)}: one less would save {gain:.3g} per hour"
        )
        found += _kept(
            gain,
            least,
            Binding(BindingKind.MINIMUM, pool.name, least, least, "instances", gain, "per hour", sentence),
        )
    return _ordered(found)


def with_shift(binding: Binding, shift: ThresholdShift | None) -> Binding:
    """The link's sentence with what it has done to a threshold."""
    if shift is None:
        return binding
    head, _, tail = binding.sentence.partition(": ")
    return Binding(
        binding.kind,
        binding.name,
        binding.used,
        binding.limit,
        binding.unit,
        binding.shadow_price,
        binding.price_unit,
        f"{head}: {shift.words()}; {tail}",
    )


def _link(model: Model, position: int, used: float, gain: float, unit: str) -> Binding:
    link = model.problem.links[position]
    limit = link.usable_bits_per_second / 1e9
    worth = f"serve {gain:.2g} requests/s more" if unit == "requests/s" else f"save {gain:.3g} per hour"
    # In whole instances a link that the relaxation fills may stay a little below its limit.
    verb = "binds" if used >= _FULL_SHARE * limit else "binds, but for whole instances,"
    sentence = (
        f"egress {link.source_cluster} to {link.target_cluster} {verb} at {used:.3g} of "
        f"{link.bits_per_second / 1e9:.3g} Gbit/s: 1 Gbit/s more would {worth}"
    )
    return Binding(BindingKind.LINK, link.name, float(used), limit, "Gbit/s", float(gain), unit, sentence)


def _why_no_more(model: Model, values: Floats, pool: PrefillPool | DecodePool) -> str:
    pools = model.problem.pools
    own = next(position for position, each in enumerate(pools) if each.name == pool.name)
    size = values[model.instances.start + own]
    limits = pool.instances
    if size >= limits.most - 1e-6:
        return f" (only {limits.most} can be had now)" if limits.most < limits.maximum else " (its maximum)"
    sizes = values[model.instances]
    tight = [
        quota.name
        for quota in model.problem.quotas
        if pool.name in quota.pools
        and sum(
            size * each.instances.accelerators_each
            for size, each in zip(sizes, pools, strict=True)
            if each.name in quota.pools
        )
        + limits.accelerators_each
        > quota.accelerators + 1e-6
    ]
    return f" (quota {tight[0]})" if tight else ""


def _kept(gain: float, limit: float, binding: Binding) -> list[tuple[float, Binding]]:
    return [(float(gain * limit), binding)] if gain > _LEAST_GAIN and np.isfinite(gain) else []


def _ordered(found: list[tuple[float, Binding]]) -> list[Binding]:
    """By what one percent more would gain; names decide between equals."""
    return [
        binding
        for _, binding in sorted(found, key=lambda item: (-round(item[0], 9), item[1].kind, item[1].name))
    ]


def _count(size: float) -> str:
    return f"{size:g} instance" if size == 1 else f"{size:g} instances"


def thresholds_moved(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> ThresholdShift | None:
    """The largest shift between plans without and with a limit; None when no threshold has moved by 1 %."""
    shifts = [
        ThresholdShift(name, old, new)
        for name, new in sorted(after.items())
        if new is not None and (old := before.get(name)) is not None
        if abs(new - old) > 0.01 * max(min(new, old), 1.0)
    ]
    return max(shifts, key=lambda shift: abs(shift.to_tokens - shift.from_tokens), default=None)
