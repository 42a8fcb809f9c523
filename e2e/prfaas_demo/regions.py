"""The two regions and the link between them: network namespaces with an emulated WAN, or, where those
cannot be made, this machine's loopback."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from prfaas_demo.errors import DemoError
from prfaas_wan import Host, Network, WanConfig, WanError, is_supported, wan

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - inside a namespace of the demo's own


@dataclass(frozen=True)
class LinkOptions:
    """The WAN between the regions, the same both ways."""

    rate_bits_per_second: float | None = 1e9
    rtt_seconds: float = 0.05
    loss_fraction: float = 0.0


@dataclass(frozen=True)
class Ports:
    """Where the servers of one region listen."""

    engine: int
    peer: int
    control: int
    health: int
    gateway: int
    gateway_health: int
    local_gateway: int
    local_gateway_health: int


NAMESPACE_PORTS = Ports(
    engine=8100,
    peer=7400,
    control=7401,
    health=7402,
    gateway=8000,
    gateway_health=8002,
    local_gateway=8010,
    local_gateway_health=8012,
)


@dataclass(frozen=True)
class Region:
    """One end of the link.

    Attributes:
        listen_address: where servers bind.
        link_address: what the other region dials, across the link.
        shell_address: what the demo and the user's shell dial, past the link.
        host: the namespace to start processes in; None on loopback.
    """

    name: str
    listen_address: str
    link_address: str
    shell_address: str
    ports: Ports
    host: Host | None = None

    def command(self, arguments: Sequence[str | os.PathLike[str]]) -> list[str]:
        """What to execute to have `arguments` run in this region."""
        if self.host is not None:
            return self.host.command(arguments)
        return [os.fspath(word) for word in arguments]

    def shell_url(self, port: int) -> str:
        """Base URL of one of this region's HTTP servers, from the user's shell."""
        return f"http://{self.shell_address}:{port}"


class Link(Protocol):
    """What the demo does to the link."""

    def cut(self) -> None:
        """Nothing arrives from now on."""

    def restore(self) -> None:
        """Things arrive again."""


@dataclass(frozen=True)
class Regions:
    """East prefills, west decodes.

    Attributes:
        kind: "wan" or "loopback".
        notes: what the user should know of how they were made.
        name: the emulator's name, for `prfaas wan exec`; None on loopback.
    """

    kind: str
    east: Region
    west: Region
    link: Link
    notes: tuple[str, ...]
    name: str | None


@contextmanager
def regions(
    options: LinkOptions, producer_sidecar_pid: Callable[[], int], *, loopback: bool = False
) -> Iterator[Regions]:
    """Two regions for the block.

    Args:
        options: how the link is.
        producer_sidecar_pid: the process that stands for the link on loopback: stopping it is the cut.
        loopback: make no namespaces, even where they could be made.

    Raises:
        DemoError: namespaces should work here, and do not.
    """
    reason = "--loopback was given" if loopback else is_supported()
    if reason is not None:
        yield _on_loopback(reason, producer_sidecar_pid)
        return
    config = WanConfig.symmetric(
        rate_bits_per_second=options.rate_bits_per_second,
        rtt_seconds=options.rtt_seconds,
        loss_fraction=options.loss_fraction,
        host_access=True,
    )
    with ExitStack() as stack:
        try:
            network = stack.enter_context(wan(config))
        except WanError as error:
            raise DemoError(f"the WAN emulator did not start: {error}") from error
        yield Regions(
            kind="wan",
            east=_in_namespace("east", network.a),
            west=_in_namespace("west", network.b),
            link=_EmulatedLink(network),
            notes=tuple(network.notes),
            name=network.name,
        )


def _in_namespace(name: str, host: Host) -> Region:
    if host.access_address is None:
        raise DemoError("the WAN emulator gave no way into its hosts; this is a bug, please report it")
    return Region(
        name=name,
        listen_address=EVERY_ADDRESS,
        link_address=host.address,
        shell_address=host.access_address,
        ports=NAMESPACE_PORTS,
        host=host,
    )


@dataclass(frozen=True)
class _EmulatedLink:
    network: Network

    def cut(self) -> None:
        self.network.cut()

    def restore(self) -> None:
        self.network.restore()


def _on_loopback(reason: str, producer_sidecar_pid: Callable[[], int]) -> Regions:
    ports = free_ports(2 * len(Ports.__dataclass_fields__))
    half = len(ports) // 2
    return Regions(
        kind="loopback",
        east=Region("east", LOOPBACK, LOOPBACK, LOOPBACK, Ports(*ports[:half])),
        west=Region("west", LOOPBACK, LOOPBACK, LOOPBACK, Ports(*ports[half:])),
        link=_StoppedSidecar(producer_sidecar_pid),
        notes=(
            f"no emulated WAN: {reason}",
            "both regions share this machine's loopback: no rate limit and no delay, so the wire figures say "
            "nothing of a WAN",
            "the link is cut by stopping the producer's sidecar (SIGSTOP) and restored by SIGCONT",
        ),
        name=None,
    )


@dataclass(frozen=True)
class _StoppedSidecar:
    pid: Callable[[], int]

    def cut(self) -> None:
        os.kill(self.pid(), signal.SIGSTOP)

    def restore(self) -> None:
        os.kill(self.pid(), signal.SIGCONT)


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
