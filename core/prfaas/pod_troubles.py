"""What is wrong with a pod, from its own object alone. Pure; for conditions and for `prfaas status`.

Events are not read: they are many, they expire, and to watch those of all pods costs more than all else.
Nothing that a container has logged is quoted, since engines may log prompts. That includes the termination
message of a container with `terminationMessagePolicy: FallbackToLogsOnError`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]

RESTARTS_OF_A_LOOP = 2
SHORT_RUN_SECONDS = 3600.0
"""A run that failed sooner was one that never got going: loading may take that long."""
WORDS_MAX_CHARACTERS = 240
MOUNTS_NAMED_MAX = 5

_IMAGE_REASONS = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CREATION_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "PreCreateHookError",
        "PreStartHookError",
        "PostStartHookError",
        "RunContainerError",
    }
)
_TOKEN_VOLUME = "kube-api-access-"  # noqa: S105  (a name, which each pod has)
_OTHER_VOLUMES = ("csi", "ephemeral", "image", "nfs", "projected", "hostPath")
# Of a container that ended before it ran. Between two tries it is waiting, with one of the reasons above.
_NEVER_RAN = frozenset({"StartError", "ContainerCannotRun"})
# What repeats the image's name, or differs from one try to the next: each change of a message is a write.
_NOISE_ABOUT_IMAGES = re.compile(
    r'^Back-off pulling image "[^"]*"[:\s]*|\bErrImagePull:\s*|\bfailed to pull and unpack image "[^"]*":\s*'
    r'|\bfailed to resolve reference "[^"]*":\s*|\bfailed to do request:\s*|\S+:\d+->'
)
_BEYOND_THE_CAUSE = re.compile(r"[.,;]?\s*(?:preemption|no new claims to deallocate)\b", re.IGNORECASE)
_SIGNALS = {128 + each.value: each.name for each in signal.Signals}
_DISRUPTIONS = {
    "PreemptionByScheduler": "made way for a pod of higher priority",
    "DeletionByTaintManager": "was deleted from node {node}, which is lost or has a taint",
    "EvictionByEvictionAPI": "was evicted through the API, as by a drain of node {node}",
    "DeletionByPodGC": "was deleted because node {node} is gone",
    "TerminationByKubelet": "was ended by node {node}",
}
_NOISE_ABOUT_STARTS = re.compile(
    r"^failed to create .*?unable to start container process:\s*|:\s*unknown$", re.DOTALL
)


class Cause(StrEnum):
    """What kind of trouble a container has."""

    IMAGE = "Image"
    CREATION = "Creation"
    OUT_OF_MEMORY = "OutOfMemory"
    ENDED = "Ended"
    NOT_READY = "NotReady"


@dataclass(frozen=True, slots=True)
class ContainerTrouble:
    """A container that cannot start, has ended, or keeps its pod from being ready.

    Attributes:
        text: for people, begins with the container.
        lasting: it will not mend itself.
        over: the container is ready again.
        at: when it ended last, None when it did not.
    """

    container: str
    cause: Cause
    text: str
    lasting: bool = False
    restarts: int = 0
    at: datetime | None = None
    over: bool = False


class PodCause(StrEnum):
    """What kind of trouble a pod has beside its containers'."""

    LOST = "Lost"
    """It was evicted or preempted, its node refused it, or is gone."""
    NODE_SILENT = "NodeSilent"
    NOT_PREPARED = "NotPrepared"
    """Its node has not got volumes and network ready."""
    GATED = "Gated"
    """Its containers are ready, a readiness gate is not."""


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """A trouble of a pod as a whole. `at`: since when, or when it happened. `text` goes on after `Pod x `."""

    cause: PodCause
    text: str
    at: datetime | None


def container_troubles(pod: Json) -> tuple[ContainerTrouble, ...]:
    """What its containers suffer from, or suffered from before they were ready again; in the pod's order."""
    status = pod.get("status") or {}
    specs = dict(_containers(pod.get("spec") or {}))
    regular = status.get("containerStatuses") or ()
    # While an engine loads, others wait for it and are not to blame.
    all_ready = bool(regular) and all(state.get("ready") for state in regular)
    troubles = []
    for state in (*(status.get("initContainerStatuses") or ()), *regular):
        spec, ends = specs.get(state.get("name", ""), ({}, False))
        trouble = _container(state, spec, ends=ends, others_are_ready=all_ready)
        if trouble is not None:
            troubles.append(trouble)
    return tuple(troubles)


