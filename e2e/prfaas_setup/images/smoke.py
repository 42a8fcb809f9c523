"""Start an image as a pod will: non-root, root file system read-only, no network, no capability."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from prfaas_setup.images.archive import read_config, unpack
from prfaas_setup.progress import SetupError

START_SECONDS = 60.0


def run_image(archive: Path, arguments: Sequence[str], *, mounts: Sequence[tuple[Path, str]] = ()) -> str:
    """Run the image's program with arguments to its end under runc. Returns what it wrote.

    mounts: folders of this machine and where they are seen, read-only.

    Raises:
        SetupError: it failed; the text has its output.
    """
    if shutil.which("runc") is None:
        raise SetupError("runc was not found; it is needed to try an image: apt-get install runc")
    name = f"prfaas-try-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="prfaas-image-") as folder:
        bundle = Path(folder)
        unpack(archive, bundle / "rootfs")
        (bundle / "config.json").write_text(json.dumps(_specification(archive, arguments, mounts)))
        command = ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                timeout=START_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            subprocess.run(
                ["runc", "--root", str(bundle / "state"), "delete", "--force", name],
                check=False, capture_output=True, timeout=START_SECONDS,
            )  # fmt: skip
            raise SetupError(f"{archive.name} did not end within {START_SECONDS:.0f} s") from error
    if done.returncode:
        raise SetupError(
            f"{archive.name} {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def _specification(
    archive: Path, arguments: Sequence[str], mounts: Sequence[tuple[Path, str]]
) -> dict[str, object]:
    """A runtime specification (OCI 1.0) with what `restricted` pod security demands."""
    image = read_config(archive)
    user, _, group = image.user.partition(":")
    if not user.isdigit() or int(user) == 0:
        raise SetupError(f"{archive.name} runs as user {image.user!r}; pods demand a number that is not 0")
    volumes: list[dict[str, object]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/tmp",  # noqa: S108 - in the image
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777"],
        },
    ]
    volumes += [
        {"destination": at, "type": "bind", "source": str(path), "options": ["rbind", "ro"]}
        for path, at in mounts
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(group or user)},
            "args": [*image.entrypoint, *arguments],
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", *image.env],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": volumes,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }
