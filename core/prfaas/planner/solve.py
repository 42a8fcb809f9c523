"""Solve a model by HiGHS, first goal first, within a bound of time; every answer says how far it may be off.

Each stage optimises one objective and hands the next one a row that keeps what was reached. When the search
for whole instances does not end in time, its best plan counts; when it found none, the relaxation is rounded.
The bound that HiGHS or the relaxation proved gives the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from prfaas.planner.model import Floats, Model

_KEEP_SLACK = 1e-6
_WHOLE = 1e-6
_LEAST_SECONDS = 0.05
# What the two searches of a large model get of the time that is left; the rest is for flows and duals.
_NEAR_SHARE = 0.35
_WHOLE_SHARE = 0.5
_OPTIMAL, _LIMIT = 0, 1


class PlanTimeoutError(Exception):
    """No plan was found in time. Retryable with more; until then the previous plan is in force."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage reached: to be minimised.

    Attributes:
        value: of the objective.
        bound: no plan can be below it.
    """

    value: float
    bound: float

    @property
    def gap(self) -> float:
        """Relative distance between the two, 0 when proven best."""
        return self.gap_of(max(abs(self.value), 1e-9))

    def gap_of(self, scale: float) -> float:
        """The distance between the two as a share of `scale`, at most 1."""
        difference = max(0.0, self.value - self.bound)
        return 0.0 if difference <= 1e-7 * max(1.0, scale) else min(1.0, difference / scale)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A linear programme's solution with its duals: change of the objective per unit of each row's bound."""

    values: Floats
    objective: float
    row_duals: Floats
    upper_duals: Floats


@dataclass
class Solver:
    """The stages of one model.

    `remaining_seconds` is asked before each step, so that the steps together keep within the caller's time.
    """

    model: Model
    gap: float
    remaining_seconds: Callable[[], float]

    def __post_init__(self) -> None:
        self.relaxation_seconds = 0.0
        """What the last relaxation took, as a forecast of the next."""
        self._kept_rows: list[tuple[Floats, float]] = []
        self._lower = self.model.lower.copy()
        self._upper = self.model.upper.copy()

    def fix(self, columns: slice, values: Floats) -> None:
        """Allow only these values from now on."""
        self._lower[columns] = values
        self._upper[columns] = values

    def keep(self, objective: Floats, value: float) -> None:
        """Stay within rounding of a value that a stage reached."""
        self._kept_rows.append((objective, value + _KEEP_SLACK * max(1.0, abs(value))))

    def minimise(self, objective: Floats, *, share_of_time: float) -> tuple[Floats, Stage] | None:
        """The best whole solution that the time allows; None when there was no time to find any.

        Raises:
            InfeasibleError: there is no solution, whatever the time.
        """
        seconds = self.remaining_seconds() * share_of_time
        if seconds <= 0:
            return None
        found = self._search(objective, seconds)
        if found is not None:
            values, bound = found
            return values, Stage(float(objective @ values), bound)
        relaxed = self.relax(objective, seconds=self.remaining_seconds())
        rounded = None if relaxed is None else self._rounded(objective, relaxed.values)
        if relaxed is None or rounded is None:
            return None
        return rounded, Stage(float(objective @ rounded), relaxed.objective)

    def minimise_near(self, objective: Floats, relaxed: Relaxation) -> tuple[Floats, Stage] | None:
        """First a solution near a relaxation, then what a search of the whole still improves.

        The first search may use only the pairs that the relaxation uses, and instances up to the next whole
        number above the relaxation's: a small part of the columns, so that an answer is there early. The
        second one also raises the bound.
        """
        everywhere = self._lower.copy(), self._upper.copy()
        own = self.model.instances
        for pair in self.model.pairs:
            if relaxed.values[pair.columns].max() <= _WHOLE:
                self._upper[pair.columns] = 0.0
        self._lower[own] = np.maximum(self._lower[own], np.floor(relaxed.values[own] + _WHOLE))
        self._upper[own] = np.minimum(self._upper[own], np.ceil(relaxed.values[own] - _WHOLE))
        candidates = [self._rounded(objective, relaxed.values)]
        try:
            near = self._search(objective, self.remaining_seconds() * _NEAR_SHARE)
        except InfeasibleError:  # The next whole numbers break a minimum that the relaxation met in part.
            near = None
        candidates.append(near[0] if near else None)
        self._lower, self._upper = everywhere
        bound = relaxed.objective
        best = _best(objective, candidates)
        if best is None or Stage(float(objective @ best), bound).gap > self.gap:
            whole = self._search(
                objective, self.remaining_seconds() * _WHOLE_SHARE - 2 * self.relaxation_seconds
            )
            if whole is not None:
                bound = max(bound, whole[1])
                best = _best(objective, [best, whole[0]])
        return None if best is None else (best, Stage(float(objective @ best), bound))

    def relax(self, objective: Floats, *, seconds: float, fixed: Floats | None = None) -> Relaxation | None:
        """The same with fractions of instances, or with `fixed` instances; None when not solved in time.

        Raises:
            InfeasibleError: there is no solution, whatever the time.
        """
        if seconds <= self.relaxation_seconds:
            return None
        begun = self.remaining_seconds()
        lower, upper = self._lower, self._upper
        if fixed is not None:
            lower, upper = lower.copy(), upper.copy()
            lower[self.model.instances] = upper[self.model.instances] = fixed
        matrix, row_lower, row_upper = self._rows()
        equal = row_lower == row_upper
        at_most = ~equal & np.isfinite(row_upper)
        at_least = ~equal & np.isfinite(row_lower)
        below = sparse.vstack([matrix[at_most], -matrix[at_least]], format="csr")
        answer = linprog(
            objective,
            A_ub=below if below.shape[0] else None,
            b_ub=np.concatenate([row_upper[at_most], -row_lower[at_least]]) if below.shape[0] else None,
            A_eq=matrix[equal],
            b_eq=row_lower[equal],
            bounds=np.column_stack([lower, upper]),
            method="highs",
            options={"time_limit": max(_LEAST_SECONDS, seconds), "presolve": True},
        )
        self.relaxation_seconds = begun - self.remaining_seconds()
        if answer.status == 2:
            raise InfeasibleError(answer.message)
        if answer.status != _OPTIMAL:
            return None
        duals = np.zeros(len(row_lower))
        duals[equal] = answer.eqlin.marginals
        split = int(at_most.sum())
        if below.shape[0]:
            duals[at_most] = answer.ineqlin.marginals[:split]
            duals[at_least] -= answer.ineqlin.marginals[split:]
        return Relaxation(answer.x, float(answer.fun), duals, answer.upper.marginals)

    def _search(self, objective: Floats, seconds: float) -> tuple[Floats, float] | None:
        """The best whole solution found and the bound proven; None when none was found in time."""
        if seconds <= 0:
            return None
        matrix, row_lower, row_upper = self._rows()
        answer = milp(
            objective,
            integrality=self.model.integral,
            bounds=Bounds(self._lower, self._upper),
            constraints=LinearConstraint(matrix, row_lower, row_upper),
            options={"time_limit": max(_LEAST_SECONDS, seconds), "mip_rel_gap": self.gap, "presolve": True},
        )
        if answer.status == 2:
            raise InfeasibleError(answer.message)
        if answer.x is None or answer.status not in (_OPTIMAL, _LIMIT):
            return None
        values = np.asarray(answer.x, dtype=float)
        own = self.model.instances
        values[own] = np.round(values[own])
        bound = answer.mip_dual_bound
        return values, float(answer.fun if bound is None else bound)

    def _rounded(self, objective: Floats, relaxed: Floats) -> Floats | None:
        """Whole instances near the relaxation's, upwards where quotas permit, and the best flows for them."""
        model = self.model
        own = model.instances
        wanted = relaxed[own]
        sizes = np.floor(wanted + _WHOLE)
        quotas = model.matrix[model.rows.quotas][:, own]
        free = model.row_upper[model.rows.quotas] - quotas @ sizes
        for position in np.argsort(-(wanted - sizes), kind="stable"):
            if wanted[position] - sizes[position] <= _WHOLE or sizes[position] >= self._upper[own][position]:
                continue
            takes = quotas[:, [position]].toarray().ravel()
            if (free - takes >= -_WHOLE).all():
                sizes[position] += 1
                free = free - takes
        for prefill, decode in model.tied:
            sizes[prefill] = sizes[decode]
        try:
            solved = self.relax(objective, seconds=self.remaining_seconds(), fixed=sizes)
        except InfeasibleError:
            return None
        return None if solved is None else solved.values

    def _rows(self) -> tuple[sparse.csr_array, Floats, Floats]:
        model = self.model
        if not self._kept_rows:
            return model.matrix, model.row_lower, model.row_upper
        kept = sparse.csr_array(np.array([row for row, _ in self._kept_rows]))
        return (
            sparse.csr_array(sparse.vstack([model.matrix, kept], format="csr")),
            np.concatenate([model.row_lower, np.full(len(self._kept_rows), -np.inf)]),
            np.concatenate([model.row_upper, [value for _, value in self._kept_rows]]),
        )


def _best(objective: Floats, candidates: list[Floats | None]) -> Floats | None:
    found = [values for values in candidates if values is not None]
    return min(found, key=lambda values: float(objective @ values), default=None)


class InfeasibleError(Exception):
    """The rows contradict each other."""
