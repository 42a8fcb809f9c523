"""The actions that bring a pool's Deployments to the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from prfaas_operator.planning.actions import Action, ApplyChild, DeleteChild, MarkPods, PodMark, ScaleChild
from prfaas_operator.planning.children import deployment
from prfaas_operator.planning.diagnosis import is_rejected
from prfaas_operator.planning.drain import plan_drain
from prfaas_operator.planning.pods import failure_of, is_alive, is_broken, is_ending
from prfaas_operator.planning.revision import Target
from prfaas_operator.planning.rollout import Fleet, Partner, RevisionCount, Step, Trouble, Wait, next_step
from prfaas_operator.planning.values import ChildKind, ObservedDeployment, ObservedPod, ObservedPool

REVISIONS_KEPT = 3
"""Old revisions at 0 instances that stay for a rollback."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done about the Deployments.

    Attributes:
        rolling: pods of another revision than the target exist.
        waits_for, partner: what the rollout waits for.
        look_again_seconds: for the end of a drain's first part.
    """

    actions: tuple[Action, ...] = ()
    rolling: bool = False
    waits_for: Wait = Wait.NOTHING
    partner: str = ""
    look_again_seconds: float | None = None


def alive_by_revision(pool: ObservedPool) -> Mapping[str, list[ObservedPod]]:
    """Pods that count, by revision."""
    pods: dict[str, list[ObservedPod]] = {}
    for pod in pool.pods:
        if is_alive(pod):
            pods.setdefault(pod.revision, []).append(pod)
    return pods


def plan_work(
    pool: ObservedPool,
    target: Target,
    *,
    desired: int,
    max_unavailable: int,
    max_surge: int,
    lacks_capacity: bool,
    now: datetime,
) -> Work:
    """The next step towards the target revision, which can be made and whose references are there."""
    if target.revision is None or (target.deployment is not None and target.deployment.deleted):
        return Work()
    pods = alive_by_revision(pool)
    newest = target.deployment
    others = _others(pool, target.revision)
    trouble = Trouble.NO_CAPACITY if lacks_capacity else Trouble.NONE
    rejected = newest is not None and is_rejected(newest)
    if rejected or any(failure_of(pod) for pod in pods.get(target.revision, ())):
        trouble = Trouble.FAILING
    fleet = Fleet(
        desired=desired,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        new=_count(target.revision, newest, pods.get(target.revision, ()), now),
        old=tuple(_count(each.revision, each, pods.get(each.revision, ()), now) for each in others),
        ending=sum(is_ending(pod, now) for pod in pool.pods) + _orphans(pods, target.revision, others),
        trouble=trouble,
        partners=tuple(
            Partner(str(each.key), each.desired, each.new_ready)
            for each in pool.partners
            if each.rolling and each.key.kind != pool.key.kind
        ),
    )
    step = next_step(fleet)
    actions: list[Action] = []
    targets: list[tuple[ObservedDeployment, int]] = list(zip(others, step.old, strict=True))
    if target.injected is not None:
        replicas = step.new if newest is None else newest.replicas
        actions.append(
            ApplyChild(
                ChildKind.DEPLOYMENT,
                deployment(pool, target.revision, target.injected, replicas),
                newest.resource_version if newest is not None else None,
                "a new revision"
                if newest is None
                else f"{newest.taken_over_by or 'somebody else'} changed it",
                drift=newest is not None,
            )
        )
    elif newest is not None:
        targets.append((newest, step.new))
    why = _why(fleet, step)
    sized, wait = _resize(targets, pods, why, now)
    actions += sized
    actions += _forget(others, pods)
    return Work(tuple(actions), fleet.rolling, step.waits_for, step.partner, wait)


def plan_frozen(pool: ObservedPool, *, desired: int, may_grow: bool, now: datetime) -> Work:
    """What runs goes on while the wanted revision cannot be made: one revision is scaled, several are left
    alone, but for pods that were about to end and serve again.
    """
    running = [each for each in _others(pool, None) if each.replicas]
    if len(running) != 1:
        stay = [(each, each.replicas) for each in running]
        actions, _ = _resize(stay, alive_by_revision(pool), "the rollout cannot go on", now)
        return Work(tuple(actions), rolling=len(running) > 1)
    only = running[0]
    replicas = desired if may_grow else min(desired, only.replicas)
    actions, wait = _resize([(only, replicas)], alive_by_revision(pool), "the pool's size changed", now)
    return Work(tuple(actions), look_again_seconds=wait)


def plan_refused(pool: ObservedPool, target: Target, *, desired: int, now: datetime) -> Work:
    """The API server has refused this revision: what runs is scaled all the same, and then it is tried again.

    Its first instances come with the next pass, when it is known that there can be any.
    """
    frozen = plan_frozen(pool, desired=desired, may_grow=True, now=now)
    if target.revision is None or target.injected is None:
        return frozen
    again = ApplyChild(
        ChildKind.DEPLOYMENT,
        deployment(pool, target.revision, target.injected, 0),
        None,
        "a new revision that was refused before",
    )
    return replace(frozen, actions=(*frozen.actions, again))


def _others(pool: ObservedPool, revision: str | None) -> list[ObservedDeployment]:
    """The pool's other Deployments, oldest first."""
    mine = [each for each in pool.deployments if each.ours and not each.deleted and each.revision != revision]
    return sorted(mine, key=lambda each: (each.created_at, each.name))


