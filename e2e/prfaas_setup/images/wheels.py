"""What goes into an image: the locked wheels, pip to install them with, and the project's own wheel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from prfaas_setup import environments, locations
from prfaas_setup.images.base import PYTHON_VERSION
from prfaas_setup.locking import only_one
from prfaas_setup.progress import run, step

DOWNLOAD_SECONDS = 900.0
BUILD_SECONDS = 300.0
# Newest first: what Debian bookworm's C library (2.36) can load.
PLATFORMS = (
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)


def ensure_wheels(lock: str | None) -> Path:
    """A folder with pip's wheel and those of a lock, each checked against its hash; fetched if needed.

    Raises:
        SetupError: they cannot be fetched.
    """
    locks = [locations.requirements(name) for name in ("pip.txt", lock) if name is not None]
    key = locations.content_key([*(path.read_bytes() for path in locks), *(p.encode() for p in PLATFORMS)])
    target = locations.cache_folder() / "images" / f"wheels-{key}"
    with only_one(target.with_suffix(".lock"), "wheels", timeout_seconds=DOWNLOAD_SECONDS):
        if not target.is_dir():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            with step(f"wheels of requirements/{lock or 'pip.txt'}"):
                for path in locks:
                    _download(path, partial)
            partial.replace(target)
    return target


def _download(lock: Path, target: Path) -> None:
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    # pip alone among the tools can fetch for another Python than the one that runs it.
    run(
        [locations.venv() / "bin" / "python", "-m", "pip", "download", "--quiet",
         "--disable-pip-version-check", "--no-deps",
         "--only-binary", ":all:", "--require-hashes", "--implementation", "cp",
         "--python-version", PYTHON_VERSION, *platforms, "--dest", target, "--requirement", lock],
        timeout_seconds=DOWNLOAD_SECONDS,
        env=environments.installer_env(),
    )  # fmt: skip


def build_project_wheel(target: Path) -> Path:
    """Build the project's wheel into a folder, with the locked build tool and nothing fetched."""
    run(
        [environments.uv(), "build", "--quiet", "--wheel", "--offline", "--no-build-isolation",
         "--python", locations.venv() / "bin" / "python", "--out-dir", target, locations.checkout()],
        timeout_seconds=BUILD_SECONDS,
        env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"},
    )  # fmt: skip
    (wheel,) = target.glob("prfaas-*.whl")
    return wheel
