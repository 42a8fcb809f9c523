"""Namespaces under one first process, which ends everything inside when it ends.

A sandbox is found again by what its first process carries in its environment: nothing has to be remembered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_cluster import assets
from prfaas_cluster.errors import ClusterError

MARK_VARIABLE = "PRFAAS_CLUSTER"
PART_VARIABLE = "PRFAAS_CLUSTER_PART"
START_SECONDS = 10.0
END_SECONDS = 20.0
COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.05
# The shell ends at once and leaves the program to whoever collects orphans.
_DETACHED = ("sh", "-c", 'setsid "$0" "$@" &')


@dataclass(frozen=True)
class Sandbox:
    """A running one.

    Attributes:
        cluster, name: whose it is, and which of it.
        pid: its first process, as the machine sees it.
    """

    cluster: str
    name: str
    pid: int

    def enter(self, command: Sequence[str | Path], *, new_processes: bool = True) -> list[str]:
        """A command line that runs `command` inside.

        Args:
            new_processes: also in the sandbox's process namespace, so that it ends with the sandbox.
        """
        namespaces = ["--net", "--mount", "--uts", *(["--pid"] if new_processes else [])]
        return ["nsenter", f"--target={self.pid}", *namespaces, "--", *map(str, command)]

    def run(self, command: Sequence[str | Path], *, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run a command inside to its end. Returns its output.

        Raises:
            ClusterError: it failed.
        """
        return run(self.enter(command), timeout_seconds=timeout_seconds)

    def start(
        self, part: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start a program that goes on when this process ends, and ends when the sandbox does."""
        with log.open("ab") as output:
            subprocess.run(
                self.enter([*_DETACHED, *command]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_clean_environment(), **(env or {}), PART_VARIABLE: f"{self.cluster}/{part}"},
                timeout=COMMAND_SECONDS,
                check=True,
            )

    def part(self, part: str, program: Path) -> int | None:
        """The process id of a part that `start` started and that runs still.

        Args:
            program: tells the part from what it has started, which carries its mark too.
        """
        return running_parts(self.cluster).get((part, str(program)))

    def end(self) -> None:
        """End everything inside, at once.

        Raises:
            ClusterError: it can't be ended.
        """
        deadline = time.monotonic() + END_SECONDS
        while is_alive(self.pid):
            send(self.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"process {self.pid} of the cluster {self.cluster} doesn't end")
            time.sleep(POLL_SECONDS)


def make_sandbox(cluster: str, name: str, log: Path) -> Sandbox:
    """A new one: own network (loopback is up), mounts (shared among those inside), processes and host name.

    Raises:
        ClusterError: this user or machine may not make namespaces.
    """
    command = [
        "unshare",
        "--net",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--mount-proc",
        "--propagation=private",
    ]
    with log.open("ab") as output:
        started = subprocess.run(
            [*_DETACHED, *command, str(assets.program("pause"))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_clean_environment(), MARK_VARIABLE: f"{cluster}/{name}"},
            timeout=COMMAND_SECONDS,
            check=False,
        )
    deadline = time.monotonic() + START_SECONDS
    while (found := find_sandbox(cluster, name)) is None:
        if started.returncode != 0 or time.monotonic() > deadline:
            raise ClusterError("namespaces can't be made here (it needs root)", log)
        time.sleep(POLL_SECONDS)
    found.run(["mount", "--make-rshared", "/"])
    found.run(["ip", "link", "set", "lo", "up"])
    return found


def find_sandbox(cluster: str, name: str) -> Sandbox | None:
    return next((each for each in find_sandboxes(cluster) if each.name == name), None)


def find_sandboxes(cluster: str | None = None) -> list[Sandbox]:
    """All that run, of one cluster or of all."""
    found = []
    for pid in process_ids():
        if not _arguments(pid)[0].endswith(b"/pause"):
            continue
        for variable in _environment(pid):
            key, _, value = variable.partition(b"=")
            owner, _, name = value.decode(errors="replace").partition("/")
            if key.decode(errors="replace") == MARK_VARIABLE and name and cluster in (None, owner):
                found.append(Sandbox(owner, name, pid))
    return sorted(found, key=lambda each: (each.cluster, each.name))


def running_parts(cluster: str) -> dict[tuple[str, str], int]:
    """Process ids of all that `Sandbox.start` started and that runs still, by part and program."""
    mark = f"{PART_VARIABLE}={cluster}/"
    found = {}
    for pid in process_ids():
        for variable in _environment(pid):
            text = variable.decode(errors="replace")
            if text.startswith(mark):
                found[text.removeprefix(mark), _arguments(pid)[0].decode(errors="replace")] = pid
    return found


def run(command: Sequence[str | Path], *, timeout_seconds: float = COMMAND_SECONDS, stdin: str = "") -> str:
    """Run a command to its end. Returns its output.

    Raises:
        ClusterError: it failed, took too long, or isn't there; the text holds what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"there is no command {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"no end after {timeout_seconds:.0f} s: {' '.join(words)}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ClusterError(f"exit status {done.returncode} from `{' '.join(words)}`: {said}")
    return done.stdout


def process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _arguments(pid: int) -> list[bytes]:
    return _read(pid, "cmdline").rstrip(b"\0").split(b"\0")


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _clean_environment() -> dict[str, str]:
    """What programs need, and nothing that would be seen in a pod or change how Go programs work."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
