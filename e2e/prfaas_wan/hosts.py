"""Makes the hosts: a network namespace each, with loopback, the link's near end and, if asked for, a way
in."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prfaas_wan.errors import WanError
from prfaas_wan.kernel import inside_namespace, new_namespace, open_tun
from prfaas_wan.settings import HOSTS, WanConfig, tcp_buffer_bytes

LINK_INTERFACE = "wan0"
ACCESS_INTERFACE = "access0"
# Interfaces of this prefix in the initial namespace belong to emulators and nothing else.
ACCESS_PREFIX = "prfaaswan"
_SUBNETS = 200
_COMMAND_SECONDS = 10


@dataclass(frozen=True)
class HostPlan:
    """Names and addresses of one host; all follow from the subnet's number and the host's place."""

    name: str
    address: str
    address_v6: str
    access_address: str  # of the host, reachable from outside
    outside_address: str  # of the outside end
    outside_interface: str


@dataclass(frozen=True)
class HostDevices:
    """Open descriptors of one host. Whoever holds them keeps the host alive."""

    plan: HostPlan
    namespace: int
    tun: int
    counters: int  # /proc/net/dev of the host


def plan_hosts(subnet: int) -> tuple[HostPlan, ...]:
    return tuple(
        HostPlan(
            name=name,
            address=f"10.80.{subnet}.{place + 1}",
            address_v6=f"fd80:{subnet:x}::{place + 1}",
            outside_address=f"10.81.{subnet}.{4 * place + 1}",
            access_address=f"10.81.{subnet}.{4 * place + 2}",
            outside_interface=f"{ACCESS_PREFIX}{subnet}{name}",
        )
        for place, name in enumerate(HOSTS)
    )


def subnet_lock_name(subnet: int) -> str:
    return f"\0prfaas-wan-subnet/{subnet}"


def claim_subnet() -> tuple[int, socket.socket]:
    """A subnet number that no other emulator and no address or route of this machine uses, and the lock
    that keeps it: an abstract socket, which the kernel frees with its last holder."""
    routes = run_ip(["-4", "route", "show", "table", "all"])
    for subnet in range(_SUBNETS):
        if f"10.80.{subnet}." in routes or f"10.81.{subnet}." in routes:
            continue
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(subnet_lock_name(subnet))
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return subnet, lock
    raise WanError(
        "NoSubnet", f"all {_SUBNETS} subnets are taken; see `prfaas wan status`, then `prfaas wan clean`"
    )


def make_host(config: WanConfig, plan: HostPlan, notes: list[str]) -> HostDevices:
    """Raises WanError. `notes` takes what could not be set and does no harm."""
    namespace = new_namespace()
    if config.host_access:
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        run_ip(
            ["-batch", "-"],
            f"link add {plan.outside_interface} type veth peer name {ACCESS_INTERFACE} netns {path}\n"
            f"addr add {plan.outside_address}/30 dev {plan.outside_interface}\n"
            f"link set {plan.outside_interface} up\n",
        )
    with inside_namespace(namespace):
        tun = open_tun(LINK_INTERFACE)
        _set_sysctls(config, notes)
        commands = [
            "link set lo up",
            f"link set {LINK_INTERFACE} mtu {config.mtu_bytes} txqueuelen 10000 up",
            f"addr add {plan.address}/24 dev {LINK_INTERFACE}",
        ]
        if config.host_access:
            commands += [
                f"addr add {plan.access_address}/30 dev {ACCESS_INTERFACE}",
                f"link set {ACCESS_INTERFACE} up",
            ]
        run_ip(["-batch", "-"], "\n".join(commands))
        _add_v6(plan, notes)
        counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
    return HostDevices(plan, namespace, tun, counters)


def remove_access(plan: HostPlan) -> None:
    """The kernel would do it too, some time after the namespace has gone."""
    with suppress(WanError):
        run_ip(["link", "del", plan.outside_interface])


def _add_v6(plan: HostPlan, notes: list[str]) -> None:
    try:
        run_ip(["-6", "addr", "add", f"{plan.address_v6}/64", "dev", LINK_INTERFACE, "nodad"])
    except WanError:
        notes.append(f"host {plan.name} has no IPv6 address: this kernel does without IPv6")


def _set_sysctls(config: WanConfig, notes: list[str]) -> None:
    buffer_bytes = tcp_buffer_bytes(config.a_to_b, config.b_to_a)
    raise_tcp_buffers(buffer_bytes, notes)
    # What one connection learned about the link must not decide how the next one starts.
    _write_sysctl("tcp_no_metrics_save", "1", notes)
    if config.slow_start_after_idle is not None:
        _write_sysctl("tcp_slow_start_after_idle", str(int(config.slow_start_after_idle)), notes)
    if config.congestion_control is not None:
        try:
            _sysctl("tcp_congestion_control").write_text(config.congestion_control)
        except OSError as error:
            raise WanError(
                "NoCongestionControl",
                f"this kernel does not let a namespace default to {config.congestion_control!r} "
                f"({error.strerror}); "
                "see tcp_available_congestion_control, and allow it in the initial namespace with "
                f'sysctl -w net.ipv4.tcp_allowed_congestion_control="reno {config.congestion_control}"',
            ) from error


def raise_tcp_buffers(buffer_bytes: int, notes: list[str]) -> None:
    """In the calling thread's namespace, never lower than they are."""
    for name in ("tcp_rmem", "tcp_wmem"):
        try:
            least, default, most = (int(word) for word in _sysctl(name).read_text().split())
        except OSError as error:
            notes.append(f"{name} could not be read ({error.strerror})")
            continue
        if most < buffer_bytes:
            _write_sysctl(name, f"{least} {default} {buffer_bytes}", notes)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys/net/ipv4") / name


def _write_sysctl(name: str, value: str, notes: list[str]) -> None:
    try:
        _sysctl(name).write_text(value)
    except OSError as error:
        notes.append(f"{name} could not be set to {value} ({error.strerror})")


def run_ip(arguments: list[str], batch: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["ip", *arguments],
            input=batch,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise WanError("NoTool", "`ip` is missing: install iproute2") from error
    if done.returncode != 0:
        raise WanError("NetworkSetup", f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
