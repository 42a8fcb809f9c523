"""What is made once per region: the authority, the gateways' certificate, and what gateways are told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from prfaas.api import keys
from prfaas.api.keys import PoolKind
from prfaas.api.snapshot import LinkTarget, Snapshot
from prfaas.api.v1alpha1 import ConditionStatus, PrefillRouteSpec
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import CERTIFICATES, CONFIG_MAPS, SECRETS, Object
from prfaas_operator.planning import certificates as renewal
from prfaas_operator.planning.actions import IssueCertificate
from prfaas_operator.planning.children import contains
from prfaas_operator.planning.issuing import certificate_ready, certificate_spec
from prfaas_operator.planning.rotation import SETTLE, Step
from prfaas_operator.planning.snapshot import SnapshotRoute, pool_for_snapshot
from prfaas_operator.planning.values import Issuer, ObservedRequest, PoolKey, RouteKey
from prfaas_operator.runtime import certificates, facts
from prfaas_operator.runtime.certificates import Authority, AuthorityUnusable
from prfaas_operator.runtime.executor import Executor, secret
from prfaas_operator.runtime.facts import CustomValue, Fact
from prfaas_operator.runtime.observer import Observer, parse_spec
from prfaas_operator.runtime.planner import Planner
from prfaas_operator.runtime.queue import RetryLater
from prfaas_operator.runtime.rotation import Rotation
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FleetKey:
    """The one key of its kind."""

    def __str__(self) -> str:
        return "fleet"


FLEET = FleetKey()
POOL_KINDS: tuple[PoolKind, ...] = (keys.PREFILL_POOL, keys.DECODE_POOL)
# Nobody watches the own namespace: so long may it take until what somebody deleted there is made again.
LOOK_SECONDS = 60.0
LEAST_LIFE = timedelta(minutes=10)
LEAST_PAUSE_SECONDS = 2.0
ISSUING_SECONDS = 5.0
MISSING_REMEDY = (
    "the API server does not serve kind Certificate of cert-manager.io/v1. Install it, or take "
    "certificates.issuerRef out of the chart's values"
)
LABELS = {keys.LABEL_MANAGED_BY: keys.MANAGED_BY}


class Fleet:
    """Passes over the operator's own namespace.

    Args:
        authority_known: called when the region's authority was made or read for the first time.
        links: what gateways are told of links; None while what they were told before holds.
    """

    def __init__(
        self,
        api: KubeApi,
        store: Store,
        *,
        planner: Planner,
        observer: Observer,
        executor: Executor,
        namespace: str,
        region: str,
        authority_known: Callable[[], None],
        rotation_settle: timedelta = SETTLE,
        links: Callable[[], tuple[LinkTarget, ...] | None] = lambda: None,
    ) -> None:
        self._api = api
        self._store = store
        self._planner = planner
        self._observer = observer
        self._executor = executor
        self._namespace = namespace
        self._region = region
        self._authority_known = authority_known
        self.rotation = Rotation(
            api,
            namespace=namespace,
            region=region,
            region_trusts=self._region_trusts,
            old_leaves=self._old_leaves,
            settle=rotation_settle,
        )
        self._trouble = ""
        self._links = links
        self._told: dict[PoolKey, tuple[str, int]] = {}

    def has_told(self, pool: PoolKey, uid: str, generation: int) -> bool:
        """Whether the last pass told the gateways of this pool as it is now."""
        return self._told.get(pool) == (uid, generation)

    async def prepare(self) -> None:
        """Read the authority, and make it when there is none; what the own namespace holds otherwise. Where
        cert-manager issues, there is no authority to know.

        Raises:
            KubeError: the API server could not be asked.
            AuthorityUnusable: the Secret is there and holds none.
        """
        if self._observer.issuer is None:
            await self._know_authority()
        try:
            known = await self._api.get(SECRETS, self._namespace, keys.GATEWAY_TLS_SECRET)
            self._store.own_secrets.put(secret(known))
        except errors.NotFound:
            # Never made, or gone without a word: nobody watches the own namespace.
            stored = self._store.own_secrets.get(self._namespace, keys.GATEWAY_TLS_SECRET)
            if stored is not None:
                self._store.own_secrets.remove(stored)

    async def pass_(self, resync_seconds: float) -> float:
        """One pass; when to look again.

        Raises:
            RetryLater: the authority cannot be used.
        """
        now = datetime.now(UTC)
        try:
            await self.prepare()
        except AuthorityUnusable as error:
            # What gateways are told does not hang on it.
            await self._tell_gateways(now)
            raise RetryLater(str(error), 30.0) from error
        due_seconds = await self._certify(now)
        await self._tell_gateways(now)
        rotation = self.rotation.plan
        rotation_seconds = (
            LOOK_SECONDS
            if rotation.step is Step.NOTHING
            else max(LEAST_PAUSE_SECONDS, rotation.look_again_seconds or 0.0)
        )
        return min(resync_seconds, due_seconds, LOOK_SECONDS, rotation_seconds)

    def signing_id(self) -> str:
        """SHA-256 of the authority that signs here, "" while it is not known."""
        if self._executor.authority is not None:
            return self._executor.authority.signing_id
        gateways = self._store.own_secrets.get(self._namespace, keys.GATEWAY_TLS_SECRET)
        if self._observer.issuer is None or gateways is None:
            return ""
        return certificates.authority_id(gateways.value.authority)

    def _own_trust(self) -> str | None:
        """What gateways trust of the own region beside their file: an issuer's authority may be replaced.

        A bundle that cannot be read is left out, so that it harms nobody who holds a certificate.
        """
        own = self._observer.geography.regions.get(self._region)
        if self._observer.issuer is None or own is None or not self._region_trusts():
            return None
        return own.trust

    def _region_trusts(self) -> frozenset[str] | None:
        """Authorities in the own Region's trustBundle."""
        fact = self._observer.geography.regions.get(self._region)
        if fact is None:
            return None
        try:
            found = x509.load_pem_x509_certificates((fact.trust or "").encode())
        except ValueError:
            return frozenset()
        return frozenset(certificates.authority_id(each.public_bytes(Encoding.PEM)) for each in found)

    def _old_leaves(self, authority_id: str) -> int:
        """Certificates of pools and gateways that are not of this authority with what it trusts."""
        return sum(
            1
            for fact in (*self._store.secrets, *self._store.own_secrets)
            if fact.value.certificate and certificates.authority_id(fact.value.authority) != authority_id
        )

    async def _know_authority(self) -> None:
        """Use the stored authority. Asked each time: somebody may have deleted it, or put another there.

        Raises:
            AuthorityUnusable: there is none to sign with.
        """
        held = self._executor.authority
        try:
            stored = await self._authority(held)
        except AuthorityUnusable as error:
            if held is not None and not _ends(held):
                logger.warning("%s; the one in memory is used on, until this process ends", error)
                return
            self._executor.authority, self._observer.authority_id = None, ""
            raise
        if held is None or held.id != stored.id:
            self._executor.authority, self._observer.authority_id = stored, stored.id
            self._authority_known()

    async def _authority(self, held: Authority | None) -> Authority:
        source = f"Secret {self._namespace}/{keys.CA_SECRET}"
        try:
            body = await self._api.get(SECRETS, self._namespace, keys.CA_SECRET)
        except errors.NotFound:
            body = await self._make_authority(held)
        stored = certificates.load_authority(body.get("data") or {}, source=source)
        if await self.rotation.advance(body, stored, datetime.now(UTC)):
            body = await self._api.get(SECRETS, self._namespace, keys.CA_SECRET)
            stored = certificates.load_authority(body.get("data") or {}, source=source)
        if _ends(stored):
            raise AuthorityUnusable(
                f"{source}: it ends at {stored.ends_at:%Y-%m-%dT%H:%M:%SZ}: put another there"
            )
        return stored

    async def _make_authority(self, held: Authority | None) -> Object:
        """Made anew, or the one in memory put back: a new one would be strange to every pod that runs."""
        made = (
            held.data()
            if held is not None
            else certificates.new_authority(self._region, now=datetime.now(UTC))
        )
        body: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": self._namespace, "name": keys.CA_SECRET, "labels": LABELS},
            "type": "kubernetes.io/tls",
            "data": made,
        }
        try:
            answer = await self._api.create(SECRETS, body)
        except errors.AlreadyExists:
            return await self._api.get(SECRETS, self._namespace, keys.CA_SECRET)
        what = "made" if held is None else "put back"
        logger.warning("the region's authority was %s: Secret %s/%s", what, self._namespace, keys.CA_SECRET)
        return answer

    async def _certify(self, now: datetime) -> float:
        """Issue the gateways' certificate when it is due; seconds until it is due again."""
        identity = self._planner.gateway_identity()
        name = keys.GATEWAY_TLS_SECRET
        if self._observer.issuer is not None:
            return await self._have_issued(self._observer.issuer, name, identity)
        observed = self._observer.certificate(self._namespace, name, None)
        why = renewal.why_due(observed, identity=identity, authority_id=self._observer.authority_id, now=now)
        if why is not None:
            manifest: Object = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"namespace": self._namespace, "name": name, "labels": LABELS},
                "type": "kubernetes.io/tls",
            }
            version = None if observed is None else observed.resource_version
            await self._executor.issue(IssueCertificate(manifest, identity, version, why))
            logger.info("certificate of the gateways issued: %s", why)
            observed = self._observer.certificate(self._namespace, name, None)
        return renewal.seconds_until_due(observed, now) or 60.0

    async def _have_issued(self, issuer: Issuer, name: str, identity: str) -> float:
        """Ask cert-manager for the gateways' certificate; seconds until it is looked at again."""
        wanted = certificate_spec(issuer, secret_name=name, identity=identity, labels=LABELS)
        try:
            stored: Object = await self._api.get(CERTIFICATES, self._namespace, name)
        except errors.NotFound as error:
            if not error.kind_is_served:
                self._complain(f"cert-manager is missing: {MISSING_REMEDY}")
                return ISSUING_SECONDS
            stored = {}
        if not contains(stored.get("spec") or {}, wanted):
            body: Object = {"metadata": {"namespace": self._namespace, "name": name, "labels": LABELS}}
            body["spec"] = wanted
            stored = await self._api.apply(
                CERTIFICATES, body, field_manager=keys.MANAGER_CHILDREN, force=True
            )
            logger.info("the gateways' certificate is asked for from %s %s", issuer.kind, issuer.name)
        observed = self._observer.certificate(self._namespace, name, None)
        asked = ObservedRequest(facts.child(stored, "spec").value, *facts.readiness(stored))
        ready = certificate_ready(issuer, asked, observed, identity)
        if ready.status is ConditionStatus.TRUE:
            self._complain("")
            return LOOK_SECONDS
        self._complain(f"gateways: {ready.message}")
        return ISSUING_SECONDS

    def _complain(self, trouble: str) -> None:
        """Each trouble once."""
        if trouble and trouble != self._trouble:
            logger.warning("%s", trouble)
        self._trouble = trouble

    async def _tell_gateways(self, now: datetime) -> None:
        """Write the snapshot when it differs from what is stored."""
        found = {
            _key(kind, fact): fact
            for kind in POOL_KINDS
            for fact in self._store.custom(kind)
            if not fact.value.deleted
        }
        self._told = {key: (fact.uid, fact.value.generation) for key, fact in found.items()}
        pools = (
            replace(pool, profile=self._observer.profile_points(fact))
            for key, fact in found.items()
            if (pool := pool_for_snapshot(key, json.loads(fact.value.spec))) is not None
        )
        routes = (
            SnapshotRoute(
                RouteKey(fact.namespace, fact.name),
                fact.value.created_at,
                spec,
                fact.value.annotations,
                self._observer.measured_of(RouteKey(fact.namespace, fact.name)).threshold_tokens,
            )
            for fact in self._store.routes
            if not fact.value.deleted
            and (spec := parse_spec(PrefillRouteSpec, fact.value.spec)[0]) is not None
        )
        snapshot = self._planner.snapshot(pools, routes, now, self._observer.geography)
        # Asked each time: somebody may have deleted it, and a gateway that starts then has no other.
        stored = await self._stored_policy()
        links = self._links()
        if links is None:
            # An operator that has just started knows of no budget; a closed link must not open for that.
            links = stored.links if stored is not None else ()
        snapshot = snapshot.with_links(links, self._own_trust())
        if stored is not None and stored.computed_revision() == snapshot.revision:
            return
        body: Object = {
            "metadata": {
                "namespace": self._namespace,
                "name": keys.GATEWAY_POLICY_CONFIG_MAP,
                "labels": LABELS,
            },
            "data": {keys.GATEWAY_POLICY_KEY: snapshot.to_json()},
        }
        await self._api.apply(CONFIG_MAPS, body, field_manager=keys.MANAGER_CHILDREN, force=True)
        logger.info("gateways are told: snapshot %s, %d models", snapshot.revision[:12], len(snapshot.models))

    async def _stored_policy(self) -> Snapshot | None:
        try:
            body = await self._api.get(CONFIG_MAPS, self._namespace, keys.GATEWAY_POLICY_CONFIG_MAP)
            return Snapshot.from_json(body["data"][keys.GATEWAY_POLICY_KEY])
        except (errors.NotFound, KeyError, TypeError, ValueError):
            return None


def _ends(authority: Authority) -> bool:
    """What it would sign could not be used for long enough to be renewed."""
    return authority.ends_at - datetime.now(UTC) < LEAST_LIFE


def _key(kind: PoolKind, fact: Fact[CustomValue]) -> PoolKey:
    return PoolKey(kind, fact.namespace, fact.name)
