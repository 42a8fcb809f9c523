"""Ends and removes everything that a demo made, however the demo ended.

A process of its own, deaf to signals that people send to a terminal. Its standard input is its lifeline:
when that ends, the demo has finished, or was killed, and the janitor clears up: every process of the run, the
control groups, the run folder. On the lifeline the demo says which sessions its processes lead, and may say
that the log files are to stay.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from prfaas_demo import cpu_shares
from prfaas_wan.processes import process_ids, send

MARK_VARIABLE = "PRFAAS_DEMO"
KEEP_LOGS = b"keep logs\n"
SESSION = b"session "
GRACE_SECONDS = 3.0
KILL_SECONDS = 10.0
_QUIET_SECONDS = 0.2
_POLL_SECONDS = 0.02
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Order(BaseModel):
    """What a janitor looks after. `mark` is the value of `MARK_VARIABLE` in the run's processes."""

    model_config = ConfigDict(extra="forbid")

    mark: str
    control_groups: list[Path]
    folder: Path
    logs: list[str]
    """Patterns of file names in `folder` that `keep logs` spares."""


class Janitor:
    """The demo's handle on its janitor."""

    def __init__(self, order: Order, process: subprocess.Popen[bytes]) -> None:
        self._order = order
        self._process = process
        self._said = b""
        self._cleared = False

    def look_after(self, session: int) -> None:
        """A process of the run has started a session of its own; all processes in it belong to the run."""
        self._say(b"%s%d\n" % (SESSION, session))

    def keep_logs(self) -> None:
        """Spare the log files when clearing up."""
        self._say(KEEP_LOGS)

    def clear_up(self) -> None:
        """Have everything ended and removed, here if the janitor is gone; returns when that is done."""
        if self._cleared:
            return
        self._cleared = True
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.communicate(timeout=GRACE_SECONDS + KILL_SECONDS + 5)
        if self._process.poll() != 0:
            self._process.kill()
            self._process.wait()
            clear_up(self._order, self._said)

    def _say(self, line: bytes) -> None:
        self._said += line
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()


@contextmanager
def janitor(order: Order) -> Iterator[Janitor]:
    """A janitor for the block, at whose end everything is cleared up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prfaas_demo.janitor", order.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Ctrl-C in a terminal goes to the whole process group; the janitor has one of its own.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": _with_own_folder(os.environ.get("PYTHONPATH"))},
    )
    handle = Janitor(order, process)
    try:
        yield handle
    finally:
        handle.clear_up()


def _with_own_folder(path: str | None) -> str:
    own = str(Path(__file__).resolve().parents[1])
    return own if not path else f"{own}{os.pathsep}{path}"


def main(arguments: Sequence[str]) -> int:
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    order = Order.model_validate_json(arguments[0])
    said = sys.stdin.buffer.read()
    return 0 if clear_up(order, said) else 1


def clear_up(order: Order, said: bytes) -> bool:
    """End the run's processes and remove its traces. False when something survived even SIGKILL.

    Args:
        order: what the run consists of.
        said: what came over the lifeline.
    """
    lines = said.splitlines(keepends=True)
    sessions = {int(line.removeprefix(SESSION)) for line in lines if line.startswith(SESSION)}
    gone = end_processes(order.mark, sessions, GRACE_SECONDS, KILL_SECONDS)
    cpu_shares.remove(order.control_groups)
    if KEEP_LOGS in lines:
        _remove_all_but(order.folder, order.logs)
    else:
        shutil.rmtree(order.folder, ignore_errors=True)
    return gone


def end_processes(mark: str, sessions: set[int], grace_seconds: float, kill_seconds: float) -> bool:
    """SIGTERM, after the grace SIGKILL, to every process of a run. False when some survive even that."""
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, kill_seconds)):
        if _signal_until_gone(mark, sessions, number, seconds):
            return True
    return False


def processes_of(mark: str, sessions: set[int]) -> list[int]:
    """Processes of a run, without this one: those that carry its mark, and those in its sessions.

    The second finds what the first cannot: vLLM writes its processes' titles over their environment. Sessions
    of marked processes are added to `sessions`.
    """
    own = os.getpid()
    alive = [pid for pid in process_ids() if pid != own and not _is_dead(pid)]
    marked = {pid for pid in alive if mark in _marks(pid)}
    # A process that has not made its session yet is in the demo's own.
    sessions.update(session for pid in marked if (session := _session_of(pid)) == pid)
    return [pid for pid in alive if pid in marked or _session_of(pid) in sessions]


def _signal_until_gone(mark: str, sessions: set[int], number: signal.Signals, limit_seconds: float) -> bool:
    told: set[int] = set()
    deadline = time.monotonic() + limit_seconds
    quiet_since: float | None = None
    while time.monotonic() < deadline:
        found = processes_of(mark, sessions)
        for pid in set(found) - told:
            send(pid, number)
            # A stopped process would never see the signal.
            send(pid, signal.SIGCONT)
        told.update(found)
        if found:
            quiet_since = None
        elif quiet_since is None:
            # One that has been forked and has not reached its own program yet carries no mark.
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= _QUIET_SECONDS:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _marks(pid: int) -> set[str]:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return set()
    prefix = MARK_VARIABLE.encode() + b"="
    return {each[len(prefix) :].decode(errors="replace") for each in variables if each.startswith(prefix)}


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _remove_all_but(folder: Path, patterns: Sequence[str]) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif not any(entry.match(pattern) for pattern in patterns):
            entry.unlink(missing_ok=True)
    with suppress(OSError):
        # Where nothing was logged, nothing needs to stay.
        folder.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
