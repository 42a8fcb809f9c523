"""What each reason of a condition means: the source of the tables in docs/api.md."""

from __future__ import annotations

from typing import Final

from prfaas.api.conditions import ConditionType, Reason

_ACCEPTED = {
    Reason.ACCEPTED: ("True", "Nothing stands against it."),
    Reason.INVALID_SPEC: ("False", "This version cannot read the stored spec; the message names the field."),
    Reason.ENGINE_NOT_SUPPORTED: ("False", "`engine.type` is an engine that is not served yet."),
    Reason.NOT_IMPLEMENTED: (
        "False",
        "A field asks for something that this version cannot do; use another field.",
    ),
    Reason.ENGINE_CONTAINER_MISSING: (
        "False",
        "The template has no container of the name `engine.container`.",
    ),
    Reason.FIELD_CONFLICT: (
        "False",
        "The template sets something that prfaas has to set; the message names it.",
    ),
    Reason.GRACE_PERIOD_TOO_SHORT: (
        "False",
        "`terminationGracePeriodSeconds` is shorter than the drain: raise it, leave it out, or lower "
        "`drain.timeoutSeconds`.",
    ),
    Reason.MEMORY_LIMIT_TOO_SMALL: (
        "False",
        "A memory limit cannot hold the arena: raise it or lower `kv.arena`.",
    ),
    Reason.TEMPLATE_REJECTED: (
        "False",
        "The API server refuses the pods' template; the message names the field.",
    ),
    Reason.CERT_MANAGER_MISSING: (
        "False",
        "An issuer of cert-manager's is configured, and the API server does not serve its kind Certificate: "
        "install cert-manager, or take certificates.issuerRef out of the chart's values.",
    ),
    Reason.OPERATOR_FORBIDDEN: (
        "False",
        "RBAC forbids the operator what the pool needs; the message names the right that it lacks.",
    ),
    Reason.CHILD_NOT_OWNED: ("False", "An object that has the name of a child belongs to somebody else."),
    Reason.MODEL_MISMATCH: (
        "False",
        "The pools of a route, or a pool and its profile, name different models.",
    ),
    Reason.ROUTE_CONFLICT: ("False", "An older route is about the same decode pool; that one counts."),
    Reason.HOST_PORT_NOT_ALLOWED: (
        "False",
        "`transport.hostPort` is not in the range that the operator's configuration allows "
        "(`federation.hostPorts`).",
    ),
    Reason.KV_PROXY_MISSING: (
        "False",
        "`transport.reach` Passthrough needs the region's proxy: set `federation.kvProxyAddress`.",
    ),
    Reason.ANNOTATION_INVALID: ("False", "`prfaas.io/hold` or `prfaas.io/local-only` cannot be read."),
}
_RESOLVED_REFS = {
    Reason.RESOLVED: ("True", "Everything named is there."),
    Reason.PROFILE_NOT_FOUND: ("False", "`model.profileRef` names no ModelKVProfile."),
    Reason.SECRET_NOT_FOUND: ("False", "The template needs a Secret that does not exist."),
    Reason.CONFIG_MAP_NOT_FOUND: ("False", "The template needs a ConfigMap that does not exist."),
    Reason.VOLUME_CLAIM_NOT_FOUND: (
        "False",
        "The template needs a PersistentVolumeClaim that does not exist.",
    ),
    Reason.SERVICE_ACCOUNT_NOT_FOUND: ("False", "The template names a ServiceAccount that does not exist."),
    Reason.VOLUME_NOT_SHAREABLE: ("False", "Several instances would share a volume that only one can mount."),
    Reason.UNKNOWN_CLUSTER: ("False", "A placement names a cluster that no Region has; it is left out."),
    Reason.DECODE_POOL_NOT_FOUND: ("False", "`decodePoolRef` names no DecodePool."),
    Reason.PREFILL_POOL_NOT_FOUND: ("False", "One of `prefillPoolRefs` names no PrefillPool."),
}
_WORKLOADS_AVAILABLE = {
    Reason.AVAILABLE: ("True", "As many instances are ready as the rollout demands."),
    Reason.SCALED_TO_ZERO: ("True", "None is wanted and none is there."),
    Reason.STARTING: ("False", "Instances are starting."),
    Reason.NOT_ENOUGH_READY: ("False", "Fewer instances are ready than the rollout demands."),
    Reason.IMAGE_PULL_FAILED: ("False", "An image cannot be pulled; the message names it."),
    Reason.CRASH_LOOPING: ("False", "A container keeps ending; the message names it and its last exit."),
    Reason.CONTAINER_CONFIG_FAILED: ("False", "A container cannot be made; the message says what it lacks."),
    Reason.OOM_KILLED: (
        "False",
        "A container needed more memory than its limit; the message names it, the limit, and how often.",
    ),
    Reason.RESTARTING: ("False", "A container has ended and is started anew; the message has its last exit."),
    Reason.SIDECAR_NOT_READY: ("False", "An engine is ready and a sidecar beside it is not."),
    Reason.PODS_REJECTED: ("False", "The API server refuses the pods; the message has its words."),
    Reason.POD_NOT_PREPARED: (
        "False",
        "A node has not got a pod's volumes and network ready within a minute; the message names them.",
    ),
    Reason.READINESS_GATE_CLOSED: ("False", "Engines are ready, a readiness gate of their pods is not."),
    Reason.NODE_NOT_ANSWERING: ("False", "The node of a pod has stopped to answer; the message names it."),
    Reason.PODS_LOST: (
        "False",
        "Pods were evicted, preempted, refused by a node or lost with it; others are starting.",
    ),
}
_KV_COMPATIBLE = {
    Reason.FINGERPRINTS_AGREE: ("True", "The engines' fingerprints are equal."),
    Reason.FINGERPRINT_MISMATCH: (
        "False",
        "Engines have different fingerprints: no KV moves between them, prompts are prefilled locally.",
    ),
    Reason.FINGERPRINT_UNKNOWN: ("Unknown", "No engine has told its fingerprint yet."),
}
_SCALING_ACTIVE = {
    Reason.STATIC: ("True", "The manifest decides."),
    Reason.EXTERNAL: ("True", "An autoscaler decides through /scale."),
    Reason.MANAGED: ("True", "prfaas decides and writes /scale."),
    Reason.HELD: ("True", "`prfaas hold` decides until the hold ends."),
    Reason.REPLICAS_OWNED_BY_MANIFEST: (
        "False",
        "Mode Managed, and another manager owns `spec.replicas`: take it out of the manifest.",
    ),
    Reason.AUTOSCALER_ON_MANAGED_POOL: (
        "False",
        "Mode Managed, and an autoscaler targets the pool: remove it, or use mode External.",
    ),
    Reason.LOAD_UNKNOWN: (
        "False",
        "Mode Managed, and no engine tells of its load: the size stays. Look at a sidecar's `/status`.",
    ),
}
_SCALING_LIMITED = {
    Reason.NOT_LIMITED: ("False", "Nothing stands in the way."),
    Reason.NO_CAPACITY: ("True", "Pods wait for a node; nothing more is added meanwhile."),
    Reason.QUOTA_PENDING: (
        "True",
        "Pods wait for a quota or a scheduling gate; nothing more is added meanwhile.",
    ),
    Reason.TOO_MANY_REPLICAS: ("True", "More would be wanted than `scaling.maxReplicas`."),
    Reason.TOO_FEW_REPLICAS: ("True", "Fewer would be wanted than `scaling.minReplicas`."),
    Reason.LINK_SATURATED: (
        "True",
        "More prefill would be of use, and the links from here are full: another region gets it, or nobody.",
    ),
    Reason.LINK_BUDGET_SPENT: (
        "True",
        "More prefill would be of use, and the month's budgets of the links from here are spent.",
    ),
    Reason.LINK_DOWN: ("True", "More prefill would be of use, and the links from here are down."),
    Reason.LINK_UNKNOWN: (
        "True",
        "More prefill would be of use, and nothing recent is known of the links from here; see `kubectl get "
        "kvlink`.",
    ),
    Reason.QUOTA_EXHAUSTED: (
        "True",
        "More would be wanted than the quota of the operator's configuration has.",
    ),
    Reason.BUDGET_EXHAUSTED: (
        "True",
        "More would be wanted than `autoscaler.budget_per_hour` of the operator's configuration pays for.",
    ),
    Reason.HELD: ("True", "`prfaas hold` keeps the number until it ends."),
}
_READY = {
    Reason.PLACED_ELSEWHERE: ("Unknown", "The placement names other clusters: this one makes nothing of it."),
    Reason.SERVING: ("True", "A pool that serves."),
    Reason.SCALED_TO_ZERO: ("True", "A pool of which no instance is wanted."),
    Reason.ENFORCING: ("True", "A route in mode Enforce with a pair that can exchange KV."),
    Reason.CANARY: ("True", "A route in mode Canary with a pair that can exchange KV."),
    Reason.OBSERVING: ("True", "A route in mode Observe."),
    Reason.LOCAL_ONLY: ("True", "A route that `prfaas route` switched to local prefill."),
    Reason.NO_READY_PAIR: (
        "False",
        "A route without a pair of ready, compatible engines: prompts are local.",
    ),
    Reason.REACHED: ("True", "A region whose gateways are heard here, and whose authorities can be used."),
    Reason.OWN_REGION: ("True", "The own region, and nothing is wrong with its part in the federation."),
    Reason.NOT_OBSERVED: ("Unknown", "Nothing was seen yet."),
}
_RECONCILING = {
    Reason.ROLLING_OUT: ("True", "Pods are replaced by those of the newest revision."),
    Reason.SCALING: ("True", "Instances are added or removed."),
    Reason.DRAINING: ("True", "Instances finish their requests before they end."),
    Reason.WAITING_FOR_PODS: ("True", "Pods are starting."),
    Reason.RETRYING: ("True", "The API server refused something that may succeed later; it is tried again."),
    Reason.SETTLED: ("False", "Nothing is left to do."),
}
_STALLED = {
    Reason.NOT_STALLED: ("False", "Nothing waits for a person."),
    Reason.CHILD_CONTESTED: (
        "True",
        "Somebody else keeps changing a child; the message names who. It is put back ever less often.",
    ),
}

