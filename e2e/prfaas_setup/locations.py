"""Where things lie: in the checkout, and in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prfaas_setup.progress import SetupError

# Part of every cache name, so that a change in how things are built never meets what was built before it.
RECIPE_VERSION = 1


def checkout() -> Path:
    """The root of the checkout that this package lies in.

    Raises:
        SetupError: the package was installed without its checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "requirements" / "engine.txt").is_file():
        raise SetupError(f"{root} is no checkout of prfaas; run this from a clone of the repository")
    return root


def requirements(name: str) -> Path:
    """A file of the folder requirements/."""
    return checkout() / "requirements" / name


def venv() -> Path:
    """The virtual environment with the project and its tools."""
    return checkout() / ".venv"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The project's folder in the user's cache folder.

    A relative XDG_CACHE_HOME is ignored, as its standard demands.
    """
    configured = environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".cache"
    return base / "prfaas"


def content_key(parts: Sequence[bytes]) -> str:
    """A short name for everything that decides what a cached thing contains: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:12]


def python_tag() -> bytes:
    """The running Python and machine, as far as installed packages depend on them."""
    version = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version}-{sys.platform}-{platform.machine()}".encode()
