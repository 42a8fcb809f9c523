"""Which images there are, and what each is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_setup import locations

# Where the project's packages lie in the checkout.
PACKAGE_FOLDERS = {
    "prfaas": "core/prfaas",
    "prfaas_operator": "operator/prfaas_operator",
    "prfaas_gateway": "gateway/prfaas_gateway",
    "prfaas_sidecar": "sidecar/prfaas_sidecar",
    "prfaas_connector": "sidecar/prfaas_connector",
}
# What every image is built with, beside its own folder.
COMMON_INPUTS = ("images/install.py", "pyproject.toml", "requirements/pip.txt")


@dataclass(frozen=True)
class Part:
    """One image: `images/<name>` and the packages of the project that it runs."""

    name: str
    packages: Sequence[str]
    lock: str | None
    """The hash-locked dependencies in requirements/, or None: none."""
    check: Sequence[str]
    """Arguments that make its program do something harmless and end with 0."""

    @property
    def folder(self) -> Path:
        """Its Dockerfile's folder."""
        return locations.checkout() / "images" / self.name

    def inputs(self) -> list[Path]:
        """Every file of the checkout that decides what the image contains, sorted."""
        root = locations.checkout()
        files = [root / name for name in COMMON_INPUTS]
        files += [path for path in self.folder.iterdir() if path.is_file()]
        files += [locations.requirements(self.lock)] if self.lock else []
        for package in self.packages:
            folder = root / PACKAGE_FOLDERS[package]
            files += [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return sorted(files)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("operator", ("prfaas", "prfaas_operator"), "operator.txt", ("--help",)),
        Part("gateway", ("prfaas", "prfaas_gateway"), "gateway.txt", ("--help",)),
        Part("sidecar", ("prfaas", "prfaas_sidecar", "prfaas_connector"), "sidecar.txt", ("--help",)),
        Part("connector", ("prfaas_connector",), None, ("/tmp",)),  # noqa: S108 - in the image
    )
}
