"""No package of the project escapes the checks."""

from __future__ import annotations

import tomllib

from prfaas_setup import locations

ROOT = locations.checkout()
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTS = ("core", "operator", "sidecar", "gateway", "e2e")
PACKAGES = {
    f"{path.parent.parent.name}/{path.parent.name}"
    for part in PARTS
    for path in ROOT.glob(f"{part}/*/__init__.py")
}
NAMES = {package.partition("/")[2] for package in PACKAGES}


def test_every_package_is_type_checked() -> None:
    assert set(CONFIGURATION["tool"]["mypy"]["packages"]) == NAMES


def test_every_package_is_under_the_import_rules() -> None:
    assert set(CONFIGURATION["tool"]["importlinter"]["root_packages"]) == NAMES


def test_every_package_is_in_the_distribution() -> None:
    assert set(CONFIGURATION["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES


def test_every_package_is_typed() -> None:
    assert [package for package in sorted(PACKAGES) if not (ROOT / package / "py.typed").is_file()] == []