def _orphans(
    pods: Mapping[str, Sequence[ObservedPod]], revision: str, others: Sequence[ObservedDeployment]
) -> int:
    """Pods whose Deployment is gone or being deleted: the garbage collector ends them."""
    known = {revision, *(each.revision for each in others)}
    return sum(len(each) for name, each in pods.items() if name not in known)


def _count(
    revision: str, of: ObservedDeployment | None, pods: Sequence[ObservedPod], now: datetime
) -> RevisionCount:
    return RevisionCount(
        revision,
        replicas=of.replicas if of is not None else 0,
        pods=len(pods),
        ready=sum(pod.ready for pod in pods),
        broken=sum(is_broken(pod, now) for pod in pods),
    )


def _why(fleet: Fleet, step: Step) -> str:
    if not fleet.rolling:
        return f"the pool is to have {fleet.desired}"
    return f"rollout: {step.new} of {fleet.desired} instances in revision {fleet.new.name}"


def _resize(
    targets: Sequence[tuple[ObservedDeployment, int]],
    pods: Mapping[str, Sequence[ObservedPod]],
    why: str,
    now: datetime,
) -> tuple[list[Action], float | None]:
    """Marks, then what shrinks, then what grows."""
    marks: list[PodMark] = []
    shrinks: list[Action] = []
    grows: list[Action] = []
    waits: list[float] = []
    for each, replicas in targets:
        drain = plan_drain(pods.get(each.revision, ()), replicas, now)
        marks += drain.marks
        if replicas < each.replicas and not drain.may_shrink:
            waits.append(drain.wait_seconds or 0.0)
        elif replicas != each.replicas:
            scale = ScaleChild(each.name, each.uid, each.resource_version, each.replicas, replicas, why)
            (grows if replicas > each.replicas else shrinks).append(scale)
    marked: list[Action] = [MarkPods(tuple(marks), why)] if marks else []
    return [*marked, *shrinks, *grows], min(waits, default=None)


def _forget(others: Sequence[ObservedDeployment], pods: Mapping[str, Sequence[ObservedPod]]) -> list[Action]:
    """Old revisions without pods go, except for the youngest few."""
    idle = [each for each in others if each.replicas == 0 and not pods.get(each.revision)]
    return [
        DeleteChild(
            ChildKind.DEPLOYMENT, each.name, each.uid, each.resource_version, "an old revision without pods"
        )
        for each in idle[: max(0, len(idle) - REVISIONS_KEPT)]
    ]
