"""Carries out what `plan_mirror` says: applies and deletes in the own cluster, under the fence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from prfaas.api import keys
from prfaas.api.conditions import Finding, Reason
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import (
    BY_KIND,
    CONFIG_MAPS,
    CUSTOM_RESOURCES,
    FEDERATION_RESOURCES,
    Object,
    Resource,
)
from prfaas_operator.federation.mirror import MirrorPlan, accepted_uid, not_listed_yet, plan_mirror
from prfaas_operator.federation.values import (
    Apply,
    Attempt,
    HubObject,
    HubPicture,
    LocalObject,
    MirrorMemory,
    MirrorSettings,
    ObjectKey,
    Refused,
    Remove,
    covers,
)
from prfaas_operator.runtime.federation.following import Followed, Wake, key_of
from prfaas_operator.runtime.federation.hub import Hub
from prfaas_operator.runtime.fence import WritingStopped

logger = logging.getLogger(__name__)

MIRRORED = (*FEDERATION_RESOURCES, *CUSTOM_RESOURCES)
UID_KEY, OFFERED_KEY = "uid", "offered"
SETTLE_SECONDS = 1.0
# Somebody may have accepted the deletes, or brought the hub back.
FROZEN_LOOK_SECONDS = 5.0
LOOK_SECONDS = 300.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
BACK_WAIT_SECONDS = 10.0
PRUNED = "field not declared in schema"


class Mirror:
    """Keeps this cluster's copies of the hub's objects.

    Args:
        namespace: the operator's own, where the hub is pinned.
        watched: namespaces of this cluster that the operator may look into; (None,) for all.
        chance: 0 to 1, spreads clusters over time.
        changed: told when finding or refusals differ.

    Attributes:
        finding: MirrorReady.
        refused: what the hub wants here and does not get.
    """

    def __init__(
        self,
        hub: Hub,
        local: KubeApi,
        *,
        namespace: str,
        watched: tuple[str | None, ...],
        settings: MirrorSettings,
        clock: Callable[[], float],
        chance: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._hub, self._local = hub, local
        self._namespace = namespace
        self._settings = settings
        self._clock, self._chance = clock, chance
        self._changed = changed
        self._wake = Wake()
        self._theirs: list[Followed[HubObject]] = [
            Followed(hub.api, each, _hub_object, self._wake) for each in MIRRORED
        ]
        self._ours: list[Followed[LocalObject]] = [
            Followed(
                local, each, _local_object, self._wake, namespace=place, label_selector=keys.LABEL_MIRRORED
            )
            for each in MIRRORED
            for place in (watched if each.namespaced else (None,))
        ]
        self._memory = MirrorMemory()
        self._offered = ""
        self.finding: Finding = not_listed_yet()
        self.refused: tuple[Refused, ...] = ()

    @property
    def hub_uid(self) -> str | None:
        """The hub that is pinned."""
        return self._memory.pinned_uid or None

    @property
    def frozen(self) -> bool:
        return self.finding.reason is Reason.FROZEN

    async def run(self) -> None:
        """Mirror until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_hub(), name="mirror's reflectors of the hub")
            for ours in self._ours:
                group.create_task(ours.run(), name=f"mirror's reflector of {ours.resource}")
            group.create_task(self._passes(), name="mirror")

    async def _follow_hub(self) -> None:
        """Follow the hub that there is; one that was replaced is listed from the beginning."""
        while True:
            self._hub.replaced.clear()
            for each in self._theirs:
                each.begin_anew()
            following = [
                asyncio.create_task(each.run(), name=f"mirror's reflector of the hub's {each.resource}")
                for each in self._theirs
            ]
            replaced = asyncio.create_task(self._hub.replaced.wait(), name="whether the hub is another one")
            try:
                done, _ = await asyncio.wait({*following, replaced}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {replaced}:
                    task.result()
            finally:
                for task in (*following, replaced):
                    task.cancel()
                await asyncio.gather(*following, replaced, return_exceptions=True)

    async def _passes(self) -> None:
        failures, lost = 0, self._hub.lost
        while True:
            if not self._synced():
                await self._wake.wait(LOOK_SECONDS)
                continue
            if lost != self._hub.lost:
                # All clusters see at once that the hub is back.
                lost = self._hub.lost
                await asyncio.sleep(BACK_WAIT_SECONDS * self._chance())
            # What changes together is seen together.
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                look_seconds = await self._pass()
                failures = 0
            except (errors.KubeError, WritingStopped) as error:
                failures += 1
                level = logging.WARNING if failures in (2, 10, 100) else logging.DEBUG
                logger.log(level, "mirror: %s", error)
                look_seconds = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 8))
                await asyncio.sleep(look_seconds * (0.5 + 0.5 * self._chance()))
                continue
            await self._wake.wait(look_seconds)

    def _synced(self) -> bool:
        return all(each.synced for each in self._theirs) and all(each.synced for each in self._ours)

    async def _pass(self) -> float:
        """One pass; when to look again."""
        await self._recall()
        theirs = tuple(each for followed in self._theirs for each in followed.objects.values())
        # Asked after the lists: they cannot be of a later hub than this one.
        uid = await self._hub.identify()
        if self._hub.replaced.is_set():
            raise errors.Unreachable("the hub is another one: it is listed first")
        ours = [each for followed in self._ours for each in followed.objects.values()]
        plan = plan_mirror(HubPicture(uid, theirs), ours, self._memory, self._settings, self._clock())
        self._memory = plan.memory
        if plan.pin is not None:
            await self._pin({UID_KEY: plan.pin})
            logger.warning("the hub is pinned: its kube-system has UID %s", plan.pin)
        elif plan.finding.reason is Reason.FROZEN and uid != self._memory.pinned_uid != "":
            await self._offer(uid)
        fresh = await self._carry_out(plan)
        self._tell(plan, fresh)
        if self.frozen:
            return FROZEN_LOOK_SECONDS
        return min(LOOK_SECONDS, plan.look_again_seconds or LOOK_SECONDS)

    async def _recall(self) -> None:
        """Read what is pinned, and whether deletes are accepted."""
        try:
            body = await self._local.get(CONFIG_MAPS, self._namespace, keys.HUB_CONFIG_MAP)
        except errors.NotFound:
            body = {"metadata": {}}
        pinned = str((body.get("data") or {}).get(UID_KEY) or "")
        annotation = (body["metadata"].get("annotations") or {}).get(keys.ANNOTATION_ACCEPT_DELETES)
        accepted = accepted_uid(annotation, self._local.server_now())
        self._memory = replace(
            self._memory, pinned_uid=pinned or self._memory.pinned_uid, accepted_uid=accepted
        )

    async def _pin(self, data: dict[str, str]) -> None:
        body: Object = {
            "metadata": {"namespace": self._namespace, "name": keys.HUB_CONFIG_MAP},
            "data": data,
        }
        await self._local.apply(CONFIG_MAPS, body, field_manager=keys.MANAGER_MIRROR, force=True)

    async def _offer(self, uid: str) -> None:
        """Say which hub would be accepted, for whoever does."""
        if self._offered != uid:
            await self._pin({UID_KEY: self._memory.pinned_uid, OFFERED_KEY: uid})
            self._offered = uid

    async def _carry_out(self, plan: MirrorPlan) -> tuple[Refused, ...]:
        """Do it; what this API server refused now."""
        fresh: list[Refused] = []
        for action in plan.actions:
            if isinstance(action, Apply):
                attempt = await self._apply(action)
                if attempt is not None:
                    attempts = {**self._memory.attempts, action.key: attempt}
                    self._memory = replace(self._memory, attempts=attempts)
                    if attempt.refused is not None:
                        fresh.append(attempt.refused)
            else:
                await self._remove(action)
        return tuple(fresh)

    async def _apply(self, action: Apply) -> Attempt | None:
        """What came of it; None: it could not be told yet."""
        resource = BY_KIND[action.key.kind]
        metadata = dict(action.body["metadata"])
        try:
            if action.uid is None:
                found = await self._in_the_way(resource, action)
                if found is not None:
                    return found if isinstance(found, Attempt) else None
            else:
                metadata["uid"] = action.uid
            body = {**action.body, "metadata": metadata}
            answer = await self._local.apply(
                resource, body, field_manager=keys.MANAGER_MIRROR, force=action.uid is not None, strict=True
            )
        except errors.Conflict:
            # It was made, or made anew, a moment ago: the watch brings it.
            return None
        except errors.KubeError as error:
            if not _is_refusal(error):
                raise
            refused = Refused(action.key, Reason.MIRROR_REFUSED, _why(error))
            logger.warning("mirror: %s is refused: %s", action.key, refused.message)
            return Attempt(action.digest, self._clock(), None, refused)
        logger.info("mirror: %s applied: %s", action.key, action.why)
        return Attempt(action.digest, self._clock(), int(answer["metadata"].get("generation") or 0))

    async def _in_the_way(self, resource: Resource, action: Apply) -> Attempt | bool | None:
        """Try an object that is new, dry. None: nothing is there. True: one of ours, that is not seen yet."""
        try:
            answer = await self._local.apply(
                resource, dict(action.body), field_manager=keys.MANAGER_MIRROR, dry_run=True, strict=True
            )
            if not answer["metadata"].get("resourceVersion"):
                return None
        except errors.Conflict:
            pass
        key = action.key
        listed = await self._local.list(
            resource, key.namespace or None, field_selector=f"metadata.name={key.name}"
        )
        if not listed:
            return True
        labels = listed[0]["metadata"].get("labels") or {}
        if keys.LABEL_MIRRORED in labels:
            return True
        return Attempt(action.digest, self._clock(), None, self._clash(action, listed[0]))

    def _clash(self, action: Apply, there: Object) -> Refused | None:
        """None: what is there says the same, as when Git brings the same Regions everywhere."""
        if covers(there.get("spec") or {}, action.body["spec"]):
            return None
        if action.key == ObjectKey(keys.REGION, "", self._settings.region):
            text = (
                "the hub has another spec of this cluster's own Region; the one here counts. Bring the hub's "
                "up to date: prfaas federation join"
            )
        else:
            text = "an object of this name is here, and not from the hub: rename or delete one of them"
        return Refused(action.key, Reason.NAME_CLASH, text)

    async def _remove(self, action: Remove) -> None:
        resource, key = BY_KIND[action.key.kind], action.key
        try:
            await self._local.delete(resource, key.namespace or None, key.name, uid=action.uid)
        except (errors.NotFound, errors.Conflict):
            # Gone, or another one by now, which the watch brings.
            return
        logger.warning("mirror: %s deleted: %s", key, action.why)
        removed = {**self._memory.removed, key: self._clock()}
        self._memory = replace(self._memory, removed=removed)

    def _tell(self, plan: MirrorPlan, fresh: tuple[Refused, ...]) -> None:
        before = (self.finding, self.refused)
        if fresh:
            # What was refused now is told by the next pass, which comes at once.
            self._wake()
        if plan.finding.reason is Reason.FROZEN:
            if self.finding != plan.finding:
                logger.error("mirror: frozen: %s", plan.finding.message)
            # What was told of single objects is as true as before.
            self.finding = plan.finding
        else:
            self.finding, self.refused = plan.finding, plan.refused
        if (self.finding, self.refused) != before:
            self._changed()


def _hub_object(body: Object) -> HubObject:
    about = body["metadata"]
    return HubObject(key_of(body, body["kind"]), int(about.get("generation") or 0), body.get("spec") or {})


def _local_object(body: Object) -> LocalObject:
    about = body["metadata"]
    annotations: Mapping[str, Any] = about.get("annotations") or {}
    return LocalObject(
        key_of(body, body["kind"]),
        about["uid"],
        int(about.get("generation") or 0),
        str(annotations.get(keys.ANNOTATION_MIRRORED_FROM) or ""),
        body.get("spec") or {},
    )


def _is_refusal(error: errors.KubeError) -> bool:
    """This server will say so again until somebody changes something."""
    if PRUNED in error.message:
        return True
    return isinstance(
        error, errors.Invalid | errors.BadRequest | errors.Forbidden | errors.NotFound | errors.TooLarge
    )


def _why(error: errors.KubeError) -> str:
    if PRUNED in error.message:
        return f"{error.message}: this cluster's CRDs are older than the hub's, upgrade prfaas here"
    if isinstance(error, errors.NotFound) and error.kind_is_served:
        return f"{error.message}: create the namespace here"
    return error.message
