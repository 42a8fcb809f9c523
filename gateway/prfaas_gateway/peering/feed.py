"""What one peer is told next: changes only, the important ones first, within a bound of bytes a second.

Nothing is queued for a slow peer. What it has not been told yet is found again by comparing, in the state
that holds when it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prfaas_gateway.peering.wire import (
    VERSION,
    LinkState,
    PeerPod,
    changed_fields,
    differ_in_load_only,
    line_of,
    link_fields,
    pod_fields,
)

FIRST_BYTES = 256 << 10
"""What a new stream may say at once, so that most regions are known whole with its first answer."""
_LINE_BYTES = 64 << 10
_BEAT_SECONDS = 1.0
_LINKS_SECONDS = 5.0
_REPORT_SECONDS = 10.0


class Feed:
    """One stream to a gateway of another region.

    Args:
        bytes_per_second: what the stream may take in the long run.
    """

    def __init__(self, bytes_per_second: float, now: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._budget_bytes = float(FIRST_BYTES)
        self._at = now
        self._told: dict[str, PeerPod] = {}
        self._load_told_at: dict[str, float] = {}
        self._begun = False
        self._complete = False
        self._links: tuple[LinkState, ...] | None = None
        self._links_at = self._report_at = float("-inf")
        self._report: Mapping[str, Any] | None = None
        self._beat_at = now

    def hello(self, region: str, cluster: str | None, wall: float) -> bytes:
        """The first line."""
        return self._spend(
            line_of(
                {
                    "type": "hello",
                    "version": VERSION,
                    "region": region,
                    "cluster": cluster,
                    "now": round(wall, 3),
                }
            )
        )

    def lines(
        self,
        now: float,
        wall: float,
        pods: Mapping[str, PeerPod],
        links: Sequence[LinkState],
        report: Mapping[str, Any] | None,
    ) -> list[bytes]:
        """What to say now. ``pods`` are those that this peer may use; one that has not changed has to be the
        same object as before."""
        earned = self._bytes_per_second * max(0.0, now - self._at)
        cap = max(self._budget_bytes, self._bytes_per_second)
        self._budget_bytes, self._at = min(cap, self._budget_bytes + earned), now
        lines = list(self._about_pods(now, pods))
        if links and tuple(links) != self._links and now - self._links_at >= _LINKS_SECONDS:
            self._links, self._links_at = tuple(links), now
            lines.append(
                self._spend(line_of({"type": "links", "links": [link_fields(link) for link in links]}))
            )
        if report is not None and report != self._report and now - self._report_at >= _REPORT_SECONDS:
            self._report, self._report_at = report, now
            lines.append(self._spend(line_of({"type": "report", "report": report})))
        if now - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = now
            lines.append(self._spend(line_of({"type": "beat", "now": round(wall, 3)})))
        return lines

    def _about_pods(self, now: float, pods: Mapping[str, PeerPod]) -> Iterator[bytes]:
        gone = [uid for uid in self._told if uid not in pods]
        for uid in gone:
            del self._told[uid]
            self._load_told_at.pop(uid, None)
        urgent, new, loads = [], [], []
        for uid, pod in pods.items():
            told = self._told.get(uid)
            if told is pod:
                continue
            if told is None:
                new.append(pod)
                continue
            if told == pod:
                self._told[uid] = pod
            elif differ_in_load_only(told, pod):
                loads.append((self._load_told_at.get(uid, 0.0), uid))
            else:
                urgent.append((pod, changed_fields(told, pod)))
        entries: list[bytes] = []
        for pod, changed in urgent:
            # Never kept waiting: somebody would go on sending requests to a pod that is gone.
            entries.append(self._tell(pod, changed, now))
        for pod in new:
            if self._budget_bytes <= 0:
                break
            entries.append(self._tell(pod, pod_fields(pod), now))
        for _, uid in sorted(loads):
            if self._budget_bytes <= 0:
                break
            entries.append(self._tell(pods[uid], changed_fields(self._told[uid], pods[uid]), now))
        more = any(uid not in self._told for uid in pods) and not self._complete
        if not (entries or gone) and self._begun and (more or self._complete):
            return
        yield from self._pod_lines(entries, gone, more)
        self._begun, self._complete = True, self._complete or not more

    def _tell(self, pod: PeerPod, changed: dict[str, Any], now: float) -> bytes:
        self._told[pod.uid] = pod
        self._load_told_at[pod.uid] = now
        # The end of the line stands for the comma.
        return self._spend(line_of(changed)).rstrip()

    def _pod_lines(self, entries: list[bytes], gone: list[str], more: bool) -> Iterator[bytes]:
        first = not self._begun
        chunks = list(_chunks(entries)) or [[]]
        for number, chunk in enumerate(chunks):
            last = number == len(chunks) - 1
            document: dict[str, Any] = {"type": "pods", "full": first and number == 0}
            if gone and last:
                document["gone"] = gone
            if not self._complete and (more or not last):
                document["more"] = True
            # The entries are encoded already, each once.
            head = self._spend(line_of({**document, "pods": []})).removesuffix(b"]}\n")
            yield head + b",".join(chunk) + b"]}\n"

    def _spend(self, line: bytes) -> bytes:
        self._budget_bytes -= len(line)
        return line


def _chunks(entries: list[bytes]) -> Iterator[list[bytes]]:
    """Entries in groups that make lines of a bounded length."""
    chunk: list[bytes] = []
    size = 0
    for entry in entries:
        size += len(entry)
        if chunk and size > _LINE_BYTES:
            yield chunk
            chunk, size = [], len(entry)
        chunk.append(entry)
    if chunk:
        yield chunk
