"""The next step of a rollout, in whole numbers, from what is there now.

Let N be the instances wanted, U `maxUnavailable`, S `maxSurge`. Two bounds hold at every step:

    ready  >= N - U      pods that are ready are taken away only above this
    exists <= N + S      pods that end still hold their accelerators and count, so none is assumed to be spare

Two pools that a route joins and that both roll keep level, so that both generations of KV have both sides: a
pool whose partner has r of its R instances ready in the new revision may have at most floor(r * N / R) +
max(1, U + S) instances of its own new revision. The side that lags may always move, so the two cannot wait
for each other.

The step is a function of counts alone and remembers nothing: an operator that was away, or a spec that
changed half way, needs no special case. A rollback is a rollout whose new revision happens to exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class RevisionCount:
    """One revision's instances.

    Attributes:
        replicas: what its Deployment is set to.
        pods: those that exist and do not end.
        ready: those of `pods` that are ready.
        broken: those of `pods` that are not ready and are not expected to become so soon.
    """

    name: str
    replicas: int
    pods: int
    ready: int
    broken: int = 0

    @property
    def present(self) -> int:
        """Instances that hold, or will soon hold, accelerators: caches may lag behind what was just set."""
        return max(self.replicas, self.pods)

    @property
    def surely_ready(self) -> int:
        """Ready ones that the Deployment will keep."""
        return min(self.replicas, self.ready)


@dataclass(frozen=True, slots=True)
class Partner:
    """A pool at the other end of a route that is rolling as well."""

    name: str
    desired: int
    new_ready: int


class Trouble(StrEnum):
    """What is wrong with the new revision's instances."""

    NONE = "None"
    NO_CAPACITY = "NoCapacity"
    """One waits for a node or a quota: another would wait too."""
    FAILING = "Failing"
    """One cannot start: the old revision stays as it is."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A pool's instances.

    Attributes:
        old: other revisions, oldest first.
        ending: pods that are being deleted, of all revisions.
    """

    desired: int
    max_unavailable: int
    max_surge: int
    new: RevisionCount
    old: tuple[RevisionCount, ...] = ()
    ending: int = 0
    trouble: Trouble = Trouble.NONE
    partners: tuple[Partner, ...] = ()

    @property
    def rolling(self) -> bool:
        return any(each.present for each in self.old)

    @property
    def ready(self) -> int:
        return self.new.surely_ready + sum(each.surely_ready for each in self.old)


class Wait(StrEnum):
    """Why a step goes no further."""

    NOTHING = "Nothing"
    NEW_NOT_READY = "NewNotReady"
    ENDING = "Ending"
    PARTNER = "Partner"
    NO_CAPACITY = "NoCapacity"
    FAILING = "Failing"


@dataclass(frozen=True, slots=True)
class Step:
    """What each Deployment is to be set to next, and what has to happen before more can be done."""

    new: int
    old: tuple[int, ...]
    waits_for: Wait = Wait.NOTHING
    partner: str = ""


def next_step(fleet: Fleet) -> Step:
    """The furthest that may be gone now."""
    if not fleet.rolling:
        return _scale(fleet)
    goal, partner = _goal_of_new(fleet)
    old = _old_after_removal(fleet, goal)
    new = _new_after_raise(fleet, goal)
    return Step(new, old, _waits_for(fleet, goal, new, partner), partner)


def _scale(fleet: Fleet) -> Step:
    """One revision only: it gets what is wanted, but nothing is added to what cannot start."""
    old = (0,) * len(fleet.old)
    if fleet.trouble is Trouble.NO_CAPACITY and fleet.desired > fleet.new.replicas:
        return Step(fleet.new.replicas, old, Wait.NO_CAPACITY)
    # What ends may be the last of an old revision.
    room = fleet.desired + fleet.max_surge - fleet.new.present - fleet.ending
    new = min(fleet.desired, fleet.new.replicas + max(0, room))
    return Step(new, old, Wait.ENDING if new < fleet.desired else Wait.NOTHING)


def _goal_of_new(fleet: Fleet) -> tuple[int, str]:
    """How many instances of the new revision may exist now, and the partner that holds it there, if one
    does.
    """
    stride = max(1, fleet.max_unavailable + fleet.max_surge)
    goal, holding = fleet.desired, ""
    for partner in fleet.partners:
        if partner.desired == 0:
            continue
        level = partner.new_ready * fleet.desired // partner.desired + stride
        if level < goal:
            goal, holding = level, partner.name
    if fleet.trouble is not Trouble.NONE and fleet.new.replicas < goal:
        goal, holding = fleet.new.replicas, ""
    # What is there already is not taken back because a partner lost an instance.
    return max(goal, min(fleet.new.replicas, fleet.desired)), holding


def _old_after_removal(fleet: Fleet, goal: int) -> tuple[int, ...]:
    total = sum(each.replicas for each in fleet.old)
    new = min(fleet.new.replicas, fleet.desired)
    keep = total if fleet.trouble is Trouble.FAILING else fleet.desired - goal
    keep = max(0, min(keep, fleet.desired + fleet.max_surge - new))
    remove = max(0, total - keep)
    replicas = [each.replicas for each in fleet.old]
    remaining = [each.surely_ready for each in fleet.old]
    for index, each in enumerate(fleet.old):
        # Broken pods, and places that no pod fills, cost nobody anything.
        free = min(remove, each.broken + max(0, each.replicas - each.pods), each.replicas)
        replicas[index] -= free
        remove -= free
    spare = max(0, fleet.ready - (fleet.desired - _unavailable(fleet)))
    for index in range(len(fleet.old)):
        taken = min(remove, spare, remaining[index], replicas[index])
        replicas[index] -= taken
        remove -= taken
        spare -= taken
    return tuple(replicas)


def _unavailable(fleet: Fleet) -> int:
    """The API refuses 0 for both bounds; an object that was stored regardless is rolled one by one."""
    return fleet.max_unavailable if fleet.max_unavailable or fleet.max_surge else 1


def _new_after_raise(fleet: Fleet, goal: int) -> int:
    if fleet.new.replicas > fleet.desired:
        return max(fleet.desired, goal)
    present = fleet.new.present + sum(each.present for each in fleet.old) + fleet.ending
    room = fleet.desired + fleet.max_surge - present
    return fleet.new.replicas + max(0, min(room, goal - fleet.new.replicas))


def _waits_for(fleet: Fleet, goal: int, new: int, partner: str) -> Wait:
    if fleet.trouble is Trouble.FAILING:
        return Wait.FAILING
    if fleet.trouble is Trouble.NO_CAPACITY:
        return Wait.NO_CAPACITY
    if fleet.ending and new < goal:
        return Wait.ENDING
    if fleet.new.ready < new:
        return Wait.NEW_NOT_READY
    if partner and new >= goal:
        return Wait.PARTNER
    return Wait.NOTHING
