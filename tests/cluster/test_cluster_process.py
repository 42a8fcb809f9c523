"""Processes that belong to whoever started them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_cluster.errors import ClusterError
from prfaas_cluster.process import Process
from tests.helpers import children, eventually, kill

COUNTING = ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"]
PARENT = """
import sys
from pathlib import Path
from prfaas_cluster.process import Process
process = Process("sleeper", ["sleep", "600"], Path(sys.argv[1]))
process.start()
print(process.pid, flush=True)
sys.stdin.read()
"""


def state_of(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_paused_resumed_and_stopped_in_order(tmp_path: Path) -> None:
    process = Process("counter", COUNTING, tmp_path / "log")
    process.start()
    try:
        eventually(lambda: "ready" in (tmp_path / "log").read_text())
        with pytest.raises(ClusterError, match="counter runs already"):
            process.start()
        process.pause()
        eventually(lambda: state_of(process) == "T")
        process.resume()
        eventually(lambda: state_of(process) != "T")
        # Also when it is paused, it hears that it is to end.
        process.pause()
    finally:
        process.stop()
    with pytest.raises(ClusterError, match=r"counter ended with status 3: bye \(log: .*log\)"):
        process.check()
    process.stop()


def test_a_killed_process_can_be_started_again(tmp_path: Path) -> None:
    process = Process("sleeper", ["sleep", "600"], tmp_path / "log")
    process.start()
    first = process.pid
    process.kill()
    with pytest.raises(ClusterError, match="was killed by signal 9: it wrote nothing"):
        process.check()
    process.start()
    process.check()
    assert process.pid != first
    process.kill()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = Process("ghost", ["/no/such/program"], tmp_path / "log")
    with pytest.raises(ClusterError, match="ghost can't be started: there is no program /no/such/program"):
        process.start()
    process.stop()


def test_a_process_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert pid in children(parent.pid)
        kill(parent.pid)
    # Orphans come to this process.
    eventually(lambda: pid not in children())
