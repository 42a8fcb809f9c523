"""How what is believed of the cluster is written down for `/readyz`, `/status` and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prfaas.kube.reflect import Contact
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.engine_report import EngineReport


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the gateway's beliefs come from.

    Attributes:
        snapshot_source: `cluster`; `disk` before the API server has answered; `missing` and `rejected` when
            it has none or a bad one, and the last good one stays in force; `none`.
    """

    snapshot_revision: str | None
    snapshot_source: str
    snapshot_age_seconds: float | None
    pods: int
    pods_from_disk: bool
    watches: dict[str, dict[str, Any]]

    def to_document(self) -> dict[str, Any]:
        """As JSON shows it."""
        age = self.snapshot_age_seconds
        return {
            "snapshot": {
                "revision": self.snapshot_revision,
                "source": self.snapshot_source,
                "age_seconds": None if age is None else round(age, 3),
            },
            "pods_source": "disk" if self.pods_from_disk else "cluster",
            "pods_count": self.pods,
            "watches": self.watches,
        }


def watch_entry(contact: Contact) -> dict[str, Any]:
    """One watch."""
    last = contact.last_seconds
    return {
        "synced": contact.synced,
        "silent_seconds": None if last is None else round(asyncio.get_running_loop().time() - last, 3),
        "failures": contact.failures,
        "error": str(contact.error) if contact.error is not None else None,
    }


def fingerprints(reports: Iterable[EngineReport]) -> dict[str, dict[str, str]]:
    """What each fingerprint in the fleet is made of, where a sidecar tells: where two differ is where their
    engines do."""
    return {
        report.fingerprint: dict(report.fingerprint_fields)
        for report in reports
        if report.fingerprint is not None and report.fingerprint_fields
    }


def pod_entry(pod: Pod, report: EngineReport | None, member: bool) -> dict[str, Any]:
    """One pod, with what its sidecar told."""
    told = None
    if report is not None:
        told = {
            "engine_connected": report.engine_connected,
            "draining": report.draining,
            "fingerprint": report.fingerprint,
            "block_tokens": report.block_tokens,
            "max_model_tokens": report.max_model_tokens,
            "served_models": list(report.served_models),
            "files": report.files_digest or None,
            "model_files_error": report.model_files_error or None,
        }
    return {
        "name": pod.full_name,
        "pool": pod.pool_name,
        "kind": pod.kind,
        "ip": pod.ip or None,
        "ready": pod.ready,
        "deleting": pod.deleting,
        "draining": pod.draining,
        "in_snapshot": member,
        "engine": told,
    }
