"""What one other region has told, and how old that is. A document goes in, the time is a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prfaas_gateway.peering.wire import (
    LOAD_FIELDS,
    Beat,
    Document,
    Hello,
    Links,
    LinkState,
    PeerPod,
    PodPatch,
    Pods,
    Report,
    link_fields,
    pod_fields,
    pod_of,
    read_links,
    read_pods,
)

MAX_PODS = 10_000
_LOAD = frozenset(LOAD_FIELDS)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a document changed.

    Attributes:
        fleet: which pods there are, or whether they take requests.
        loads: uids of pods that are busier or idler than before.
    """

    fleet: bool = False
    loads: frozenset[str] = frozenset()


@dataclass(slots=True)
class RegionView:
    """A region as its gateways told it.

    Attributes:
        heard_at: of the last line, on the own monotonic clock; after a restart the start, so that what the
            disk has is used until the region had its chance to speak.
        known_at: of the last line, in seconds since 1970 by the own clock; None before the first.
        clock_ahead_seconds: how far the region's clock is ahead of the own, the way's time included.
        ignored: entries and documents that could not be used, since the start.
    """

    name: str
    pods: dict[str, PeerPod] = field(default_factory=dict)
    links: tuple[LinkState, ...] = ()
    report: Mapping[str, Any] | None = None
    cluster: str = ""
    version: int | None = None
    heard_at: float | None = None
    known_at: float | None = None
    clock_ahead_seconds: float | None = None
    from_disk: bool = False
    ignored: int = 0
    _to_be_confirmed: set[str] = field(default_factory=set)

    def silent(self, now: float, silent_seconds: float) -> bool:
        """Whether nothing was heard for so long that nobody is asked there."""
        return self.heard_at is None or now - self.heard_at > silent_seconds

    def age_seconds(self, wall: float) -> float | None:
        """How old what is known is, by the own clock; None when nothing is."""
        return None if self.known_at is None else max(0.0, wall - self.known_at)

    def hear(self, document: Document | None, now: float, wall: float) -> Heard:
        """Take a document. One of an unknown type (None) is a sign of life too."""
        self.heard_at, self.known_at = now, wall
        match document:
            case Hello():
                self.version, self.cluster = document.version, document.cluster
                self.clock_ahead_seconds = document.now - wall
            case Beat():
                self.clock_ahead_seconds = document.now - wall
            case Pods():
                return self._hear_pods(document)
            case Links():
                self.links = tuple(link for link in document.links if link.destination == self.name)
                self.ignored += document.unreadable
            case Report():
                self.report = document.report
            case _:
                self.ignored += 1
        return Heard()

    def _hear_pods(self, document: Pods) -> Heard:
        self.ignored += document.unreadable
        if document.full:
            self._to_be_confirmed = set(self.pods)
            self.from_disk = False
        fleet, loads = False, set()
        for patch in document.pods:
            self._to_be_confirmed.discard(patch.uid)
            changed = self._patch(patch)
            if changed - _LOAD:
                fleet = True
            elif changed:
                loads.add(patch.uid)
        gone = set(document.gone)
        if not document.more:
            gone |= self._to_be_confirmed
            self._to_be_confirmed = set()
        for uid in gone & self.pods.keys():
            del self.pods[uid]
            fleet = True
        return Heard(fleet, frozenset(loads))

    def _patch(self, patch: PodPatch) -> set[str]:
        """Names of the fields that differ from before; of a pod that was not known, all."""
        before = self.pods.get(patch.uid)
        if before is not None:
            changed = {name for name, value in patch.fields.items() if getattr(before, name) != value}
            if changed:
                self.pods[patch.uid] = replace(before, **patch.fields)
            return changed
        pod = pod_of(patch.fields)
        if pod is None or len(self.pods) >= MAX_PODS:
            self.ignored += 1
            return set()
        self.pods[pod.uid] = pod
        return {"uid"}

    def to_document(self) -> dict[str, Any]:
        """For the disk."""
        return {
            "known_at": self.known_at,
            "cluster": self.cluster,
            "pods": [pod_fields(pod) for pod in self.pods.values()],
            "links": [link_fields(link) for link in self.links],
            "report": self.report,
        }

    @classmethod
    def from_document(cls, name: str, document: Any, now: float) -> RegionView:
        """From the disk, as good as that is: entries that cannot be read are left out.

        Raises:
            ValueError: not what `to_document` wrote.
        """
        if not isinstance(document, dict) or not isinstance(document.get("pods"), list):
            raise ValueError("not a region")  # noqa: TRY004  content, not an argument
        view = cls(name, heard_at=now, from_disk=True)
        patches, _ = read_pods(document["pods"])
        for patch in patches:
            view._patch(patch)
        view.links, _ = read_links(document.get("links") or ())
        report, known_at, cluster = document.get("report"), document.get("known_at"), document.get("cluster")
        view.report = report if isinstance(report, dict) else None
        view.known_at = float(known_at) if isinstance(known_at, (int, float)) else None
        view.cluster = cluster if isinstance(cluster, str) else ""
        return view