# Status and meaning by reason, by type. A Ready that is False and a Stalled that is True carry the reason of
# the detail that made them so.
_REACHABLE = {
    Reason.OWN_REGION: ("True", "It is this cluster's own region."),
    Reason.REACHED: ("True", "Gateways here hear its gateways."),
    Reason.NO_PEER_ADDRESS: ("False", "`peer.address` is absent, so nothing can be prefilled there."),
    Reason.CLUSTERS_SHARE_ADDRESS: (
        "False",
        "The region has several clusters behind one `peer.address`, of which gateways here use one at a "
        "time: give each cluster a Region of its own.",
    ),
    Reason.NAME_NOT_RESOLVED: ("False", "The name in `peer.address` has no address here: look at the DNS."),
    Reason.CONNECTION_FAILED: (
        "False",
        "Nobody takes a connection at `peer.address`: look at routes, firewalls and the region's Service.",
    ),
    Reason.TLS_FAILED: (
        "False",
        "The handshake fails; the message says where and why: compare `trustBundle` with the region's "
        "authority, and look for certificates that have ended.",
    ),
    Reason.WRONG_IDENTITY: (
        "False",
        "Somebody else answers at `peer.address`: it has to be a gateway of this region.",
    ),
    Reason.NOT_AUTHORISED: (
        "False",
        "The region does not know this one: it needs this region's Region object, with its trustBundle.",
    ),
    Reason.CLOCKS_DIFFER: ("False", "The clocks differ by more than certificates allow for: look at NTP."),
    Reason.SILENT: ("False", "It was heard before, and says nothing now."),
    Reason.NOT_LOOKED_YET: ("Unknown", "No gateway here has told yet."),
}
_TRUST_BUNDLE_VALID = {
    Reason.BUNDLE_VALID: ("True", "The bundle can be used."),
    Reason.ROTATING: ("True", "The bundle has more than one authority: one is being replaced."),
    Reason.BUNDLE_MISSING: ("False", "`trustBundle` is absent: nobody of the region is believed."),
    Reason.BUNDLE_UNREADABLE: ("False", "`trustBundle` holds no certificates of authorities."),
    Reason.AUTHORITY_EXPIRED: ("False", "All its authorities have ended: begin a rotation in that region."),
    Reason.AUTHORITY_NOT_IN_BUNDLE: (
        "False",
        "On the own region: the authority that signs here is not in `trustBundle`, so that other regions do "
        "not believe this one: run `prfaas federation init` again, and `join`.",
    ),
}
_REPORT_FRESH = {
    Reason.REPORTED: ("True", "All clusters have renewed their Leases within 30 seconds."),
    Reason.LEASE_STALE: (
        "False",
        "A cluster has not renewed its Lease; the message names it and since when.",
    ),
    Reason.NEVER_REPORTED: ("Unknown", "A cluster has never been heard of: has it joined?"),
}
_HUB_REACHABLE = {
    Reason.HUB_ANSWERS: ("True", "The hub answers."),
    Reason.NO_HUB: ("True", "`federation.source` is Local, or this cluster is the hub: none is needed."),
    Reason.HUB_SILENT: ("False", "The hub does not answer. Everything goes on with what was last wanted."),
    Reason.HUB_REFUSES: ("False", "The hub refuses: rights or token; the message says which."),
}
_MIRROR_READY = {
    Reason.MIRRORED: ("True", "All that the hub wants here is here."),
    Reason.NO_HUB: ("True", "Nothing is mirrored here."),
    Reason.MIRRORING: ("Unknown", "The hub has not been listed yet."),
    Reason.NAME_CLASH: ("False", "An object of the same name is here already, and not from the hub."),
    Reason.MIRROR_REFUSED: (
        "False",
        "Something may not be, or cannot be, carried out here; the message says what.",
    ),
    Reason.FROZEN: (
        "False",
        "The hub is another one, or much is gone at once: nothing is changed until `prfaas federation "
        "accept-deletes`, or until it is back.",
    ),
}
_TOKEN_VALID = {
    Reason.TOKEN_TAKEN: ("True", "The hub takes the token."),
    Reason.NO_HUB: ("True", "None is needed."),
    Reason.TOKEN_ENDS_SOON: ("False", "The token ends within a week: run `prfaas federation join` again."),
    Reason.TOKEN_REFUSED: ("False", "The hub refuses the token: run `prfaas federation join` again."),
}
_HEALTHY = {
    Reason.MEASURED: ("True", "KV came through lately, at a good pace."),
    Reason.IDLE: ("Unknown", "No KV has come through lately."),
    Reason.SLOW: ("False", "Much slower than its capacity says."),
    Reason.LOSSY: ("False", "Many segments have to be sent again."),
    Reason.TRANSFERS_FAIL: ("False", "Transfers fail; the message has the code."),
}
_CONGESTED = {
    Reason.SATURATED: ("True", "It carries as much as it can."),
    Reason.BUDGET_SPENT: ("True", "The month's budget is spent: prompts stay local."),
    Reason.BUDGET_UNKNOWN: (
        "True",
        "There is a budget, and what is spent cannot be read (ConfigMap `prfaas-egress`): that counts as "
        "spent. Restore the ConfigMap, or delete it to count anew.",
    ),
    Reason.NOT_SATURATED: ("False", "There is room."),
    Reason.IDLE: ("False", "No KV has come through lately."),
}
_DOWN = {
    Reason.TRANSFERS_FAIL: ("True", "Nothing comes through; the message has the code."),
    Reason.CARRIES: ("False", "KV comes through."),
    Reason.IDLE: ("Unknown", "Nothing was tried lately."),
}

