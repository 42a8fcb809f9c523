"""`python -m prfaas_setup COMMAND`: results on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from prfaas_setup import environments
from prfaas_setup.progress import SetupError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m prfaas_setup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("venv", help="create or refresh .venv")
    commands.add_parser("lock", help="resolve requirements/*.txt anew")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "venv":
            environments.ensure_venv()
        elif chosen.command == "lock":
            environments.write_locks()
    except SetupError as error:
        print(f"prfaas set-up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
