"""A process of a control plane that belongs to whoever started it, and ends with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from prfaas_cluster.errors import ClusterError

GRACE_SECONDS = 5.0
KILL_SECONDS = 10.0
_TAIL_BYTES = 16 << 10


class Process:
    """One program with one log file, which can be started, paused, killed and started again.

    Args:
        title: what a person knows it as.
        command: the program and its arguments.
        log: where its output goes; each start appends.
    """

    def __init__(self, title: str, command: Sequence[str], log: Path) -> None:
        self.title = title
        self.command = list(command)
        self.log = log
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._running.pid if self._running is not None else None

    def start(self) -> None:
        """Start it.

        Raises:
            ClusterError: it runs already, or its program is not there.
        """
        if self._running is not None and self._running.poll() is None:
            raise ClusterError(f"{self.title} runs already")
        if shutil.which(self.command[0]) is None:
            raise ClusterError(f"{self.title} can't be started: there is no program {self.command[0]}")
        # A parent that is killed takes it along: nobody else knows of it.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log.open("ab") as output:
            try:
                self._running = subprocess.Popen(
                    [*tied, *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in a terminal is for whoever started it, who then stops it in order.
                    start_new_session=True,
                )
            except OSError as error:
                raise ClusterError(f"{self.title} can't be started: {error}") from error

    def check(self) -> None:
        """Say so if it has ended.

        Raises:
            ClusterError: it has; the text holds the end of its log.
        """
        if self._running is None:
            raise ClusterError(f"{self.title} was not started")
        status = self._running.poll()
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise ClusterError(f"{self.title} {how}: {last_line(self.log)}", self.log)

    def pause(self) -> None:
        """Stop it in mid-air (SIGSTOP): connections stay open, and nothing answers."""
        self.check()
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would. Returns when it has ended and its ports are free."""
        self._end(signal.SIGKILL, KILL_SECONDS)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End it in order, after the grace by force. One that has ended or never ran is fine."""
        self.resume()
        if not self._end(signal.SIGTERM, grace_seconds):
            self.kill()

    def _end(self, number: signal.Signals, within_seconds: float) -> bool:
        if self._running is None:
            return True
        self._send(number)
        try:
            self._running.wait(within_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _send(self, number: signal.Signals) -> None:
        if self._running is not None and self._running.poll() is None:
            os.kill(self._running.pid, number)


def last_line(log: Path) -> str:
    """The last line of a log file that says something, for an error's text."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it wrote nothing"
