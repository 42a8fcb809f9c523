"""What an earlier operator has written down about engines, for the moments until they have been asked anew.

Without it every restart would call all engines unknown, write that into every status, and take it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from prfaas.api.conditions import ConditionType
from prfaas.api.v1alpha1 import ConditionStatus, PoolStatus
from prfaas_operator.planning.values import EngineReport, ObservedPod


def recorded_reports(
    status: PoolStatus, pods: Iterable[ObservedPod], *, awaited: Collection[str], ready_before: datetime
) -> dict[str, EngineReport]:
    """Reports, by pod, as far as the stored status tells them.

    Only where the engines of the pool agreed: the status has one fingerprint for each revision.

    Args:
        awaited: names of pods that are being asked for the first time.
        ready_before: pods that became ready later were not known when the status was written.
    """
    agreed = any(
        each.type == ConditionType.KV_COMPATIBLE and each.status is ConditionStatus.TRUE
        for each in status.conditions
    )
    if not agreed or not awaited:
        return {}
    fingerprints = {each.name: each.fingerprint for each in status.revisions if each.fingerprint}
    return {
        pod.name: EngineReport(engine_connected=True, fingerprint=fingerprints[pod.revision])
        for pod in pods
        if pod.name in awaited
        and pod.revision in fingerprints
        and pod.ready_changed_at is not None
        and pod.ready_changed_at < ready_before
    }
