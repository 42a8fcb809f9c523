"""What can be wrong with an input of the capacity model or of the planner: which field, and what to do."""

from __future__ import annotations

import math


class InvalidInputError(ValueError):
    """An input that no capacity can be computed from. The caller's fault; the same input fails again.

    Attributes:
        field: path of the field, such as `links[eu-us].bits_per_second`.
        problem: what is wrong with it, with the offending value.
        remedy: what to write instead.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def inside(self, outer: str) -> InvalidInputError:
        """The same error, seen from the value that contains the field."""
        return InvalidInputError(f"{outer}.{self.field}", self.problem, self.remedy)


class LengthBeyondProfileError(InvalidInputError):
    """A length that a profile was not measured for, in a profile that may not be continued."""


def require_positive(field: str, value: float) -> float:
    """The value itself; InvalidInputError unless it is finite and greater than zero."""
    if not (math.isfinite(value) and value > 0):
        raise InvalidInputError(field, f"is {value}", "give a finite number greater than 0")
    return value


def require_not_negative(field: str, value: float) -> float:
    """The value itself; InvalidInputError unless it is finite and at least zero."""
    if not (math.isfinite(value) and value >= 0):
        raise InvalidInputError(field, f"is {value}", "give a finite number of at least 0")
    return value


def require_share(field: str, value: float) -> float:
    """The value itself; InvalidInputError unless it is between 0 and 1, both included."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise InvalidInputError(field, f"is {value}", "give a share between 0 and 1")
    return value
