"""The command line: `prfaas wan …`, or `python -m prfaas_wan …`."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from prfaas_wan import control, leftovers, quantities
from prfaas_wan.emulator import Network, connect, launch
from prfaas_wan.emulator import wan as running_wan
from prfaas_wan.errors import WanError
from prfaas_wan.report import status_text
from prfaas_wan.settings import DIRECTIONS, HOSTS, Direction, LinkChange, WanConfig, link_settings, wan_config

Parsed = Callable[[click.Context, click.Parameter, str | None], Any]


def parsed_by(parse: Callable[[str], Any]) -> Parsed:
    """An option's callback; what `parse` says of a bad value becomes the usage error."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


@dataclass(frozen=True)
class Rate:
    """A rate that was given, so that `unlimited` differs from an option that was left out."""

    bits_per_second: float | None


def _rate(text: str) -> Rate:
    return Rate(quantities.parse_rate(text))


class WanFailure(click.ClickException):
    def __init__(self, error: WanError) -> None:
        super().__init__(f"{error.message} [{error.code}]")


@contextmanager
def _told_to_the_user() -> Iterator[None]:
    try:
        yield
    except WanError as error:
        raise WanFailure(error) from error


def link_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--reorder/--no-reorder", default=None, help="Let jitter change the order of packets."),
        click.option(
            "--queue",
            metavar="LENGTH",
            callback=parsed_by(quantities.parse_queue),
            help="Queue before the link: 50ms (at its rate) or 256KiB.",
        ),
        click.option(
            "--loss",
            metavar="FRACTION",
            callback=parsed_by(quantities.parse_fraction),
            help="Share of segments lost, each way: 0.1%.",
        ),
        click.option(
            "--jitter",
            metavar="TIME",
            callback=parsed_by(quantities.parse_time),
            help="How far the one-way delay drifts up and down: 2ms.",
        ),
        click.option(
            "--rtt",
            metavar="TIME",
            callback=parsed_by(quantities.parse_time),
            help="Round-trip time, half of it each way: 50ms.",
        ),
        click.option(
            "--rate", metavar="RATE", callback=parsed_by(_rate), help="1Gbit, 200Mbit, unlimited, …"
        ),
    ):
        function = option(function)
    return function


def _link_change(
    rate: Rate | None,
    rtt: float | None,
    jitter: float | None,
    loss: float | None,
    queue: tuple[float | None, int | None] | None,
    reorder: bool | None,
) -> LinkChange:
    """Only what was given."""
    change: LinkChange = {}
    if rate is not None:
        change["rate_bits_per_second"] = rate.bits_per_second
    if rtt is not None:
        change["delay_seconds"] = rtt / 2
    if jitter is not None:
        change["jitter_seconds"] = jitter
    if loss is not None:
        change["loss_fraction"] = loss
    if queue is not None:
        change["queue_seconds"], change["queue_bytes"] = queue
    if reorder is not None:
        change["reorder"] = reorder
    return change


direction_option = click.option(
    "--direction", type=click.Choice(DIRECTIONS), help="Only this way; both ways when left out."
)
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
name_argument = click.argument("name", required=False)


def _only_running(name: str | None) -> str:
    if name is not None:
        return name
    names = control.running_names()
    if len(names) != 1:
        known = f"running: {', '.join(names)}" if names else "none is running; start one with `prfaas wan up`"
        raise WanError("NameNeeded", f"say which emulator: {known}")
    return names[0]


@contextmanager
def _connected(name: str | None) -> Iterator[Network]:
    with _told_to_the_user():
        network = connect(_only_running(name))
        try:
            yield network
        finally:
            network.close()


@click.group()
def wan() -> None:
    """Emulate a WAN between two network namespaces, `a` and `b`.

    \b
    Examples:
      prfaas wan up --rate 1Gbit --rtt 50ms --loss 0.1% --name demo
      prfaas wan exec demo b -- iperf3 -s
      prfaas wan exec demo a -- iperf3 -c 10.80.0.2
      prfaas wan set demo --rate 100Mbit --direction a-to-b
      prfaas wan cut demo
      prfaas wan restore demo
      prfaas wan down demo
    """


