"""``python -m prfaas_connector.install DIR``: puts this package into DIR, for an engine that has DIR on its
``PYTHONPATH``. The carrier image's command; a second call finds its work done."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent


def install(target: Path) -> Path:
    """Copies the package to ``target/prfaas_connector``, readable for everybody, as a whole or not at all.

    An importer sees the old package or the new one, except between two renames when another version is
    replaced; the engine is not running then, since this runs before it.

    Raises:
        OSError: the folder cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    final = target / PACKAGE.name
    mark = secrets.token_hex(4)
    fresh, old = target / f".{PACKAGE.name}.new-{mark}", target / f".{PACKAGE.name}.old-{mark}"
    for left in target.glob(f".{PACKAGE.name}.*-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.copytree(
            PACKAGE, fresh, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copyfile
        )
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if final.exists():
            final.rename(old)
        fresh.rename(final)
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
    return final


def main(arguments: list[str]) -> int:
    """Exit status: 0 when the package is there, 1 when it cannot be, 2 when it is not said where."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m prfaas_connector.install DIR", file=sys.stderr)
        return 2
    try:
        print(f"prfaas_connector: installed in {install(Path(arguments[0]))}")
    except OSError as error:
        print(
            f"prfaas_connector: cannot install into {arguments[0]}: {error.strerror or error};"
            f" the folder must be writable for user {os.getuid()}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
