"""The connector carrier's only program: copy the connector to where the engine imports it from, and end.

    carry.py [TARGET]   TARGET is /opt/prfaas unless given; the pod mounts an empty volume there

A second run, after the node restarted the pod, finds its own copy and replaces it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SOURCE = Path("/connector")


def main(target: Path) -> None:
    """Copy every package of the carrier, and say what was done."""
    if not target.is_dir():
        sys.exit(f"carry: {target} is not a folder: mount the connector's volume there")
    for package in sorted(SOURCE.iterdir()):
        try:
            shutil.copytree(package, target / package.name, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            sys.exit(f"carry: {target} cannot be written by user {_user()}: {error}")
        print(f"carry: {package.name} is in {target}")


def _user() -> str:
    return f"{os.getuid()}:{os.getgid()}"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/opt/prfaas"))
