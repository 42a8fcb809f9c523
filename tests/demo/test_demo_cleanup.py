"""Whatever ends the demo, and whenever: no process, namespace, interface, control group or folder stays.

The sidecars and the emulator are real; in place of the engines something runs that never gets ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prfaas_wan import WanError, connect, control, is_supported
from prfaas_wan.processes import process_ids
from tests.helpers import eventually

ENDING_SECONDS = 40.0
STARTING_SECONDS = 40.0
# Like vLLM it has a child without an environment; unlike vLLM neither of them ends when told to.
STUBBORN_ENGINE = """
trap '' TERM INT HUP
env -i sh -c 'while true; do sleep 1000; done' "child in $TMPDIR" &
while true; do sleep 1000; done
"""
LINKS = ["--loopback", pytest.param("--rate=1Gbit", marks=pytest.mark.root)]

pytestmark = pytest.mark.timeout(120)


def emulators_of(owner_pid: int) -> list[str]:
    found = []
    for name in control.running_names():
        with suppress(WanError):
            network = connect(name)
            try:
                if network.status().owner_pid == owner_pid:
                    found.append(f"emulator {name}")
            finally:
                network.close()
    return found


class Run:
    """A demo in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process = process
        self.scratch = scratch

    @property
    def folders(self) -> list[Path]:
        return list(self.scratch.glob("prfaas-demo-*"))

    def processes(self, word: str = "") -> list[int]:
        """Processes of this run that have a word in their command line, alive."""
        return [pid for pid in process_ids() if self._is_ours(pid) and word in _command(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        # The demo and all that it starts have the run's TMPDIR, save those that hide it.
        mark = f"TMPDIR={self.scratch}".encode()
        command = _command(pid)
        return bool(command) and (
            str(self.scratch) in command or any(each.startswith(mark) for each in variables)
        )

    def left_over(self) -> list[str]:
        """What should not be there any more."""
        return [
            *(f"{pid} {_command(pid)}" for pid in self.processes()),
            *emulators_of(self.process.pid),
            *map(str, Path("/sys/fs/cgroup").glob(f"**/prfaas-demo-{self.process.pid}-*")),
            *map(str, self.folders),
        ]

    def engines_run(self) -> bool:
        return len(self.processes("child in /")) == 2


def _command(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if state in "ZX" else line


@contextmanager
def demo(tmp_path: Path, engine: str, *options: str) -> Iterator[Run]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = Run(
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name("stand_in_demo.py"), tmp_path, engine, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": _path()},
        ),
        scratch,
    )
    with run.process:
        try:
            yield run
        finally:
            run.process.kill()


def _path() -> str:
    root = Path(__file__).parents[2]
    return os.pathsep.join([str(root), *(path for path in sys.path if path)])


def needs_emulator(link: str) -> None:
    reason = is_supported()
    if link != "--loopback" and reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("link", LINKS)
def test_ctrl_c_while_engines_start(tmp_path: Path, link: str) -> None:
    needs_emulator(link)
    with demo(tmp_path, STUBBORN_ENGINE, link) as run:
        eventually(run.engines_run, within_seconds=STARTING_SECONDS)
        # A terminal sends it to the whole foreground group, and people press it twice.
        os.killpg(run.process.pid, signal.SIGINT)
        os.killpg(run.process.pid, signal.SIGINT)
        output, _ = run.process.communicate(timeout=ENDING_SECONDS)
        assert run.process.returncode == 128 + signal.SIGINT, output
        assert "nothing is left running" in output
        assert run.left_over() == []


@pytest.mark.parametrize("link", LINKS)
def test_the_demo_is_killed(tmp_path: Path, link: str) -> None:
    needs_emulator(link)
    with demo(tmp_path, STUBBORN_ENGINE, link) as run:
        eventually(run.engines_run, within_seconds=STARTING_SECONDS)
        run.process.kill()
        eventually(lambda: not run.left_over(), within_seconds=ENDING_SECONDS)


def test_the_janitor_is_killed_before_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path, STUBBORN_ENGINE, "--loopback") as run:
        eventually(run.engines_run, within_seconds=STARTING_SECONDS)
        for pid in run.processes("prfaas_demo.janitor"):
            os.kill(pid, signal.SIGKILL)
        run.process.send_signal(signal.SIGTERM)
        output, _ = run.process.communicate(timeout=ENDING_SECONDS)
        assert run.process.returncode == 128 + signal.SIGTERM, output
        assert run.left_over() == []


@pytest.mark.parametrize("moment", ["janitor", "prfaas_sidecar"])
def test_ctrl_c_at_an_earlier_moment(tmp_path: Path, moment: str) -> None:
    with demo(tmp_path, STUBBORN_ENGINE, "--loopback") as run:
        eventually(lambda: run.processes(moment), within_seconds=STARTING_SECONDS)
        run.process.send_signal(signal.SIGINT)
        output, _ = run.process.communicate(timeout=ENDING_SECONDS)
        assert run.process.returncode == 128 + signal.SIGINT, output
        assert run.left_over() == []


def test_an_engine_that_ends_is_named_with_its_last_lines_and_leaves_only_logs(tmp_path: Path) -> None:
    with demo(tmp_path, "echo no such instruction; exit 3", "--loopback") as run:
        output, _ = run.process.communicate(timeout=ENDING_SECONDS)
        assert run.process.returncode == 1
        assert "ended with status 3" in output
        assert "no such instruction" in output
        (folder,) = run.folders
        assert f"All logs: {folder}" in output
        assert {path.suffix for path in folder.iterdir()} == {".log"}
        assert run.processes() == []
