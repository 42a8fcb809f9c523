"""What an injection gives: a template, or refusals that name field and remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from prfaas.api.conditions import Reason
from prfaas.api.v1alpha1 import ChargedTo

Template = dict[str, Any]
"""A pod template as a Deployment has it: `metadata` (labels, annotations) and `spec`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing in a pool that cannot be carried out.

    Attributes:
        field: path in the pool, such as `spec.workload.template.spec.containers[engine].args`.
        reason: of the condition Accepted.
        message: what is wrong and what to do; names values of the user's only where they are no secrets.
    """

    field: str
    reason: Reason
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why a pool's pods cannot be made; at least one."""

    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> Reason:
        """The first one's, which becomes the condition's."""
        return self.refusals[0].reason

    @property
    def message(self) -> str:
        """All of them, for the condition's message."""
        return "; ".join(str(refusal) for refusal in self.refusals)


@dataclass(frozen=True, slots=True)
class InjectionInfo:
    """What was injected, for the annotation `prfaas.io/injection` and `status.kv`.

    Attributes:
        arena_bytes: shared memory of each pod for KV.
        charged_to: whose memory limit holds the arena.
    """

    version: str
    sidecar_image: str
    connector_image: str
    arena_bytes: int
    charged_to: ChargedTo

    def annotation(self) -> str:
        """JSON of images and version."""
        return json.dumps(
            {"connector": self.connector_image, "sidecar": self.sidecar_image, "version": self.version},
            sort_keys=True,
        )


@dataclass(frozen=True, slots=True)
class Injected:
    """A pool's pods as they will run, but for the label of the revision."""

    template: Template
    info: InjectionInfo
