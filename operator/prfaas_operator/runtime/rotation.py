"""The edge of `planning.rotation`: what the Secret of the authority holds, and what it holds after a step."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import SECRETS, Object
from prfaas_operator.planning.rotation import SETTLE, RotationPlan, RotationState, Step, plan_rotation
from prfaas_operator.runtime.certificates import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    NEXT_CERTIFICATE,
    NEXT_KEY,
    PREVIOUS_CERTIFICATE,
    Authority,
    authority_id,
    new_authority,
)

logger = logging.getLogger(__name__)


class Rotation:
    """Carries the authority's Secret through a rotation, one step for each pass.

    Args:
        region_trusts: ids of the authorities in the own Region's trustBundle; None: there is no such Region.
        old_leaves: how many certificates are not of the authority with an id.
        settle: what everybody gets to take over a step.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        region: str,
        region_trusts: Callable[[], frozenset[str] | None],
        old_leaves: Callable[[str], int],
        settle: timedelta = SETTLE,
    ) -> None:
        self._api, self._namespace, self._region = api, namespace, region
        self._region_trusts, self._old_leaves, self._settle = region_trusts, old_leaves, settle
        self.plan = RotationPlan(Step.NOTHING)

    async def advance(self, stored: Object, authority: Authority, now: datetime) -> bool:
        """Do the next step, if one is due; whether the Secret has changed.

        Raises:
            KubeError: the Secret could not be written.
        """
        state = self._state(stored, authority)
        self.plan = plan_rotation(state, now, self._settle)
        data = _after(self.plan.step, stored.get("data") or {}, self._region, now)
        if data is None:
            return False
        finished = self.plan.step is Step.FINISH
        annotation = None if finished else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        patch: dict[str, Any] = {
            "metadata": {
                "resourceVersion": stored["metadata"]["resourceVersion"],
                "annotations": {keys.ANNOTATION_ROTATE_CA: annotation},
            },
            "data": data,
        }
        try:
            await self._api.patch(
                SECRETS, self._namespace, keys.CA_SECRET, patch, field_manager=keys.MANAGER_CHILDREN
            )
        except errors.Conflict:
            # Somebody else wrote it meanwhile; the next pass sees what.
            return False
        logger.warning("the region's authority is replaced: %s", self.plan.message)
        return True

    def _state(self, stored: Object, authority: Authority) -> RotationState:
        annotations = stored["metadata"].get("annotations") or {}
        asked = annotations.get(keys.ANNOTATION_ROTATE_CA)
        data = stored.get("data") or {}
        return RotationState(
            asked=asked is not None,
            since=_time(asked),
            next_id=_id(data.get(NEXT_CERTIFICATE)),
            previous_id=_id(data.get(PREVIOUS_CERTIFICATE)),
            region_trusts=self._region_trusts() if asked is not None else None,
            old_leaves=self._old_leaves(authority.id) if asked is not None else 0,
        )


def _after(step: Step, data: Mapping[str, str], region: str, now: datetime) -> dict[str, str | None] | None:
    """What a step changes in the Secret's data (base64; None: removed); None: nothing."""
    if step is Step.BEGIN:
        made = new_authority(region, now=now)
        return {
            NEXT_CERTIFICATE: made[CERTIFICATE],
            NEXT_KEY: made[KEY],
            AUTHORITY: _joined(data.get(AUTHORITY) or data[CERTIFICATE], made[CERTIFICATE]),
        }
    if step is Step.SIGN:
        return {
            CERTIFICATE: data[NEXT_CERTIFICATE],
            KEY: data[NEXT_KEY],
            PREVIOUS_CERTIFICATE: data[CERTIFICATE],
            NEXT_CERTIFICATE: None,
            NEXT_KEY: None,
        }
    if step is Step.FINISH:
        return {
            AUTHORITY: _without(data[AUTHORITY], data[PREVIOUS_CERTIFICATE]),
            PREVIOUS_CERTIFICATE: None,
        }
    return None


def _joined(*encoded: str) -> str:
    return _encode("".join(_decode(each).rstrip() + "\n" for each in encoded))


def _without(bundle: str, gone: str) -> str:
    return _encode(_decode(bundle).replace(_decode(gone).strip(), "").lstrip())


def _id(encoded: str | None) -> str:
    return "" if not encoded else authority_id(base64.b64decode(encoded))


def _decode(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
