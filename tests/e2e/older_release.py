"""The chart as an older version had it: its definitions of the kinds lack what was added since."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from prfaas.api.crds.definitions import KINDS, crd
from prfaas.api.crds.documents import chart_template
from tests.e2e.stage import CHART

ADDED_FIELD = ("spec", "model", "profileRef")
ADDED_COLUMN = "Message"


def older_chart(folder: Path) -> Path:
    """A copy of the chart in this empty folder, with older CustomResourceDefinitions."""
    chart = folder / CHART.name
    shutil.copytree(CHART, chart)
    for kind in KINDS:
        path = chart / "templates" / "crds" / f"{kind.crd_name}.yaml"
        path.write_text(chart_template(_older(crd(kind))))
    return chart


def columns(definition: dict[str, Any]) -> set[str]:
    """Names of the columns of a CustomResourceDefinition."""
    return {each["name"] for each in definition["spec"]["versions"][0]["additionalPrinterColumns"]}


def has_added_field(definition: dict[str, Any]) -> bool:
    """Whether it knows the field that the older version did not have."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in ADDED_FIELD:
        schema = schema.get("properties", {}).get(name)
        if schema is None:
            return False
    return True


def _older(definition: dict[str, Any]) -> dict[str, Any]:
    older = copy.deepcopy(definition)
    version = older["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [
        each for each in version["additionalPrinterColumns"] if each["name"] != ADDED_COLUMN
    ]
    *above, last = ADDED_FIELD
    schema = version["schema"]["openAPIV3Schema"]
    for name in above:
        schema = schema.get("properties", {}).get(name, {})
    schema.get("properties", {}).pop(last, None)
    return older
