"""OCI archives: what one says about itself, and its file system. Standard library only."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prfaas_setup.progress import SetupError

WHITEOUT = ".wh."


@dataclass(frozen=True)
class ImageConfig:
    """What a runtime needs to start the image."""

    digest: str
    """Of the manifest: what a pod names after the @."""
    entrypoint: list[str]
    env: list[str]
    user: str
    layers: list[str]
    labels: dict[str, str]


def read_config(archive: Path) -> ImageConfig:
    """Read the archive's one image.

    Raises:
        SetupError: it is no OCI archive with one image.
    """
    with tarfile.open(archive) as tar:
        manifests = _json(tar, "index.json")["manifests"]
        if len(manifests) != 1:
            raise SetupError(f"{archive} holds {len(manifests)} images instead of one")
        manifest = _json(tar, _blob(manifests[0]["digest"]))
        config = _json(tar, _blob(manifest["config"]["digest"]))["config"]
    return ImageConfig(
        digest=manifests[0]["digest"],
        entrypoint=config.get("Entrypoint") or [],
        env=config.get("Env") or [],
        user=config.get("User", ""),
        layers=[layer["digest"] for layer in manifest["layers"]],
        labels=config.get("Labels") or {},
    )


def unpack(archive: Path, target: Path) -> None:
    """Lay the image's layers over one another in an empty folder."""
    config = read_config(archive)
    with tarfile.open(archive) as outer:
        for digest in config.layers:
            with tarfile.open(fileobj=outer.extractfile(_blob(digest))) as layer:
                for member in layer:
                    if Path(member.name).name.startswith(WHITEOUT):
                        raise SetupError(
                            f"{archive}: a layer removes {member.name}, which no image here does"
                        )
                    # Own images, and modes are what is to be tried: no filter may mend them.
                    if not member.isdev():
                        layer.extract(member, target, filter="fully_trusted")


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _json(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise SetupError(f"not an OCI archive: it has no {name}")
    return cast("dict[str, Any]", json.load(file))
