"""Folds the step function over a cluster of counts: ReplicaSets that follow, pods that start, end and
break.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prfaas_operator.planning.rollout import Fleet, Partner, RevisionCount, Step, Trouble, next_step


@dataclass
class Revision:
    replicas: int = 0
    ready: int = 0
    starting: int = 0
    broken: int = 0
    never_ready: bool = False

    @property
    def pods(self) -> int:
        return self.ready + self.starting + self.broken


@dataclass
class Pool:
    """One pool; `new` is the newest name in `revisions`."""

    name: str
    desired: int
    max_unavailable: int = 1
    max_surge: int = 0
    revisions: dict[str, Revision] = field(default_factory=dict)
    new: str = "new"
    ending: int = 0
    accelerators: int | None = None

    def count(self, name: str) -> RevisionCount:
        each = self.revisions.setdefault(name, Revision())
        return RevisionCount(name, each.replicas, each.pods, each.ready, each.broken)

    @property
    def old_names(self) -> list[str]:
        return [name for name in self.revisions if name != self.new]

    @property
    def ready(self) -> int:
        return sum(each.ready for each in self.revisions.values())

    @property
    def existing(self) -> int:
        return self.ending + sum(max(each.pods, each.replicas) for each in self.revisions.values())

    def fleet(self, partners: list[Pool]) -> Fleet:
        newest = self.revisions.setdefault(self.new, Revision())
        return Fleet(
            desired=self.desired,
            max_unavailable=self.max_unavailable,
            max_surge=self.max_surge,
            new=self.count(self.new),
            old=tuple(self.count(name) for name in self.old_names),
            ending=self.ending,
            trouble=Trouble.FAILING if newest.broken else Trouble.NONE,
            partners=tuple(
                Partner(each.name, each.desired, each.revisions.setdefault(each.new, Revision()).ready)
                for each in partners
                if each.fleet([]).rolling
            ),
        )

    def plan(self, partners: list[Pool]) -> Step:
        step = next_step(self.fleet(partners))
        self.revisions[self.new].replicas = step.new
        for name, replicas in zip(self.old_names, step.old, strict=True):
            self.revisions[name].replicas = replicas
        return step

    # What the cluster does by itself, one small thing at a time.

    def follow(self) -> bool:
        """The ReplicaSet controller makes or deletes one pod, in its own order."""
        for each in self.revisions.values():
            if each.pods > each.replicas:
                if each.broken:
                    each.broken -= 1
                elif each.starting:
                    each.starting -= 1
                else:
                    each.ready -= 1
                self.ending += 1
                return True
            if each.pods < each.replicas:
                each.starting += 1
                return True
        return False

    def end_one(self) -> bool:
        if not self.ending:
            return False
        self.ending -= 1
        return True

    def start_one(self) -> bool:
        held = self.ending + sum(each.ready + each.broken for each in self.revisions.values())
        if self.accelerators is not None and held >= self.accelerators:
            return False
        for each in self.revisions.values():
            if each.starting:
                each.starting -= 1
                if each.never_ready:
                    each.broken += 1
                else:
                    each.ready += 1
                return True
        return False

    @property
    def moves(self) -> list[Callable[[], bool]]:
        return [self.follow, self.end_one, self.start_one]


def settle(pools: list[Pool], check: Callable[[], None], *, limit: int = 5000) -> int:
    """Let pools and cluster go on until nothing moves. Returns the number of rounds.

    Raises:
        AssertionError: still moving after `limit` rounds.
    """
    for round_ in range(limit):
        moved = False
        for pool in pools:
            before = {name: replace(each) for name, each in pool.revisions.items()}
            pool.plan([other for other in pools if other is not pool])
            moved |= before != pool.revisions
            check()
            for move in pool.moves:
                moved |= move()
                check()
        if not moved:
            return round_
    raise AssertionError(f"still moving after {limit} rounds: {pools}")
