"""The division of the CPU: by control groups of either version, or by niceness where none can be made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas_demo import cpu_shares
from tests.helpers import eventually


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child."""
    with subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) as process:
        yield process
        for pid in cpu_shares.descendants(process.pid):
            os.kill(pid, 9)
        process.kill()


def own_path(controller: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    pytest.skip(f"this kernel has no control group hierarchy {controller or 'of version 2'}")


def test_shares_of_version_1(tmp_path: Path) -> None:
    parent = tmp_path / "cpu" / own_path("cpu")
    parent.mkdir(parents=True)
    shares = cpu_shares.claim("run", tmp_path)
    assert shares.means == "cgroup v1"
    shares.enter("prefill", 1234)
    assert (parent / "run-prefill" / "cgroup.procs").read_text() == "1234"
    assert (parent / "run-prefill" / "cpu.shares").read_text() == "1024"
    shares.divide(1)
    values = [int((parent / f"run-{role}" / "cpu.shares").read_text()) for role in cpu_shares.ROLES]
    assert values[0] / values[1] == shares.ratio > 1
    assert sorted(shares.folders.values()) == sorted(cpu_shares.possible_folders("run", tmp_path))
    assert "cpu.shares 4096 : 1024" in shares.describe()


def test_weights_of_version_2(tmp_path: Path) -> None:
    parent = tmp_path / own_path("")
    parent.mkdir(parents=True, exist_ok=True)
    (parent / "cgroup.subtree_control").write_text("cpuset cpu io\n")
    shares = cpu_shares.claim("run", tmp_path)
    assert shares.means == "cgroup v2"
    assert (parent / "run-decode" / "cpu.weight").exists()


def test_groups_that_a_killed_demo_left_are_removed_and_those_of_a_running_one_are_not(
    tmp_path: Path,
) -> None:
    parent = tmp_path / "cpu" / own_path("cpu")
    ended = int(
        subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True).stdout
    )
    left, running = (parent / f"prfaas-demo-{pid}-abc-decode" for pid in (ended, os.getpid()))
    for folder in (left, running):
        folder.mkdir(parents=True)
    cpu_shares.claim("run", tmp_path)
    assert (left.exists(), running.exists()) == (False, True)


def test_version_2_without_the_cpu_controller_is_no_use(tmp_path: Path) -> None:
    (tmp_path / own_path("")).mkdir(parents=True, exist_ok=True)
    (tmp_path / own_path("") / "cgroup.subtree_control").write_text("memory\n")
    assert cpu_shares.claim("run", tmp_path).means == "nice"


def test_niceness_reaches_every_thread_of_every_process(
    tmp_path: Path, shell: subprocess.Popen[bytes]
) -> None:
    shares = cpu_shares.claim("run", tmp_path)
    assert shares.means == "nice"
    (child,) = eventually(lambda: cpu_shares.descendants(shell.pid))
    before = os.getpriority(os.PRIO_PROCESS, shell.pid)
    shares.enter("decode", shell.pid)
    assert os.getpriority(os.PRIO_PROCESS, shell.pid) == before
    shares.divide(shell.pid)
    for pid in (shell.pid, child):
        assert os.getpriority(os.PRIO_PROCESS, pid) == cpu_shares.DECODE_NICE
    assert "niceness" in shares.describe()


def test_a_process_that_has_ended_needs_no_share() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, check=True)
    cpu_shares.CpuShares("nice", 3).divide(int(ended.stdout))
