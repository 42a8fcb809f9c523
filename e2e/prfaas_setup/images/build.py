"""Build images from their Dockerfiles, with buildah here or with Docker or Podman when asked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_setup import locations, system
from prfaas_setup.images.archive import read_config
from prfaas_setup.images.base import base_key, ensure_base
from prfaas_setup.images.parts import PARTS, Part
from prfaas_setup.images.smoke import run_image
from prfaas_setup.images.wheels import build_project_wheel, ensure_wheels
from prfaas_setup.locking import only_one
from prfaas_setup.progress import SetupError, run, say, step

BUILD_SECONDS = 900.0
# The name that an archive gives its image, before the tag; what the chart's image.registry defaults to.
REGISTRY = "prfaas.io"
BASE_REFERENCE = "localhost/prfaas-base:local"
BASE_DOCKERFILE = "FROM scratch\nADD base.tar /\n"
ENGINES = ("buildah", "docker", "podman")


@dataclass(frozen=True)
class BuiltImage:
    """An image in the user's cache folder."""

    name: str
    archive: Path
    reference: str
    """Name and tag under which the archive is imported."""
    digest: str
    archive_bytes: int


def image_tag(part: Part) -> str:
    """The tag of an image built from this checkout: it names everything that went in."""
    root = locations.checkout()
    contents = [base_key().encode(), locations.RECIPE_VERSION.to_bytes(4, "little")]
    for path in part.inputs():
        contents += [str(path.relative_to(root)).encode(), path.read_bytes()]
    return f"dev-{locations.content_key(contents)}"


def ensure_images(names: Iterable[str] = tuple(PARTS)) -> dict[str, BuiltImage]:
    """The named images as OCI archives; those that are missing are built and started once.

    Raises:
        SetupError: an image cannot be built here, or does not start.
    """
    return {name: _ensure_image(_part(name)) for name in names}


def build_for_engine(engine: str, base: str, names: Sequence[str], registry: str = REGISTRY) -> None:
    """Build images into the store of Docker or Podman, from a base that is named with its digest.

    Raises:
        SetupError: the base has no digest, or a build failed.
    """
    if engine not in ENGINES[1:]:
        raise SetupError(f"ENGINE={engine} is not known; it may be {' or '.join(ENGINES[1:])}, or left out")
    if "@sha256:" not in base:
        raise SetupError(
            "BASE must name an image by digest, for example BASE=python:3.11-slim-bookworm@sha256:…; "
            "`docker buildx imagetools inspect python:3.11-slim-bookworm` shows the present one"
        )
    for name in names:
        part = _part(name)
        with step(f"image {name} by {engine}"), _Context(part) as context:
            reference = f"{registry}/{name}:{image_tag(part)}"
            run(
                [engine, "build", "--network", "none", "--build-arg", f"BASE={base}",
                 "--build-arg", f"VERSION={_version()}", "--tag", reference, context.folder],
                timeout_seconds=BUILD_SECONDS,
            )  # fmt: skip
            say(f"{engine} has {reference}")


def _part(name: str) -> Part:
    if name not in PARTS:
        raise SetupError(f"no image {name!r}; there are {', '.join(PARTS)}")
    return PARTS[name]


def _ensure_image(part: Part) -> BuiltImage:
    tag = image_tag(part)
    folder = locations.cache_folder() / "images"
    archive = folder / f"{part.name}-{tag}.tar"
    reference = f"{REGISTRY}/{part.name}:{tag}"
    if not archive.is_file():
        with only_one(archive.with_suffix(".lock"), f"image {part.name}", timeout_seconds=BUILD_SECONDS):
            if not archive.is_file():
                _build(part, reference, archive)
                _forget_older(folder, part.name, archive)
    return BuiltImage(
        part.name, archive, reference, read_config(archive).digest, archive_bytes=archive.stat().st_size
    )


def _build(part: Part, reference: str, archive: Path) -> None:
    system.ensure(system.IMAGE_NEEDS)
    base = ensure_base()
    with step(f"image {part.name}"), _Context(part) as context:
        partial = archive.with_suffix(".partial.tar")
        partial.unlink(missing_ok=True)
        storage = ("--root", context.scratch / "root", "--runroot", context.scratch / "run",
                   "--storage-driver", "vfs")  # fmt: skip
        options = ("--quiet", "--isolation", "chroot", "--timestamp", "0")
        shutil.copy(base, context.base_folder / "base.tar")
        (context.base_folder / "Dockerfile").write_text(BASE_DOCKERFILE)
        for name, folder, arguments in (
            (BASE_REFERENCE, context.base_folder, ()),
            (reference, context.folder, (f"BASE={BASE_REFERENCE}", f"VERSION={_version()}")),
        ):
            build_args = [word for argument in arguments for word in ("--build-arg", argument)]
            run(
                ["buildah", *storage, "bud", *options, *build_args, "--tag", name, folder],
                timeout_seconds=BUILD_SECONDS,
            )
        run(
            ["buildah", *storage, "push", "--quiet", reference, f"oci-archive:{partial}:{reference}"],
            timeout_seconds=BUILD_SECONDS,
        )
        try:
            run_image(partial, part.check)
            partial.replace(archive)
        finally:
            partial.unlink(missing_ok=True)


def _version() -> str:
    text = (locations.checkout() / "core" / "prfaas" / "__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def _forget_older(folder: Path, name: str, newest: Path) -> None:
    """Keep this image and the one before it: a second checkout may share the cache."""
    older = sorted(folder.glob(f"{name}-dev-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [path for path in older if path != newest][1:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


class _Context:
    """The folder that a Dockerfile sees, and scratch space for the builder; gone afterwards."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._temporary = tempfile.TemporaryDirectory(prefix="prfaas-build-")
        self.folder = Path(self._temporary.name) / "context"
        self.base_folder = Path(self._temporary.name) / "base"
        self.scratch = Path(self._temporary.name) / "storage"

    def __enter__(self) -> _Context:
        self.folder.mkdir()
        self.base_folder.mkdir()
        self.scratch.mkdir()
        shutil.copytree(ensure_wheels(self._part.lock), self.folder / "wheels")
        (self.folder / "project").mkdir()
        build_project_wheel(self.folder / "project")
        if self._part.lock is not None:
            shutil.copy(locations.requirements(self._part.lock), self.folder / "requirements.txt")
        shutil.copy(locations.checkout() / "images" / "install.py", self.folder)
        for path in self._part.folder.iterdir():
            if path.is_file():
                shutil.copy(path, self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()
