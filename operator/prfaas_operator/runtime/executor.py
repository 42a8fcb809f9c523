"""Carries out a plan's actions, in their order, and stops at the first that fails.

Before anything changes, the server runs Deployments dry: a template that it refuses changes nothing, but
that certificate and peers of the pods that run are kept up to date. The shape of the small children is the
operator's own: there is nothing in them that the server could refuse.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi, Propagation
from prfaas.kube.resources import (
    BY_KIND,
    CERTIFICATES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SECRETS,
    Object,
    Resource,
)
from prfaas_operator.planning.actions import (
    Action,
    ApplyChild,
    DeleteChild,
    FailedAction,
    IssueCertificate,
    MarkPods,
    ScaleChild,
    ScalePool,
)
from prfaas_operator.planning.issuing import NAME_ANNOTATION
from prfaas_operator.planning.values import ChildKind, Manifest
from prfaas_operator.runtime import facts
from prfaas_operator.runtime.certificates import AUTHORITY, CERTIFICATE, Authority
from prfaas_operator.runtime.facts import SecretValue, fact_of
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

RESOURCES = {
    ChildKind.DEPLOYMENT: DEPLOYMENTS,
    ChildKind.SECRET: SECRETS,
    ChildKind.CONFIG_MAP: CONFIG_MAPS,
    ChildKind.BUDGET: POD_DISRUPTION_BUDGETS,
    ChildKind.CERTIFICATE: CERTIFICATES,
}


class Executor:
    """Writes children, scales, marks and certificates.

    What the server answers goes into the store at once, so that the next pass sees its own writes.

    Args:
        authority: gives the region's authority, None while there is none.
        certificate_valid: life of what is issued.
    """

    def __init__(self, api: KubeApi, store: Store, *, certificate_valid: timedelta) -> None:
        self._api = api
        self._store = store
        self._certificate_valid = certificate_valid
        self.authority: Authority | None = None

    async def run(self, namespace: str, actions: Sequence[Action]) -> FailedAction | None:
        """Carry out the actions on objects of this namespace; the first failure, or None.

        Raises:
            WritingStopped: this operator does not lead any more; some actions may have been carried out.
        """
        owned: dict[int, str] = {}
        for index, action in enumerate(actions):
            if isinstance(action, ApplyChild):
                try:
                    owned[index] = await self._check(namespace, action)
                except errors.KubeError as error:
                    await self._keep_up(namespace, actions[:index], owned)
                    return failed(action, error)
        for index, action in enumerate(actions):
            try:
                await self._carry_out(namespace, action, owned.get(index, ""))
            except errors.KubeError as error:
                return failed(action, error)
        return None

    async def _keep_up(self, namespace: str, actions: Sequence[Action], owned: dict[int, str]) -> None:
        """What the pods that run live on is renewed though a new template is refused, for weeks maybe; and
        their number is changed where the plan has that before the refused action.

        Nothing is made that was not there.
        """
        for index, action in enumerate(actions):
            if not isinstance(action, IssueCertificate | ApplyChild | ScaleChild | MarkPods):
                continue
            if isinstance(action, IssueCertificate | ApplyChild) and action.resource_version is None:
                continue
            if isinstance(action, ApplyChild) and action.kind is ChildKind.DEPLOYMENT:
                continue
            try:
                await self._carry_out(namespace, action, owned.get(index, ""))
            except errors.KubeError as error:
                logger.warning("%s in %s (%s): %s", type(action).__name__, namespace, action.why, error)
                return

    async def _check(self, namespace: str, action: ApplyChild) -> str:
        """Hash of the fields that the operator will own, once nothing speaks against the action.

        Raises:
            AlreadyExists: an object is there that is not the pool's.
            Conflict: it is the pool's and was not seen yet; the next pass sees it.
            KubeError: the server refuses it.
        """
        if action.kind is not ChildKind.DEPLOYMENT:
            if action.resource_version is None:
                await self._refuse_what_is_there(RESOURCES[action.kind], action.manifest)
            return facts.owned_fields_of(action.manifest)
        # The annotation is one of the fields that will be owned.
        answer = await self._apply(namespace, action, "-", dry_run=True)
        if action.resource_version is None and answer["metadata"].get("resourceVersion"):
            await self._refuse_what_is_there(DEPLOYMENTS, action.manifest)
        return facts.owned_fields(answer["metadata"].get("managedFields") or ())

    async def _refuse_what_is_there(self, resource: Resource, manifest: Manifest) -> None:
        """An object that is to be made and was not seen may be there: the answer to its creation was lost, or
        somebody took the labels off by which it is followed. These are put back. Or it is somebody else's.

        Raises:
            Conflict: it is the pool's own.
            AlreadyExists: it is not.
        """
        about = manifest["metadata"]
        namespace, name, labels = about["namespace"], about["name"], about.get("labels") or {}
        try:
            body = await self._api.get(resource, namespace, name)
        except errors.NotFound:
            return
        if not _controller(body) or _controller(body) != _controller(manifest):
            raise errors.AlreadyExists(
                f"{resource.kind} {namespace}/{name} is there and is not known to belong to the pool; "
                "delete or rename it",
                status=409,
            )
        stored = body["metadata"].get("labels") or {}
        if any(stored.get(key) != value for key, value in labels.items()):
            logger.warning("%s %s/%s: its labels are put back", resource, namespace, name)
            version = body["metadata"]["resourceVersion"]
            patch: Object = {"metadata": {"resourceVersion": version, "labels": labels}}
            body = await self._api.patch(
                resource, namespace, name, patch, field_manager=keys.MANAGER_CHILDREN
            )
        self._learn(body)
        raise errors.Conflict(f"{resource} {namespace}/{name} is there and was not seen yet", status=409)

    async def _carry_out(self, namespace: str, action: Action, owned: str) -> None:
        match action:
            case ApplyChild():
                await self._apply_and_record(namespace, action, owned)
                if action.drift:
                    self._store.repairs.add(namespace, action.kind, action.name, datetime.now(UTC))
            case DeleteChild():
                await self._delete(namespace, action)
            case ScaleChild():
                answer = await self._api.scale(
                    DEPLOYMENTS,
                    namespace,
                    action.name,
                    action.replicas,
                    field_manager=keys.MANAGER_SCALE,
                    resource_version=action.resource_version,
                )
                self._learn_scale(namespace, action, answer)
            case ScalePool():
                await self._api.scale(
                    BY_KIND[action.key.kind],
                    action.key.namespace,
                    action.key.name,
                    action.replicas,
                    field_manager=keys.MANAGER_SCALE,
                    resource_version=action.resource_version,
                )
            case MarkPods():
                await self._mark(namespace, action)
            case IssueCertificate():
                await self.issue(action)

    async def _apply_and_record(self, namespace: str, action: ApplyChild, owned: str) -> None:
        answer = await self._apply(namespace, action, owned, dry_run=False)
        found = facts.owned_fields(answer["metadata"].get("managedFields") or ())
        if found not in {owned, ""}:
            # This server divides objects into fields in another way. Left so, it would look like drift.
            again = replace(action, resource_version=answer["metadata"]["resourceVersion"])
            answer = await self._apply(namespace, again, found, dry_run=False)
        self._learn(answer)

    async def _apply(self, namespace: str, action: ApplyChild, owned: str, *, dry_run: bool) -> Object:
        metadata: dict[str, Any] = {**action.manifest["metadata"], "namespace": namespace}
        metadata["annotations"] = {**metadata.get("annotations", {}), keys.ANNOTATION_OWNED_FIELDS: owned}
        if action.resource_version is not None:
            metadata["resourceVersion"] = action.resource_version
        return await self._api.apply(
            RESOURCES[action.kind],
            {**action.manifest, "metadata": metadata},
            field_manager=keys.MANAGER_CHILDREN,
            # Only on an object that was seen to be the pool's own.
            force=action.resource_version is not None,
            dry_run=dry_run,
        )

    async def _delete(self, namespace: str, action: DeleteChild) -> None:
        try:
            await self._api.delete(
                RESOURCES[action.kind],
                namespace,
                action.name,
                propagation=Propagation.BACKGROUND,
                uid=action.uid,
                resource_version=action.resource_version,
            )
        except errors.NotFound:
            logger.debug("%s %s/%s was gone already", action.kind, namespace, action.name)

    async def _mark(self, namespace: str, action: MarkPods) -> None:
        for mark in action.marks:
            since = mark.drain_since
            annotations = {
                keys.ANNOTATION_DRAIN_SINCE: None if since is None else _rfc3339(since),
                keys.ANNOTATION_DELETION_COST: None if since is None else keys.DRAINING_DELETION_COST,
            }
            body: Object = {"metadata": {"uid": mark.uid, "annotations": annotations}}
            try:
                answer = await self._api.patch(
                    PODS, namespace, mark.name, body, field_manager=keys.MANAGER_CHILDREN
                )
            except (errors.NotFound, errors.Invalid, errors.Conflict) as error:
                # Gone, or another pod of the same name: a uid cannot be changed.
                logger.debug("pod %s/%s is not marked: %s", namespace, mark.name, error)
                continue
            self._store.pods.put(facts.pod(answer))

    async def issue(self, action: IssueCertificate) -> None:
        """Make a key and a certificate and put them into the Secret.

        Raises:
            KubeError: the Secret could not be written, or there is no authority yet.
        """
        if self.authority is None:
            raise errors.ServerFailed("there is no authority yet to sign with", reason="AuthorityMissing")
        manifest: Manifest = dict(action.manifest)
        manifest["metadata"] = dict(manifest["metadata"])
        if action.resource_version is not None:
            manifest["metadata"]["resourceVersion"] = action.resource_version
        manifest.setdefault("type", "kubernetes.io/tls")
        manifest["data"] = self.authority.issue(
            action.identity, valid=self._certificate_valid, now=datetime.now(UTC)
        )
        if action.resource_version is None:
            # Creating, not applying: a Secret that somebody else made meanwhile is not overwritten.
            try:
                answer = await self._api.create(SECRETS, manifest)
            except errors.AlreadyExists:
                await self._refuse_what_is_there(SECRETS, manifest)
                raise
        else:
            answer = await self._api.apply(SECRETS, manifest, field_manager=keys.MANAGER_CHILDREN, force=True)
        self._learn(answer)

    def _learn_scale(self, namespace: str, action: ScaleChild, answer: Object) -> None:
        """A pass that still saw the old number would take back marks of pods that are about to end.

        Nothing but the number has changed since the version that was decided on.
        """
        fact = self._store.deployments.get(namespace, action.name)
        version = str((answer.get("metadata") or {}).get("resourceVersion") or "")
        if fact is None or fact.resource_version != action.resource_version or not version:
            return
        value = replace(fact.value, replicas=action.replicas, resource_version=version, is_current=False)
        self._store.deployments.put(replace(fact, resource_version=version, value=value))

    def _learn(self, body: Object) -> None:
        match body["kind"]:
            case "Deployment":
                self._store.deployments.put(facts.deployment(body))
            case "ConfigMap":
                self._store.config_maps.put(facts.config_map(body))
            case "PodDisruptionBudget":
                self._store.budgets.put(facts.budget(body))
            case "Certificate":
                self._store.requests.put(facts.request(body))
            case "Secret":
                fact = secret(body)
                (self._store.own_secrets if fact.pool is None else self._store.secrets).put(fact)
            case other:
                raise AssertionError(f"no collection for {other}")


def _controller(body: Object) -> str:
    """Uid of its controller, or ""."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def secret(body: Object) -> facts.Fact[SecretValue]:
    """What is kept of a Secret with a certificate; other data is not looked at."""
    data = body.get("data") or {}
    issued_for = str((body["metadata"].get("annotations") or {}).get(NAME_ANNOTATION, ""))
    return fact_of(
        body, SecretValue(_decoded(data.get(CERTIFICATE)), _decoded(data.get(AUTHORITY)), issued_for)
    )


def failed(action: Action, error: errors.KubeError) -> FailedAction:
    """The failure as planning sees it."""
    retryable = error.retryable or _was_overtaken(error)
    code = type(error).__name__ if type(error) in {errors.Conflict, errors.NotFound} else error.reason
    return FailedAction(action=action, code=code, message=error.message, retryable=retryable)


def _was_overtaken(error: errors.KubeError) -> bool:
    """A version that has moved on, and an object that is gone, are seen in the next pass; an object or a
    field of somebody else's stays.
    """
    if isinstance(error, errors.NotFound):
        return error.kind_is_served
    return (
        isinstance(error, errors.Conflict)
        and not error.owned_by_others
        and not isinstance(error, errors.AlreadyExists)
    )


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
