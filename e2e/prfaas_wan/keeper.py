"""The keeper: the process behind an emulator. Makes the hosts, forks the relay, and clears up when
anything ends.

Nothing that an emulator makes has a name in a file system: namespaces and TUN devices live by open
descriptors, locks are abstract sockets, and access interfaces go with their namespace. So only processes
can be left over, and keeper and relay watch one another and the owner: whichever of them is killed,
another one ends everything in the hosts.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prfaas_wan import control
from prfaas_wan.errors import WanError
from prfaas_wan.hosts import LINK_INTERFACE, HostDevices, claim_subnet, make_host, plan_hosts, remove_access
from prfaas_wan.order import KeeperOrder
from prfaas_wan.processes import end_processes_in, send
from prfaas_wan.relay import Relay

_PRIORITY = -10
_GRACE_SECONDS = 3.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class _Emulator:
    order: KeeperOrder
    name: str
    keeper_pid: int
    hosts: dict[str, HostDevices]
    listener: socket.socket
    subnet_lock: socket.socket
    notes: list[str]

    @property
    def namespaces(self) -> set[int]:
        return {os.fstat(host.namespace).st_ino for host in self.hosts.values()}

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "keeper_pid": self.keeper_pid,
            "owner_pid": self.order.owner_pid,
            "notes": self.notes,
            "hosts": [self._describe_host(host) for host in self.hosts.values()],
        }

    def _describe_host(self, host: HostDevices) -> dict[str, Any]:
        access = self.order.config.host_access
        return {
            "name": host.plan.name,
            "address": host.plan.address,
            "address_v6": host.plan.address_v6,
            "interface": LINK_INTERFACE,
            "access_address": host.plan.access_address if access else None,
            "outside_address": host.plan.outside_address if access else None,
            "outside_interface": host.plan.outside_interface if access else None,
            "namespace_path": f"/proc/{self.keeper_pid}/fd/{host.namespace}",
            "namespace_inode": os.fstat(host.namespace).st_ino,
        }


def main(arguments: list[str]) -> int:
    order = KeeperOrder.model_validate_json(arguments[0])
    if order.owner_descriptor is None and os.fork() != 0:
        return 0  # without an owner nobody is there to wait for the keeper: the child is adopted and goes on
    stop_signals = _stop_signals_as_descriptor()
    try:
        emulator = _build(order)
    except WanError as error:
        _report(order, {"error": error.as_data()})
        return 1
    except OSError as error:
        _report(order, {"error": {"code": "NetworkSetup", "message": f"the system refused: {error}"}})
        return 1
    keeper = os.pidfd_open(os.getpid())
    relay_pid = os.fork()
    if relay_pid == 0:
        return _run_relay(emulator, keeper)
    return _keep(emulator, relay_pid, stop_signals)


def _stop_signals_as_descriptor() -> socket.socket:
    """Becomes readable on a signal to stop, so that no signal can tear the clearing up apart."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader


def _build(order: KeeperOrder) -> _Emulator:
    notes: list[str] = []
    subnet, subnet_lock = claim_subnet()
    name = order.config.name or f"wan{subnet}"
    listener = control.listen(name)
    hosts = {plan.name: make_host(order.config, plan, notes) for plan in plan_hosts(subnet)}
    return _Emulator(order, name, os.getpid(), hosts, listener, subnet_lock, notes)


def _report(order: KeeperOrder, message: dict[str, Any]) -> None:
    """The owner may be gone already; then there is nobody to tell, and the keeper ends soon."""
    with suppress(BrokenPipeError), os.fdopen(order.ready_descriptor, "w") as ready:
        json.dump(message, ready)


def _keep(emulator: _Emulator, relay_pid: int, stop_signals: socket.socket) -> int:
    order = emulator.order
    relay = os.pidfd_open(relay_pid)
    _report(order, {"result": {**emulator.describe(), "relay_pid": relay_pid}})
    watched = [relay, stop_signals.fileno()]
    if order.owner_descriptor is not None:
        watched.append(order.owner_descriptor)
    select.select(watched, [], [])
    # The link still works while the processes end, so they can say goodbye to one another.
    gone = end_processes_in(emulator.namespaces, _GRACE_SECONDS)
    send(relay_pid, signal.SIGKILL)
    os.waitpid(relay_pid, 0)
    if order.config.host_access:
        for host in emulator.hosts.values():
            remove_access(host.plan)
    return 0 if gone else 1


def _run_relay(emulator: _Emulator, keeper: int) -> int:
    os.close(emulator.order.ready_descriptor)
    signal.set_wakeup_fd(-1)
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    except PermissionError:
        emulator.notes.append("the relay runs at ordinary priority: raising it is not allowed here")
    Relay(emulator.order.config, emulator.hosts, emulator.listener, (keeper,), emulator.describe).run()
    if select.select([keeper], [], [], 0)[0]:
        end_processes_in(emulator.namespaces, _GRACE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
