"""The CRDs as text: one file per kind, one file for all, and the chart's templates."""

from __future__ import annotations

from typing import Any

import yaml

from prfaas.api.crds.definitions import KINDS, crd

ALL_FILE = "prfaas-crds.yaml"
_HEADER = "# Generated from the models of prfaas.api.v1alpha1 by `make crds`; do not edit.\n"
_KEEP = """\
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


class _Plain(yaml.SafeDumper):
    """YAML without anchors, lists set in below their key."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def to_yaml(document: Any) -> str:
    """A document as YAML with its keys in the order that they have."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)


def crd_files() -> dict[str, str]:
    """Content by file name: one file per kind, and one with all for GitOps."""
    each = {f"{kind.crd_name}.yaml": to_yaml(crd(kind)) for kind in KINDS}
    whole = "---\n".join(each.values())
    return {name: _HEADER + text for name, text in each.items()} | {ALL_FILE: _HEADER + whole}


def chart_files() -> dict[str, str]:
    """Content by file name of the chart's copies, which `crds.enabled` and `crds.keep` govern."""
    return {f"{kind.crd_name}.yaml": _HEADER + chart_template(crd(kind)) for kind in KINDS}


def chart_template(definition: dict[str, Any]) -> str:
    """A CustomResourceDefinition as a template of the chart."""
    text, name = to_yaml(definition), definition["metadata"]["name"]
    if "{{" in text:
        raise ValueError(f"{name}: a description holds {{{{, which Helm would take for its own")
    head, name_line, rest = text.partition(f"  name: {name}\n")
    return f"{{{{- if .Values.crds.enabled }}}}\n{head}{name_line}{_KEEP}{rest}{{{{- end }}}}\n"