_CERTIFICATE_READY = {
    Reason.CERTIFICATE_ISSUED: ("True", "It is issued. The message says until when it is valid."),
    Reason.CERTIFICATE_PENDING: (
        "False",
        "cert-manager has not issued it, or not renewed it yet; the message has its words. Look at the "
        "Certificate and its CertificateRequest (kubectl describe). Pods that have one go on with it.",
    ),
    Reason.CERTIFICATE_WRONG: (
        "False",
        "What the issuer signed is not what sidecars need: one URI with the pool's identity, and ca.crt. "
        "Use an issuer that keeps URIs and gives its authority (CA, Vault).",
    ),
    Reason.CERT_MANAGER_MISSING: ("False", "The API server does not serve cert-manager's kind Certificate."),
}

_PROFILE_FITS = {
    Reason.PROFILE_FITS: ("True", "The measurements are within a quarter of the profile's."),
    Reason.PROFILE_DRIFTS: (
        "False",
        "They are not; the message has the quantity and the ratio. Sizes are chosen by the measurements. "
        "Renew the ModelKVProfile, or look at why the engines are slower than they were.",
    ),
    Reason.PROFILE_UNMEASURED: ("Unknown", "Too little was measured yet."),
}

REASON_TEXTS: Final[dict[ConditionType, dict[Reason, tuple[str, str]]]] = {
    ConditionType.READY: _READY,
    ConditionType.RECONCILING: _RECONCILING,
    ConditionType.STALLED: _STALLED,
    ConditionType.ACCEPTED: _ACCEPTED,
    ConditionType.RESOLVED_REFS: _RESOLVED_REFS,
    ConditionType.WORKLOADS_AVAILABLE: _WORKLOADS_AVAILABLE,
    ConditionType.KV_COMPATIBLE: _KV_COMPATIBLE,
    ConditionType.SCALING_ACTIVE: _SCALING_ACTIVE,
    ConditionType.SCALING_LIMITED: _SCALING_LIMITED,
    ConditionType.PROFILE_FITS: _PROFILE_FITS,
    ConditionType.CERTIFICATE_READY: _CERTIFICATE_READY,
    ConditionType.REACHABLE: _REACHABLE,
    ConditionType.TRUST_BUNDLE_VALID: _TRUST_BUNDLE_VALID,
    ConditionType.REPORT_FRESH: _REPORT_FRESH,
    ConditionType.HUB_REACHABLE: _HUB_REACHABLE,
    ConditionType.MIRROR_READY: _MIRROR_READY,
    ConditionType.TOKEN_VALID: _TOKEN_VALID,
    ConditionType.HEALTHY: _HEALTHY,
    ConditionType.CONGESTED: _CONGESTED,
    ConditionType.DOWN: _DOWN,
}
