"""An emulated WAN from Python.

with wan(WanConfig.symmetric(rate_bits_per_second=1e9, rtt_seconds=0.05)) as network:
    server = network.b.popen(["python", "-m", "http.server", "--bind", network.b.address, "8000"])
    network.a.run(["curl", f"http://{network.b.address}:8000/"], check=True)
    network.cut("a-to-b")
    network.restore()
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Unpack

from prfaas_wan import control, kernel
from prfaas_wan.errors import WanError
from prfaas_wan.order import KeeperOrder
from prfaas_wan.settings import DIRECTIONS, Direction, LinkChange, WanConfig
from prfaas_wan.status import DirectionStats, HostStatus, WanStatus

START_SECONDS = 20.0
_STOP_SECONDS = 15.0
_PROBE_SECONDS = 10.0
# Marks what was started in a host, so that `prfaas wan clean` can tell it after every watcher was killed.
MARK_VARIABLE = "PRFAAS_WAN"


class Host:
    """One end of the link."""

    def __init__(self, wan_name: str, status: HostStatus) -> None:
        self.name = status.name
        self.address = status.address
        self.address_v6 = status.address_v6
        self.access_address = status.access_address
        self.namespace_path = status.namespace_path
        self._wan_name = wan_name

    def command(self, arguments: Sequence[str | os.PathLike[str]]) -> list[str]:
        """What to execute to have `arguments` run in this host. The process keeps its id: nothing forks."""
        enter = ["nsenter", f"--net={self.namespace_path}", "--"]
        return [*enter, "env", f"{MARK_VARIABLE}={self._wan_name}", *(os.fspath(word) for word in arguments)]

    def popen(self, arguments: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen` in this host."""
        return subprocess.Popen(self.command(arguments), **options)

    def run(
        self, arguments: Sequence[str | os.PathLike[str]], **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` in this host."""
        return subprocess.run(self.command(arguments), **options)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this host for the block; sockets opened in it stay there."""
        descriptor = os.open(self.namespace_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with kernel.inside_namespace(descriptor):
                yield
        finally:
            os.close(descriptor)


class Network:
    """A running emulator. Methods raise WanError; `NotRunning` once it is gone."""

    def __init__(self, client: control.Client, status: WanStatus) -> None:
        self._client = client
        self.name = status.name
        self.keeper_pid = status.keeper_pid
        self.relay_pid = status.relay_pid
        self.notes = status.notes
        self.hosts = {host.name: Host(status.name, host) for host in status.hosts}

    @property
    def a(self) -> Host:
        return self.hosts["a"]

    @property
    def b(self) -> Host:
        return self.hosts["b"]

    def set(self, direction: Direction | None = None, **change: Unpack[LinkChange]) -> WanStatus:
        """Change the link, both ways unless a direction is given, while traffic runs."""
        return self.set_each(dict.fromkeys(_directions(direction), change))

    def set_rtt(self, rtt_seconds: float) -> WanStatus:
        return self.set(delay_seconds=rtt_seconds / 2)

    def set_each(self, changes: dict[Direction, LinkChange]) -> WanStatus:
        """Several directions at once, all or none."""
        return WanStatus.model_validate(self._client.ask("set", changes=changes))

    def cut(self, direction: Direction | None = None) -> WanStatus:
        """Nothing arrives from now on, and what is under way is lost."""
        return self.set(direction, cut=True)

    def restore(self, direction: Direction | None = None) -> WanStatus:
        return self.set(direction, cut=False)

    def status(self) -> WanStatus:
        return WanStatus.model_validate(self._client.ask("status"))

    def stats(self) -> dict[Direction, DirectionStats]:
        return {direction: each.stats for direction, each in self.status().directions.items()}

    def stop(self) -> None:
        """End the emulator and everything in its hosts; returns when it is gone."""
        try:
            keeper = os.pidfd_open(self.keeper_pid)
        except ProcessLookupError:
            return
        try:
            self._client.ask("stop")
            if not select.select([keeper], [], [], _STOP_SECONDS)[0]:
                raise WanError(
                    "NoAnswer", f"emulator {self.name!r} does not end; use `prfaas wan clean --all`"
                )
        finally:
            os.close(keeper)

    def close(self) -> None:
        """Close this handle; the emulator runs on."""
        self._client.close()


def _directions(direction: Direction | None) -> tuple[Direction, ...]:
    return DIRECTIONS if direction is None else (direction,)


def connect(name: str) -> Network:
    """A handle on an emulator that somebody else started. Raises WanError `NotRunning`."""
    client = control.Client(name)
    try:
        return Network(client, WanStatus.model_validate(client.ask("status")))
    except BaseException:
        client.close()
        raise


@contextmanager
def wan(config: WanConfig | None = None) -> Iterator[Network]:
    """An emulated WAN for the block. Raises WanError when it cannot be made; ask `is_supported` first if
    that is to be expected. Whatever still runs in the hosts at the end gets SIGTERM and, 3 seconds later,
    SIGKILL."""
    keeper, name = start(config or WanConfig(), owned=True)
    try:
        network = connect(name)
        try:
            yield network
        finally:
            network.close()
    finally:
        keeper.terminate()
        try:
            keeper.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The relay sees its keeper die and clears the hosts.
            keeper.kill()
            keeper.wait()


def launch(config: WanConfig | None = None) -> Network:
    """An emulated WAN that outlives this process: it runs until `Network.stop` or `prfaas wan down`."""
    _, name = start(config or WanConfig(), owned=False)
    return connect(name)


def start(config: WanConfig, *, owned: bool) -> tuple[subprocess.Popen[bytes], str]:
    """Start a keeper; returns it with the emulator's name once the hosts work. An owned one ends with
    this process, however that ends; another one runs until it is told to stop."""
    reason = is_supported()
    if reason is not None:
        raise WanError("NotSupported", reason)
    reader, writer = os.pipe()
    owner = os.pidfd_open(os.getpid()) if owned else None
    inherited = [writer] if owner is None else [writer, owner]
    order = KeeperOrder(
        config=config,
        ready_descriptor=writer,
        owner_pid=os.getpid() if owned else None,
        owner_descriptor=owner,
    )
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "prfaas_wan.keeper", order.model_dump_json()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if owned else subprocess.DEVNULL,
            pass_fds=inherited,
            # Ctrl-C in a terminal goes to the owner, which ends the keeper in its own time.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _with_own_folder(os.environ.get("PYTHONPATH"))},
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        for descriptor in inherited:
            os.close(descriptor)
    try:
        name = _started_name(reader)
        if not owned:
            # The keeper has forked away from what was started here, so that nobody has to wait for it.
            keeper.wait(START_SECONDS)
    except BaseException:
        # Nothing runs in the hosts yet, so the keeper and its relay are all there is.
        with suppress(ProcessLookupError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
        raise
    return keeper, name


def _with_own_folder(path: str | None) -> str:
    own = str(Path(__file__).resolve().parents[1])
    return own if not path else f"{own}{os.pathsep}{path}"


def _started_name(reader: int) -> str:
    with os.fdopen(reader, "rb") as ready:
        if not select.select([ready], [], [], START_SECONDS)[0]:
            raise WanError("NoAnswer", f"the emulator did not start within {START_SECONDS:.0f} seconds")
        text = ready.read()
    if not text:
        raise WanError("NetworkSetup", "the emulator ended while starting; its error is above")
    message = json.loads(text)
    if "error" in message:
        raise WanError(message["error"]["code"], message["error"]["message"])
    name: str = message["result"]["name"]
    return name


def is_supported() -> str | None:
    """Why no emulator can run here, and what would help; None when it can."""
    if sys.platform != "linux":
        return "the WAN emulator needs Linux: network namespaces and TUN devices"
    if os.geteuid() != 0:
        return "the WAN emulator needs root, to make network namespaces: run the command with sudo"
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"`{tool}` is missing: install the package {package}"
    if not kernel.TUN_DEVICE.exists():
        return (
            "/dev/net/tun is missing: load the module with `modprobe tun`, or start the container with "
            "`--device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN`"
        )
    try:
        probe = subprocess.run(
            ["unshare", "--net", "true"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "making a network namespace hangs on this machine"
    if probe.returncode != 0:
        return (
            f"network namespaces are not allowed here ({probe.stderr.strip()}): in a container, add "
            "`--cap-add SYS_ADMIN --cap-add NET_ADMIN`"
        )
    return None
