"""Write what is generated into a checkout, or say what differs: `python -m prfaas.api.crds [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from prfaas.api.crds.documents import chart_files, crd_files
from prfaas.api.crds.reference import api_reference

CRDS_FOLDER = Path("crds")
CHART_FOLDER = Path("charts/prfaas/templates/crds")
REFERENCE = Path("docs/api.md")


def generated() -> dict[Path, str]:
    """Content by path in a checkout."""
    return (
        {CRDS_FOLDER / name: text for name, text in crd_files().items()}
        | {CHART_FOLDER / name: text for name, text in chart_files().items()}
        | {REFERENCE: api_reference()}
    )


def differences(root: Path) -> list[Path]:
    """Files that are missing, differ from what would be generated, or are left over from it."""
    wanted = generated()
    wrong = [path for path, text in wanted.items() if not _holds(root / path, text)]
    there = [
        file.relative_to(root) for folder in (CRDS_FOLDER, CHART_FOLDER) for file in (root / folder).glob("*")
    ]
    return sorted({*wrong, *(path for path in there if path not in wanted)})


def write(root: Path) -> list[Path]:
    """Bring the checkout up to date; returns what changed."""
    changed = differences(root)
    wanted = generated()
    for path in changed:
        file = root / path
        if path in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[path], encoding="utf-8")
        else:
            file.unlink()
    return changed


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


def main(arguments: list[str]) -> int:
    """Run from the root of a checkout; 1 when --check finds a difference."""
    root = Path.cwd()
    if arguments == ["--check"]:
        for path in (wrong := differences(root)):
            print(f"{path} is not what the models say: run make crds", file=sys.stderr)
        return 1 if wrong else 0
    if arguments:
        print("usage: python -m prfaas.api.crds [--check]", file=sys.stderr)
        return 2
    for path in write(root):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
