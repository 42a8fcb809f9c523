"""The base of the images that are built here: Debian's Python and what it needs, with nothing else."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

from prfaas_setup import locations, system
from prfaas_setup.locking import only_one
from prfaas_setup.progress import SetupError, run, step

# Bookworm's Python is 3.11, for which the wheels are chosen.
SUITE = "bookworm"
PYTHON_VERSION = "3.11"
BASE_SECONDS = 600.0
# What Debian's Python needs to start, and libstdc++ for tokenizers' compiled part.
PACKAGES = ("python3", "libstdc++6")
# No shell, no package manager, no documents; and no address of the package index that they came from.
REMOVED = re.compile(
    r"etc/(apt|cron\.daily|fstab|hostname|resolv\.conf|rmt|alternatives|logrotate\.d|dpkg)(/|$)"
    r"|usr/share/(?!zoneinfo|python3|mime)[^/]+/|usr/lib/(dpkg|valgrind|systemd|binfmt\.d|mime)(/|$)"
    r"|usr/lib/python3\.11/(lib2to3|pydoc_data|test|idlelib|tkinter|turtledemo|ensurepip)(/|$)"
    r"|var/(cache|log|lib/apt|backups)/|usr/bin/(?!python3)|usr/sbin/|dev/.|.*/__pycache__(/|$)"
)
ACCOUNTS = "root:x:0:0:root:/root:/sbin/nologin\nprfaas:x:65532:65532:prfaas:/tmp:/sbin/nologin\n"
GROUP = "root:x:0:\nprfaas:x:65532:\n"
RECIPE_VERSION = 2


def base_key() -> str:
    """Names what the base is made from. Newer packages of the suite enter after `make clean-cache`."""
    recipe = (str(RECIPE_VERSION), SUITE, *PACKAGES, REMOVED.pattern, ACCOUNTS, GROUP)
    return locations.content_key([part.encode() for part in recipe])


def ensure_base() -> Path:
    """The base's root file system as a tar file in the cache folder; made if needed.

    Raises:
        SetupError: it cannot be made here; the text says what to do.
    """
    target = locations.cache_folder() / "images" / f"base-{base_key()}.tar"
    if target.is_file():
        return target
    with only_one(target.with_suffix(".lock"), "the images' base", timeout_seconds=BASE_SECONDS):
        if target.is_file():
            return target
        system.ensure(system.IMAGE_NEEDS)
        with step(f"base of the images from Debian {SUITE}'s packages"):
            whole, partial = target.with_suffix(".whole.tar"), target.with_suffix(".partial.tar")
            run(_command(whole), timeout_seconds=BASE_SECONDS, env=_environment())
            reduce_base(whole, partial)
            whole.unlink()
            partial.replace(target)
    return target


def reduce_base(whole: Path, target: Path) -> None:
    """Copy a root file system without what no program here needs. The same input gives the same bytes."""
    with tarfile.open(whole) as old, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            member.name = member.name.removeprefix("./")
            if member.name in ("", ".") or REMOVED.match(member.name):
                continue
            member.mtime, member.pax_headers = 0, {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name, text in (("etc/passwd", ACCOUNTS), ("etc/group", GROUP)):
            added = tarfile.TarInfo(name)
            added.size, added.mode = len(text), 0o644
            new.addfile(added, io.BytesIO(text.encode()))


def _command(target: Path) -> list[str | Path]:
    return [
        "mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", SUITE, target, *_sources(),
    ]  # fmt: skip


def _sources() -> list[Path]:
    """The machine's own package sources where it is the same Debian, else (none) mmdebstrap's defaults."""
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        return []
    if f"VERSION_CODENAME={SUITE}" not in release:
        return []
    found = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    return [path for path in found if path.is_file() and path.read_text().strip()]


def _environment() -> dict[str, str]:
    if os.geteuid() != 0 and not Path("/proc/sys/user/max_user_namespaces").is_file():
        raise SetupError("making the images' base needs root or user namespaces: run `make images` as root")
    return {**os.environ, "SOURCE_DATE_EPOCH": "0"}