@wan.command()
@link_options
@click.option("--name", help="How the other commands find it; made up when left out.")
@click.option("--mtu", type=click.IntRange(576, 9000), default=1500, show_default=True, help="Bytes.")
@click.option("--host-access", is_flag=True, help="Also reach both hosts from here, past the link.")
@click.option("--congestion-control", help="TCP's default inside the hosts: bbr, cubic, …")
@click.option("--detach", is_flag=True, help="Return at once; end it with `prfaas wan down`.")
@output_option
def up(
    name: str | None,
    mtu: int,
    host_access: bool,
    congestion_control: str | None,
    detach: bool,
    output: str,
    **link: Any,
) -> None:
    """Start an emulator; Ctrl-C ends it and everything in its hosts.

    \b
    Examples:
      prfaas wan up --rate 1Gbit --rtt 50ms
      prfaas wan up --rate 200Mbit --rtt 80ms --jitter 2ms --loss 0.1% --queue 50ms --name test
      prfaas wan up --rtt 10ms --host-access --detach
    """
    with _told_to_the_user():
        settings = link_settings(dict(_link_change(**link)))
        config = wan_config(
            {
                "name": name,
                "a_to_b": settings,
                "b_to_a": settings,
                "host_access": host_access,
                "mtu_bytes": mtu,
                "congestion_control": congestion_control,
            }
        )
        if detach:
            network = launch(config)
            _show([network], output)
            network.close()
        else:
            _run_in_foreground(config, output)


def _run_in_foreground(config: WanConfig, output: str) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        with running_wan(config) as network:
            keeper = os.pidfd_open(network.keeper_pid)
            _show([network], output)
            if output == "text":
                click.echo(f"\nCtrl-C ends it. Try: prfaas wan exec {network.name} a -- bash")
            select.select([keeper], [], [])
            os.close(keeper)
        click.echo("the emulator has ended", err=True)
    except KeyboardInterrupt:
        click.echo("ended", err=True)


@wan.command("set")
@name_argument
@direction_option
@link_options
@output_option
def set_(name: str | None, direction: str | None, output: str, **link: Any) -> None:
    """Change the link while traffic runs; what is left out stays.

    \b
    Examples:
      prfaas wan set demo --rate 100Mbit --rtt 200ms
      prfaas wan set demo --loss 1% --direction b-to-a
      prfaas wan set demo --rate unlimited
    """
    change = _link_change(**link)
    if not change:
        raise click.UsageError("nothing to change: give at least one of --rate, --rtt, --jitter, --loss, …")
    with _connected(name) as network:
        network.set(_direction(direction), **change)
        _show([network], output)


@wan.command()
@name_argument
@direction_option
def cut(name: str | None, direction: str | None) -> None:
    """Cut the link: nothing arrives, and what is under way is lost.

    \b
    Examples:
      prfaas wan cut demo
      prfaas wan cut demo --direction a-to-b
    """
    with _connected(name) as network:
        network.cut(_direction(direction))
        click.echo(f"{network.name}: cut {direction or 'both ways'}")


@wan.command()
@name_argument
@direction_option
def restore(name: str | None, direction: str | None) -> None:
    """Mend a cut link.

    \b
    Example:
      prfaas wan restore demo
    """
    with _connected(name) as network:
        network.restore(_direction(direction))
        click.echo(f"{network.name}: restored {direction or 'both ways'}")


@wan.command()
@name_argument
@output_option
def status(name: str | None, output: str) -> None:
    """Settings, addresses and counters, of one emulator or of all.

    \b
    Examples:
      prfaas wan status
      prfaas wan status demo --output json
    """
    with _told_to_the_user():
        names = control.running_names() if name is None else [name]
        if not names and output == "text":
            click.echo("no emulator is running; start one with `prfaas wan up`")
            return
        networks = [connect(each) for each in names]
        try:
            _show(networks, output, always_list=name is None)
        finally:
            for network in networks:
                network.close()


@wan.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("host", type=click.Choice(HOSTS))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command in one of the hosts.

    \b
    Examples:
      prfaas wan exec demo a -- curl http://10.80.0.2:8000/
      prfaas wan exec demo b -- bash
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("no command given")
    with _connected(name) as network:
        arguments = network.hosts[host].command(words)
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606
    except FileNotFoundError as error:
        raise click.ClickException(f"`{arguments[0]}` is missing: install the package util-linux") from error


@wan.command()
@name_argument
def down(name: str | None) -> None:
    """End an emulator and everything that runs in its hosts.

    \b
    Example:
      prfaas wan down demo
    """
    with _connected(name) as network:
        network.stop()
        click.echo(f"{network.name}: ended")


@wan.command()
@click.option("--all", "everything", is_flag=True, help="Also end emulators that work.")
def clean(everything: bool) -> None:
    """Remove whatever crashed runs left behind: hung emulators, their processes and interfaces.

    \b
    Examples:
      prfaas wan clean
      prfaas wan clean --all
    """
    with _told_to_the_user():
        done = leftovers.clean(everything=everything)
    for line in done or ["nothing was left behind"]:
        click.echo(line)


def _direction(text: str | None) -> Direction | None:
    return next((direction for direction in DIRECTIONS if direction == text), None)


def _show(networks: list[Network], output: str, *, always_list: bool = False) -> None:
    found = [network.status() for network in networks]
    if output == "text":
        click.echo("\n\n".join(status_text(each) for each in found))
        return
    data = [each.model_dump(mode="json") for each in found]
    click.echo(json.dumps(data if always_list else data[0], indent=2))