def pod_trouble(pod: Json) -> PodTrouble | None:
    """What is wrong with the pod as a whole."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    node = spec.get("nodeName") or "?"
    lost = _lost(pod, conditions, node)
    if lost is not None or pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return lost
    ready = conditions.get("Ready") or {}
    if ready.get("status") == "False" and _is_true(conditions, "ContainersReady"):
        since = _time(ready.get("lastTransitionTime"))
        if ready.get("reason") == "ReadinessGatesNotReady":
            text = f"waits for a readiness gate ({in_one_line(ready.get('message', ''))})"
            return PodTrouble(PodCause.GATED, text, since)
        # The kubelet takes both conditions back together; only the node controller takes Ready alone.
        return PodTrouble(PodCause.NODE_SILENT, f"is on node {node}, which does not answer", since)
    prepared = conditions.get("PodReadyToStartContainers") or {}
    if _is_true(conditions, "PodScheduled") and prepared.get("status") == "False":
        named = ", ".join(_mounted(spec))
        text = f"waits for node {node} to get its volumes and network ready"
        since = _time(prepared.get("lastTransitionTime"))
        return PodTrouble(PodCause.NOT_PREPARED, f"{text} (it mounts {named})" if named else text, since)
    return None


def in_one_line(words: str, at_most: int = WORDS_MAX_CHARACTERS) -> str:
    """Words of others, fit to be quoted."""
    text = " ".join("".join(each if each.isprintable() else " " for each in words).split()).rstrip(" .,;")
    return text if len(text) <= at_most else text[: at_most - 1].rstrip() + "…"


def _container(state: Json, spec: Json, *, ends: bool, others_are_ready: bool) -> ContainerTrouble | None:
    current = state.get("state") or {}
    waiting, ended = current.get("waiting") or {}, current.get("terminated")
    before = (state.get("lastState") or {}).get("terminated")
    reason = waiting.get("reason") or ""
    if reason in _IMAGE_REASONS:
        return _image(state, spec, reason, waiting.get("message") or "")
    if reason in _CREATION_REASONS or reason.endswith("Error"):
        return _not_made(state, reason, waiting.get("message") or "")
    last = ended or before
    if last is not None and last.get("reason") in _NEVER_RAN:
        return _not_made(state, "RunContainerError", _quotable(spec, last))
    if last is not None and not (ends and ended is not None and not ended.get("exitCode")):
        return _ended(state, spec, last, backing_off=reason == "CrashLoopBackOff")
    if reason == "CrashLoopBackOff":
        # What ended is forgotten by now, as after the node's images and containers were cleaned up.
        return _ended(state, spec, {}, backing_off=True)
    is_sidecar = spec.get("restartPolicy") == "Always"
    if is_sidecar and others_are_ready and "running" in current and not state.get("ready"):
        text = f"container `{state['name']}` is not ready, the others are"
        return ContainerTrouble(state["name"], Cause.NOT_READY, text)
    return None


def _image(state: Json, spec: Json, reason: str, message: str) -> ContainerTrouble:
    image = spec.get("image") or state.get("image") or "?"
    word = "ErrImagePull" if reason == "ImagePullBackOff" else reason
    words = in_one_line(_NOISE_ABOUT_IMAGES.sub("", message))
    why = f"{word}: {words}" if words else word
    text = f"container `{state['name']}`: image {image} cannot be pulled ({why})"
    return ContainerTrouble(state["name"], Cause.IMAGE, text, lasting=True)


def _not_made(state: Json, reason: str, message: str) -> ContainerTrouble:
    words = in_one_line(_NOISE_ABOUT_STARTS.sub("", message.strip()))
    text = f"container `{state['name']}`: {reason}{': ' if words else ''}{words}"
    over = bool(state.get("ready"))
    return ContainerTrouble(state["name"], Cause.CREATION, text, lasting=not over, over=over)


def _ended(state: Json, spec: Json, last: Json, *, backing_off: bool) -> ContainerTrouble:
    name, restarts = state["name"], int(state.get("restartCount") or 0)
    at, began = _time(last.get("finishedAt")), _time(last.get("startedAt"))
    short = at is not None and began is not None and (at - began).total_seconds() < SHORT_RUN_SECONDS
    over = bool(state.get("ready"))
    lasting = not over and restarts >= RESTARTS_OF_A_LOOP and (backing_off or short)
    again = f", restarted {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    if last.get("reason") == "OOMKilled":
        limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
        kept = f"limit {limit}" if limit else "it has no limit: its node ran out of memory"
        text = f"container `{name}` OOMKilled ({kept}){again}"
        return ContainerTrouble(name, Cause.OUT_OF_MEMORY, text, lasting, restarts, at, over)
    words = in_one_line(_quotable(spec, last))
    how = f"ended with {_exit(last)}" if last else "keeps ending (CrashLoopBackOff)"
    how += f": {words}" if words else ""
    text = f"container `{name}` {how}{again}"
    return ContainerTrouble(name, Cause.ENDED, text, lasting, restarts, at, over)


def _exit(last: Json) -> str:
    code = int(last.get("exitCode") or 0)
    hints = [each for each in (last.get("reason"), _SIGNALS.get(code)) if each not in (None, "Error")]
    return f"exit code {code}" + (f" ({', '.join(str(each) for each in hints)})" if hints else "")


def _quotable(spec: Json, last: Json) -> str:
    """The termination message, unless it may be log."""
    return (
        "" if spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" else last.get("message") or ""
    )


def _lost(pod: Json, conditions: Mapping[str, Json], node: str) -> PodTrouble | None:
    status = pod.get("status") or {}
    disruption = conditions.get("DisruptionTarget") or {}
    disrupted = disruption.get("status") == "True"
    if status.get("phase") != "Failed" and not (disrupted and pod["metadata"].get("deletionTimestamp")):
        return None
    since = disruption if disrupted else conditions.get("Ready") or {}
    at = _time(since.get("lastTransitionTime")) or _time(pod["metadata"].get("creationTimestamp"))
    reason, words = status.get("reason") or "", in_one_line(status.get("message") or "")
    if reason:
        refused = words.startswith("Pod was rejected")
        text = f"was {'refused' if refused else 'ended'} by its node {node}: "
        text += f"{reason}{': ' if words else ''}{words.removeprefix('Pod was rejected: ')}"
    elif disrupted:
        text = _DISRUPTIONS.get(disruption.get("reason", ""), "was disrupted").format(node=node)
    else:
        text = f"has failed on node {node}{': ' if words else ''}{words}"
    return PodTrouble(PodCause.LOST, text, at)


def _containers(spec: Json) -> Iterator[tuple[str, tuple[Json, bool]]]:
    """Name, spec, and whether it is to end by itself."""
    for each in spec.get("initContainers") or ():
        yield each["name"], (each, each.get("restartPolicy") != "Always")
    for each in spec.get("containers") or ():
        yield each["name"], (each, spec.get("restartPolicy", "Always") != "Always")


def _mounted(spec: Json) -> list[str]:
    """What its containers mount from elsewhere, objects of the API first."""
    used = {
        mount.get("name")
        for _, (container, _) in _containers(spec)
        for mount in container.get("volumeMounts") or ()
    }
    objects, others = [], []
    for volume in spec.get("volumes") or ():
        if volume.get("name") not in used or volume["name"].startswith(_TOKEN_VOLUME):
            continue
        if claim := volume.get("persistentVolumeClaim"):
            objects.append(f"PersistentVolumeClaim {claim.get('claimName')}")
        elif secret := volume.get("secret"):
            objects += [] if secret.get("optional") else [f"Secret {secret.get('secretName')}"]
        elif settings := volume.get("configMap"):
            objects += [] if settings.get("optional") else [f"ConfigMap {settings.get('name')}"]
        else:
            others += [f"{kind} volume {volume['name']}" for kind in _OTHER_VOLUMES if volume.get(kind)]
    named = [*objects, *others]
    if len(named) > MOUNTS_NAMED_MAX:
        named[MOUNTS_NAMED_MAX:] = [f"{len(named) - MOUNTS_NAMED_MAX} more"]
    return named


def _is_true(conditions: Mapping[str, Json], type_: str) -> bool:
    return (conditions.get(type_) or {}).get("status") == "True"


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def scheduler_words(words: str) -> str:
    """The scheduler's words without what it says about preemption, in one line."""
    text = _BEYOND_THE_CAUSE.split(words, maxsplit=1)[0]
    text = " ".join(text.split()).rstrip(" .,;")
    return text if len(text) <= WORDS_MAX_CHARACTERS else text[: WORDS_MAX_CHARACTERS - 1].rstrip() + "…"
