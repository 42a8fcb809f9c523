"""From a user's pod template to the template that runs: a function of values."""

from __future__ import annotations

from prfaas_operator.injection.inject import inject
from prfaas_operator.injection.references import TemplateReference, template_references
from prfaas_operator.injection.results import Injected, InjectionInfo, Refusal, Refusals
from prfaas_operator.injection.revision import revision_hash
from prfaas_operator.injection.settings import Settings, settings_of
from prfaas_operator.injection.sidecar_config import sidecar_config

__all__ = [
    "Injected",
    "InjectionInfo",
    "Refusal",
    "Refusals",
    "Settings",
    "TemplateReference",
    "inject",
    "revision_hash",
    "settings_of",
    "sidecar_config",
    "template_references",
]
