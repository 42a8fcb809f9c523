"""Whatever is killed, nothing stays: no process, no interface, no namespace, no name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wan_traffic import wait_until

from prfaas_wan import WanConfig, WanError, WanStatus, connect, control, leftovers, processes, wan

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespaces")]

# An owner of its own: one process in a host, and another that became a daemon there and may be stubborn.
_OWNER = """
import sys
from prfaas_wan import WanConfig, wan
with wan(WanConfig(name=sys.argv[1], host_access=True)) as network:
    network.a.popen(["sleep", "1000"])
    network.b.run(["sh", "-c", sys.argv[2] + "setsid sleep 1000 </dev/null >/dev/null 2>&1 &"])
    print(network.status().model_dump_json(), flush=True)
    sys.stdin.read()
"""
_IGNORE_TERM = "trap '' TERM; "


@contextmanager
def owner(name: str, before_daemon: str = "") -> Iterator[tuple[subprocess.Popen[str], WanStatus]]:
    folder = str(Path(leftovers.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, name, before_daemon],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folder},
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, WanStatus.model_validate_json(process.stdout.readline())
        finally:
            process.kill()


def residents(status: WanStatus) -> list[int]:
    return processes.processes_in({host.namespace_inode for host in status.hosts})


def interfaces() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=10).stdout


def left_over(status: WanStatus) -> list[str]:
    watchers = {f"process {pid}" for pid in (status.keeper_pid, status.relay_pid) if _runs(pid)}
    names = {status.name} & set(control.running_names())
    links = {host.outside_interface for host in status.hosts if str(host.outside_interface) in interfaces()}
    return [*watchers, *names, *map(str, links), *map(str, residents(status))]


def _runs(pid: int) -> bool:
    """A zombie has ended: only its parent's attention is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_owner_leaves_nothing() -> None:
    with owner("orphaned", _IGNORE_TERM) as (process, status):
        assert len(residents(status)) >= 2
        process.kill()
        wait_until(lambda: not left_over(status), "everything is gone")


@pytest.mark.parametrize("watcher", ["keeper_pid", "relay_pid"])
def test_a_killed_watcher_takes_everything_with_it(watcher: str) -> None:
    with owner("watched") as (_, status):
        os.kill(getattr(status, watcher), signal.SIGKILL)
        wait_until(lambda: not left_over(status), "everything is gone")


def test_owner_and_keeper_killed_together() -> None:
    with owner("both") as (process, status):
        os.kill(status.keeper_pid, signal.SIGKILL)
        process.kill()
        wait_until(lambda: not left_over(status), "everything is gone")


def test_clean_removes_what_nobody_is_left_to_remove() -> None:
    with owner("wiped") as (process, status), wan(WanConfig(name="healthy", host_access=True)) as healthy:
        watchers = (status.keeper_pid, status.relay_pid)
        for pid in watchers:
            os.kill(pid, signal.SIGSTOP)  # so that neither sees the other die
        process.kill()
        for pid in watchers:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(_runs(pid) for pid in watchers), "the watchers are dead")
        assert residents(status)
        done = leftovers.clean(everything=False)
        assert any("hosts without an emulator" in line for line in done)
        wait_until(lambda: not left_over(status), "everything is gone")
        assert healthy.status().name == "healthy"
        assert leftovers.clean(everything=False) == []


def test_an_owner_that_outlives_its_emulator_is_told() -> None:
    with wan() as network:
        process = network.a.popen(["sleep", "1000"])
        os.kill(network.relay_pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGTERM
        with pytest.raises(WanError) as caught:
            network.cut()
        assert caught.value.code == "NotRunning"


def test_an_error_inside_the_block_cleans_up_too() -> None:
    seen: list[tuple[WanStatus, subprocess.Popen[bytes]]] = []

    def fail() -> None:
        with wan(WanConfig(name="raised")) as network:
            seen.append((network.status(), network.a.popen(["sleep", "1000"])))
            raise RuntimeError("of the test")

    with pytest.raises(RuntimeError, match="of the test"):
        fail()
    [(status, process)] = seen
    assert process.wait(10) == -signal.SIGTERM
    assert left_over(status) == []


def test_stop_from_another_handle_ends_it() -> None:
    with wan(WanConfig(name="stopped")) as network:
        status = network.status()
        handle = connect("stopped")
        handle.stop()
        handle.close()
        wait_until(lambda: not left_over(status), "everything is gone")
