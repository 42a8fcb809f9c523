"""Plans that are made from what watches have brought so far, which lags behind the cluster by any amount."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_operator.planning.actions import ApplyChild, MarkPods, ScaleChild
from prfaas_operator.planning.drain import GATEWAYS_SEE_SECONDS
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.values import ObservedDeployment, ObservedPod
from tests.operator.planning.pool_world import SETTINGS, World, settled

EVERYTHING = 10_000


@dataclass
class Watch:
    """What one watch has brought: some version of the past, never an older one than before."""

    versions: list[dict[str, Any]]
    seen: int = 0

    def record(self, objects: dict[str, Any]) -> None:
        if objects != self.versions[-1]:
            self.versions.append(objects)

    def bring(self, count: int) -> None:
        self.seen = min(self.seen + count, len(self.versions) - 1)


@dataclass
class Lagging:
    """The cluster is `world`; a pass sees what two watches have brought, and the answers to own writes."""

    world: World
    deployments: Watch = field(init=False)
    pods: Watch = field(init=False)
    answers: dict[str, tuple[int, ObservedPod]] = field(default_factory=dict)
    scales: dict[str, tuple[int, ObservedDeployment]] = field(default_factory=dict)
    known_ready: set[str] = field(default_factory=set)
    killed_unmarked: list[str] = field(default_factory=list)
    waits: bool = False

    def __post_init__(self) -> None:
        self.deployments = Watch([self._deployments()])
        self.pods = Watch([self._pods()])

    def _deployments(self) -> dict[str, ObservedDeployment]:
        return {each.name: each for each in self.world.pool.deployments}

    def _pods(self) -> dict[str, ObservedPod]:
        return {each.name: each for each in self.world.pool.pods}

    def record(self) -> None:
        self.deployments.record(self._deployments())
        self.pods.record(self._pods())

    def _seen_deployments(self) -> Iterator[ObservedDeployment]:
        """What the watch has brought, or a newer answer to a scale."""
        for name, deployment in self.deployments.versions[self.deployments.seen].items():
            version, answer = self.scales.get(name, (-1, deployment))
            yield answer if version > self.deployments.seen else deployment

    def _seen_pods(self) -> Iterator[ObservedPod]:
        """What the watch has brought, or a newer answer to a mark."""
        for name, pod in self.pods.versions[self.pods.seen].items():
            version, answer = self.answers.get(name, (-1, pod))
            yield answer if version > self.pods.seen else pod

    def pass_(self) -> bool:
        """One pass of the operator; whether it did anything."""
        world = self.world
        view = replace(
            world.pool,
            deployments=tuple(self._seen_deployments()),
            pods=tuple(self._seen_pods()),
        )
        plan = plan_pool(view, SETTINGS, world.now, world.injector)
        for action in plan.actions:
            actual = self._deployments().get(getattr(action, "name", ""))
            guarded = isinstance(action, ApplyChild | ScaleChild) and actual is not None
            if guarded and action.resource_version != actual.resource_version:
                break
            world._carry_out(action)
            self.record()
            if isinstance(action, ScaleChild):
                version, after = len(self.deployments.versions) - 1, self._deployments()[action.name]
                self.scales[action.name] = (version, after)
            if isinstance(action, ScaleChild) and action.replicas < action.replicas_before:
                # Nobody can be told of one that has become ready unseen; its preStop waits for what runs.
                self.known_ready = {each.uid for each in view.pods if each.ready}
            if isinstance(action, MarkPods):
                version, there = len(self.pods.versions) - 1, self._pods()
                self.answers |= {
                    mark.name: (version, there[mark.name]) for mark in action.marks if mark.name in there
                }
            if isinstance(action, ApplyChild):
                self.deployments.bring(EVERYTHING)
        if plan.status is not None:
            world.pool = replace(world.pool, status=plan.status)
        soon = plan.requeue_after_seconds
        self.waits = soon is not None and soon < 3600
        return bool(plan.actions)

    def controllers(self) -> None:
        """The ReplicaSet controllers make and delete pods, by what is true."""
        world = self.world
        pods = list(world.pool.pods)
        for deployment in world.pool.deployments:
            mine = [
                each
                for each in pods
                if each.revision == deployment.revision and each.deletion_ends_at is None
            ]
            mine.sort(
                key=lambda each: (
                    bool(each.node),
                    each.ready,
                    each.drain_since is None,
                    -(each.ready_changed_at or each.created_at).timestamp(),
                )
            )
            for each in mine[: max(0, len(mine) - deployment.replicas)]:
                if each.uid in self.known_ready and not self._was_seen_to_drain(each):
                    self.killed_unmarked.append(each.name)
                ends = world.now + timedelta(seconds=150)
                pods[pods.index(each)] = replace(each, deletion_ends_at=ends)
            for _ in range(max(0, deployment.replicas - len(mine))):
                name = f"{deployment.name}-{next(world.ids):03}"
                pods.append(
                    ObservedPod(
                        name, f"uid-{name}", deployment.revision, world.now, node="n", phase="Running"
                    )
                )
        self._set(pods)

    def _was_seen_to_drain(self, pod: ObservedPod) -> bool:
        seen = timedelta(seconds=GATEWAYS_SEE_SECONDS)
        return pod.drain_since is not None and self.world.now - pod.drain_since >= seen

    def end(self, count: int) -> None:
        ending = [each for each in self.world.pool.pods if each.deletion_ends_at is not None][:count]
        self._set([each for each in self.world.pool.pods if each not in ending])

    def become_ready(self, count: int) -> None:
        loading = [each for each in self.world.pool.pods if not each.ready and each.deletion_ends_at is None]
        chosen = {each.uid for each in loading[:count]}
        self._set(
            [
                replace(each, ready=True, ready_changed_at=self.world.now) if each.uid in chosen else each
                for each in self.world.pool.pods
            ]
        )

    def _set(self, pods: list[ObservedPod]) -> None:
        self.world.pool = replace(self.world.pool, pods=tuple(pods))
        self.record()

    @property
    def ready(self) -> int:
        return self.world.ready

    @property
    def existing(self) -> int:
        return len(self.world.pool.pods)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["pass", "pass", "controllers", "end", "ready", "deployments", "pods", "wait"]),
        st.integers(1, 3),
    ),
    max_size=60,
)


def play(lagging: Lagging, moves: list[tuple[str, int]], bound: tuple[int, int]) -> None:
    least, most = bound
    for move, count in moves:
        match move:
            case "pass":
                lagging.pass_()
            case "controllers":
                lagging.controllers()
            case "end":
                lagging.end(count)
            case "ready":
                lagging.become_ready(count)
            case "deployments":
                lagging.deployments.bring(count)
            case "pods":
                lagging.pods.bring(count)
            case "wait":
                lagging.world.now += timedelta(seconds=count)
        assert lagging.ready >= least
        assert lagging.existing <= most
        assert lagging.killed_unmarked == []


def arrive(lagging: Lagging, bound: tuple[int, int]) -> None:
    """All that is on its way arrives, and the cluster does what it is told."""
    for _ in range(300):
        everything = [("deployments", EVERYTHING), ("pods", EVERYTHING)]
        play(lagging, everything, bound)
        before = lagging.world.pool.pods
        did = lagging.pass_()
        play(lagging, [("controllers", 1), ("end", EVERYTHING), ("ready", EVERYTHING), ("wait", 1)], bound)
        if not did and before == lagging.world.pool.pods and not lagging.waits:
            return
    raise AssertionError(f"still moving: {lagging.world.deployments()}")


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2), MOVES)
def test_a_rollout_keeps_its_bounds_whatever_has_not_been_seen_yet(
    replicas: int, unavailable: int, surge: int, moves: list[tuple[str, int]]
) -> None:
    if unavailable + surge == 0:
        surge = 1
    rollout = {"maxUnavailable": unavailable, "maxSurge": surge}
    world = settled(replicas=replicas, rollout=rollout)
    world.change(replicas=replicas, rollout=rollout, image="engine:2")
    lagging = Lagging(world)
    bound = (replicas - unavailable, replicas + surge)
    play(lagging, moves, bound)
    arrive(lagging, bound)
    assert world.deployments() == {"engine-1": 0, "engine-2": replicas}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 5), MOVES, MOVES)
def test_sizes_change_and_no_pod_ends_that_gateways_still_use(
    first: int, second: int, third: int, moves: list[tuple[str, int]], later: list[tuple[str, int]]
) -> None:
    world = settled(replicas=first)
    lagging = Lagging(world)
    bound = (0, 100)
    world.change(replicas=second)
    play(lagging, moves, bound)
    world.change(replicas=third)
    play(lagging, later, bound)
    arrive(lagging, bound)
    assert world.deployments() == {"engine-1": third}
    assert len(world.pool.pods) == third
