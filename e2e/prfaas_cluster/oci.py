"""Writes small container images as OCI archives, without a builder: one layer of given files."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class File:
    """A file or, with neither content nor source, a folder of an image.

    Attributes:
        source: a file on this machine that is copied.
    """

    mode: int = 0o644
    content: bytes | None = None
    source: Path | None = None


def write_image(
    archive: Path,
    reference: str,
    files: Mapping[str, File],
    *,
    entrypoint: Sequence[str] = (),
    user: str = "",
) -> str:
    """Write an archive that `ctr images import` knows under `reference`. The same input gives the same image.

    Returns:
        The digest of its manifest.
    """
    layer = _layer(files)
    config = _json({
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint), "User": user, "WorkingDir": "/", "Env": ["PATH=/usr/bin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    })  # fmt: skip
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, layer)],
    })  # fmt: skip
    index = _json({
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [{**_descriptor(_MANIFEST, manifest), "annotations": _named(reference)}],
    })  # fmt: skip
    partial = archive.with_name(f"{archive.name}.partial")
    with tarfile.open(partial, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (layer, config, manifest):
            _add(tar, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
    partial.replace(archive)
    return _digest(manifest)


def copy_image(source: Path, archive: Path, reference: str) -> None:
    """Write an archive's one image once more, for `ctr images import` to know it by another reference."""
    with tarfile.open(source) as old, tarfile.open(archive, "w") as new:
        for member in old:
            content = old.extractfile(member)
            if member.name.removeprefix("./") != "index.json":
                new.addfile(member, content)
                continue
            index = json.load(content) if content is not None else {}
            (manifest,) = index["manifests"]
            manifest["annotations"] = {**manifest.get("annotations", {}), **_named(reference)}
            _add(new, "index.json", _json(index))


def _named(reference: str) -> dict[str, str]:
    return {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference}


def host_files() -> dict[str, File]:
    """An image for programs that come from the machine by hostPath: accounts, and folders to mount over."""
    accounts = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    groups = b"root:x:0:\nnogroup:x:65534:\n"
    folders = ("bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sys", "usr", "var")
    return {
        **{name: File(0o755) for name in folders},
        "tmp": File(0o1777),
        "etc/passwd": File(content=accounts),
        "etc/group": File(content=groups),
        "etc/nsswitch.conf": File(content=b"hosts: files dns\n"),
    }


def _layer(files: Mapping[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(files.items()):
            content = file.source.read_bytes() if file.source is not None else file.content
            _add(tar, name, content, file.mode)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes | None, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        return
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
