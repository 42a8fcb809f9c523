"""The CRDs: per kind its names, its columns and its subresources around the schema of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from prfaas.api.crds.structural import structural_schema
from prfaas.api.keys import CATEGORY, GROUP, VERSION
from prfaas.api.v1alpha1 import DecodePool, KVLink, ModelKVProfile, PrefillPool, PrefillRoute, Region
from prfaas.api.v1alpha1.schema import VALIDATIONS

READY = ".status.conditions[?(@.type=='Ready')]"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a wide one is shown with `-o wide` only."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False

    def to_api(self) -> dict[str, Any]:
        """As a CRD has it."""
        column = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        return column | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class Kind:
    """What a CRD says beside the schema."""

    model: type[BaseModel]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    status: bool = True
    scale: bool = False
    namespaced: bool = True

    @property
    def name(self) -> str:
        """The kind, `PrefillPool`."""
        return self.model.__name__

    @property
    def crd_name(self) -> str:
        """Name of the CRD, `prefillpools.prfaas.io`."""
        return f"{self.plural}.{GROUP}"


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since the object was made.", type="date")
_READY_COLUMNS = (
    Column("Ready", f"{READY}.status", "Whether it does what it is for."),
    Column("Reason", f"{READY}.reason", "Why it is ready or not."),
)
_MESSAGE = Column("Message", f"{READY}.message", "Why, and what to do.", wide=True)

_POOL_COLUMNS = (
    Column("Model", ".spec.model.name", "Name that clients use for the model."),
    Column("Desired", ".status.desiredReplicas", "Engine instances that there should be.", type="integer"),
    Column("Available", ".status.readyReplicas", "Engine instances that are ready.", type="integer"),
    *_READY_COLUMNS,
    Column(
        "Progress",
        ".status.conditions[?(@.type=='Reconciling')].reason",
        "Settled, what the operator is at, or why it cannot go on.",
    ),
    Column("Limited-By", ".status.limitedBy", "What keeps the pool from its number of instances."),
    Column("Clusters", ".status.placed", "In the hub: ready/wanted instances by cluster."),
    _AGE,
    Column("Mode", ".spec.scaling.mode", "Who decides on the number of instances.", wide=True),
    Column(
        "Updated", ".status.updatedReplicas", "Instances of the newest revision.", type="integer", wide=True
    ),
    Column("Held-Until", ".status.hold.until", "When a hold ends by itself.", wide=True),
    Column("Engine", ".spec.engine.type", "The inference engine.", wide=True),
    Column("Fingerprint", ".status.kv.fingerprint", "KV moves between equal ones only.", wide=True),
    _MESSAGE,
)

KINDS: tuple[Kind, ...] = (
    Kind(PrefillPool, "prefillpools", "ppool", _POOL_COLUMNS, scale=True),
    Kind(DecodePool, "decodepools", "dpool", _POOL_COLUMNS, scale=True),
    Kind(
        PrefillRoute,
        "prefillroutes",
        "proute",
        (
            Column("Decode", ".spec.decodePoolRef.name", "The decode pool that the route is about."),
            Column("Mode", ".status.effectiveMode", "What the gateways were told to do."),
            Column(
                "Threshold",
                ".status.effectiveThresholdTokens",
                "Uncached tokens up to which a prompt is prefilled locally.",
                type="integer",
            ),
            Column(
                "Saving/Day",
                ".status.observed.savingPerDay",
                "Prefill that the decode pool is spared, if all decisions are carried out.",
            ),
            Column(
                "TTFT",
                ".status.observed.ttftDifference",
                "Predicted change of the time to the first token of requests worth it.",
            ),
            *_READY_COLUMNS,
            _AGE,
            Column("Binds", ".status.plan.binds", "What stands in the way of more."),
            Column(
                "Measured",
                ".status.observed.measuredTtftDifference",
                "The change of the time to the first token as Canary has measured it.",
                wide=True,
            ),
            Column("Wanted", ".spec.mode", "The mode that the manifest asks for.", wide=True),
            Column(
                "Local-Until", ".status.localOnly.until", "When a switch to local ends by itself.", wide=True
            ),
            Column(
                "Compatible",
                ".status.conditions[?(@.type=='KVCompatible')].status",
                "Whether the pools' KV means the same to all of them.",
                wide=True,
            ),
            _MESSAGE,
        ),
    ),
    Kind(
        ModelKVProfile,
        "modelkvprofiles",
        "kvprofile",
        (
            Column("Model", ".spec.model.name", "Name that clients use for the model."),
            Column("Revision", ".spec.model.revision", "Revision of the weights; empty: any."),
            _AGE,
        ),
        status=False,
    ),
    Kind(
        Region,
        "regions",
        "rgn",
        (
            *_READY_COLUMNS,
            Column("Peer", ".spec.peer.address", "Where its gateways listen for those of other regions."),
            Column("Jurisdiction", ".spec.jurisdiction", "Whose law holds there."),
            _AGE,
            Column(
                "Reachable",
                ".status.conditions[?(@.type=='Reachable')].reason",
                "How its gateways are seen from here.",
                wide=True,
            ),
            Column(
                "Hub",
                ".status.conditions[?(@.type=='HubReachable')].reason",
                "How the own region sees the hub.",
                wide=True,
            ),
            _MESSAGE,
        ),
        namespaced=False,
    ),
    Kind(
        KVLink,
        "kvlinks",
        "kvlink",
        (
            Column("Source", ".spec.source.region", "The region that sends KV."),
            Column("Destination", ".spec.destination.region", "The region that receives KV."),
            *_READY_COLUMNS,
            Column(
                "Goodput",
                ".status.goodputBitsPerSecond",
                "Bits of KV per second of transfer.",
                type="integer",
            ),
            Column("Used%", ".status.utilisationPercent", "Use of the capacity, in percent.", type="integer"),
            Column("RTT", ".status.rttSeconds", "Round trip, in seconds.", type="number"),
            Column("Spent", ".status.spentBytes", "Bytes since the month began.", type="integer"),
            _AGE,
            _MESSAGE,
        ),
        namespaced=False,
    ),
)

_ROOT_PROPERTIES = {
    "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
    "kind": {"type": "string", "description": "The kind of the object."},
    "metadata": {"type": "object"},
}


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    subresources: dict[str, Any] = {"status": {}} if kind.status else {}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.to_api() for column in kind.columns],
        "schema": {"openAPIV3Schema": root_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name, "labels": {"app.kubernetes.io/name": "prfaas"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "versions": [version | ({"subresources": subresources} if subresources else {})],
        },
    }


def root_schema(kind: Kind) -> dict[str, Any]:
    """The schema of a whole object."""
    whole = structural_schema(kind.model, defaults=True)
    properties = _ROOT_PROPERTIES | {"spec": whole["properties"]["spec"]}
    if kind.status:
        status = structural_schema(kind.model, defaults=False)["properties"]["status"]
        properties["status"] = status
    schema = {
        "description": whole["description"],
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    }
    return schema | ({VALIDATIONS: whole[VALIDATIONS]} if VALIDATIONS in whole else {})
