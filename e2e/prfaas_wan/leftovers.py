"""Finds and removes what is left when every process that watches over an emulator was killed at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from prfaas_wan import control, processes
from prfaas_wan.emulator import MARK_VARIABLE, START_SECONDS, connect
from prfaas_wan.errors import WanError
from prfaas_wan.hosts import ACCESS_PREFIX, run_ip
from prfaas_wan.status import WanStatus

_GRACE_SECONDS = 2.0
_KEEPER_WORDS = (b"-m", b"prfaas_wan.keeper")


def clean(*, everything: bool) -> list[str]:
    """Returns a line for each thing done. Emulators that work are left alone unless `everything`."""
    done = _stop_all() if everything else []
    working = list(_working())
    done += _end_stray_keepers(
        {pid for status in working for pid in (status.keeper_pid, status.relay_pid)},
        least_age_seconds=0 if everything else START_SECONDS,
    )
    done += _end_stray_processes({host.namespace_inode for status in working for host in status.hosts})
    done += _remove_stray_interfaces(
        {host.outside_interface for status in working for host in status.hosts if host.outside_interface}
    )
    return done


def _stop_all() -> list[str]:
    done = []
    for name in control.running_names():
        try:
            network = connect(name)
        except WanError:
            continue
        try:
            network.stop()
        except WanError as error:
            done.append(f"{name}: {error.message}")
        else:
            done.append(f"{name}: ended")
        finally:
            network.close()
    return done


def _working() -> Iterator[WanStatus]:
    for name in control.running_names():
        try:
            network = connect(name)
        except WanError:
            continue
        try:
            yield network.status()
        except WanError:
            continue
        finally:
            network.close()


def _end_stray_keepers(working: set[int], least_age_seconds: float) -> list[str]:
    """Keepers and relays that do not answer. One that may still be starting is left alone."""
    done = []
    for pid in processes.process_ids():
        words = _read(pid, "cmdline").split(b"\0")
        if tuple(words[1:3]) != _KEEPER_WORDS or pid in working:
            continue
        if processes.age_seconds(pid) < least_age_seconds:
            continue
        processes.send(pid, signal.SIGKILL)
        done.append(f"killed emulator process {pid}: it did not answer")
    return done


def _end_stray_processes(working: set[int]) -> list[str]:
    own = processes.namespace_of(os.getpid())
    mark = MARK_VARIABLE.encode() + b"="
    strays: dict[int, list[int]] = {}
    for pid in processes.process_ids():
        if not any(variable.startswith(mark) for variable in _read(pid, "environ").split(b"\0")):
            continue
        namespace = processes.namespace_of(pid)
        if namespace is not None and namespace != own and namespace not in working:
            strays.setdefault(namespace, []).append(pid)
    if not strays:
        return []
    count = len(processes.processes_in(strays))
    gone = processes.end_processes_in(strays, _GRACE_SECONDS)
    return [f"{'ended' if gone else 'tried in vain to end'} {count} processes in hosts without an emulator"]


def _remove_stray_interfaces(working: set[str]) -> list[str]:
    done = []
    for line in run_ip(["-oneline", "link", "show"]).splitlines():
        interface = line.split(":")[1].strip().partition("@")[0]
        if interface.startswith(ACCESS_PREFIX) and interface not in working:
            run_ip(["link", "del", interface])
            done.append(f"removed interface {interface}")
    return done


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
