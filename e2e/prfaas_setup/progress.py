"""What the user sees while something takes long. Always on standard error: standard output is for results."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class SetupError(Exception):
    """A set-up step cannot go on. The text says what to do about it."""


def say(text: str) -> None:
    """Tell the user what happens now."""
    print(f"[set-up] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a long step, and say afterwards how long it took."""
    say(f"{text} ...")
    start_seconds = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - start_seconds:.0f} s")


def run(
    command: Sequence[str | Path],
    *,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a command whose output goes to standard error.

    Raises:
        SetupError: the command failed or took longer than `timeout_seconds`.
    """
    shown = " ".join(str(part) for part in command)
    try:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=timeout_seconds,
            env=env,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise SetupError(f"{command[0]} was not found; it is needed for: {shown}") from error
    except subprocess.CalledProcessError as error:
        raise SetupError(f"exit status {error.returncode} from: {shown}") from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"no end after {timeout_seconds:.0f} s: {shown}") from error
