"""Sidecar to sidecar over TLS on the loopback, beside one bare TLS stream and iperf3, by turns in the same
run.

Run it alone with ``python -m prfaas_bench.sidecar``. Both ends share the machine's cores, so only ratios
within a round mean something.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import yaml

from prfaas_bench import bare_tls
from prfaas_bench.local_client import EngineSide
from prfaas_connector.local_api.messages import (
    Accepted,
    Consume,
    Ended,
    Produce,
    ProducerDone,
    Publish,
    Refused,
    Release,
)
from prfaas_connector.local_api.units import Lane
from prfaas_demo.certificates import Authority, ca

_PRODUCER = "spiffe://bench/region/a/ns/default/pool/PrefillPool/bench"
_CONSUMER = "spiffe://bench/region/b/ns/default/pool/DecodePool/bench"
_START_SECONDS = 30.0
_LAYERS = 32
_UNIT_BYTES = 256 << 10
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Way:
    """One way, once: GiB/s, and processor seconds of both ends together per GiB."""

    gib_per_second: float
    cpu_seconds_per_gib: float


@dataclass(frozen=True, slots=True)
class Round:
    """Every way once. ``iperf3`` is in GiB/s, None where it is not installed."""

    sidecar: Way
    bare_tls: Way
    iperf3: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over rounds. A spread is the smallest and largest ratio of a round.

    Attributes:
        ratio: speed of the sidecars divided by that of the bare TLS stream.
        cpu_ratio: processor time per GiB of the sidecars divided by that of the bare TLS stream.
        private_mib: largest private memory of either sidecar at the end, the arena not counted.
    """

    size_mib: int
    rounds: int
    streams: int
    sidecar: Way
    bare_tls: Way
    iperf3_gib_per_second: float | None
    ratio: float
    ratio_spread: tuple[float, float]
    cpu_ratio: float
    cpu_ratio_spread: tuple[float, float]
    private_mib: float


def measure(*, size_mib: int = 1024, rounds: int = 5, streams: int = 4) -> Result:
    """Measure on the loopback.

    Args:
        size_mib: KV of one transfer.
        rounds: each moves the same bytes once through the sidecars, once through bare TLS, once through
        iperf3. streams: TLS streams between the sidecars.

    Raises:
        OSError: a sidecar did not start.
        RuntimeError: a transfer did not complete.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = ca("bench CA")
        arena = (size_mib << 20) + (64 << 20)
        producer = stack.enter_context(_sidecar(folder / "producer", authority, _PRODUCER, arena, streams))
        consumer = stack.enter_context(_sidecar(folder / "consumer", authority, _CONSUMER, arena, streams))
        prefill, rank, decode, reader = (
            stack.enter_context(EngineSide(side.socket, kind))
            for side, kind in (
                (producer, "scheduler"),
                (producer, "worker"),
                (consumer, "scheduler"),
                (consumer, "worker"),
            )
        )
        source = memoryview(rank.arena)
        stack.callback(source.release)
        for start in range(0, len(source), 1 << 20):
            source[start : start + (1 << 20)] = os.urandom(4096) * 256
        memoryview(reader.arena).release()
        size = size_mib << 20
        pids = (producer.pid, consumer.pid)

        def through_sidecars() -> Way:
            before = sum(_cpu_seconds(pid) for pid in pids)
            seconds = _transfer(prefill, rank, decode, producer.port, size)
            return _way(size, seconds, sum(_cpu_seconds(pid) for pid in pids) - before)

        def through_bare_tls() -> Way:
            seconds, cpu_seconds = bare_tls.measure(folder / "producer", folder / "consumer", size, source)
            return _way(size, seconds, cpu_seconds)

        # The first transfer dials, grows TCP's windows and touches the arena's pages.
        through_sidecars()
        done = [Round(through_sidecars(), through_bare_tls(), _iperf3(size)) for _ in range(rounds)]
        private = max(_private_mib(pid) for pid in pids)
    return summarise(done, size_mib, streams, private)


def summarise(rounds: list[Round], size_mib: int, streams: int, private_mib: float) -> Result:
    """Medians and spread."""
    ratios = [each.sidecar.gib_per_second / each.bare_tls.gib_per_second for each in rounds]
    cpu_ratios = [each.sidecar.cpu_seconds_per_gib / each.bare_tls.cpu_seconds_per_gib for each in rounds]
    plain = [each.iperf3 for each in rounds if each.iperf3 is not None]
    return Result(
        size_mib=size_mib,
        rounds=len(rounds),
        streams=streams,
        sidecar=_median([each.sidecar for each in rounds]),
        bare_tls=_median([each.bare_tls for each in rounds]),
        iperf3_gib_per_second=statistics.median(plain) if plain else None,
        ratio=statistics.median(ratios),
        ratio_spread=(min(ratios), max(ratios)),
        cpu_ratio=statistics.median(cpu_ratios),
        cpu_ratio_spread=(min(cpu_ratios), max(cpu_ratios)),
        private_mib=private_mib,
    )


def table(result: Result) -> str:
    """Markdown."""
    plain = result.iperf3_gib_per_second
    ours, bare = result.sidecar, result.bare_tls
    low, high = result.ratio_spread
    cpu_low, cpu_high = result.cpu_ratio_spread
    of_bare = f"{result.ratio:.2f} ({low:.2f} to {high:.2f})"
    cpu_of_bare = f"{result.cpu_ratio:.2f} ({cpu_low:.2f} to {cpu_high:.2f})"
    return "\n".join(
        [
            "| way | GiB/s | of bare TLS (spread) | CPU s per GiB, both ends | of bare TLS (spread) |",
            "|---|---|---|---|---|",
            f"| sidecar to sidecar: {result.streams} mutual-TLS streams, checksums "
            f"| {ours.gib_per_second:.2f} | {of_bare} | {ours.cpu_seconds_per_gib:.2f} | {cpu_of_bare} |",
            f"| one bare mutual-TLS stream, blocking | {bare.gib_per_second:.2f} | 1 "
            f"| {bare.cpu_seconds_per_gib:.2f} | 1 |",
            f"| iperf3, no TLS | {'not installed' if plain is None else f'{plain:.2f}'} | | | |",
            "",
            f"{result.size_mib} MiB, {result.rounds} rounds by turns. "
            f"A sidecar's private memory, without the arena: {result.private_mib:.0f} MiB.",
        ]
    )


def _way(size: int, seconds: float, cpu_seconds: float) -> Way:
    return Way(size / _GIB / seconds, cpu_seconds / (size / _GIB))


def _median(ways: list[Way]) -> Way:
    return Way(
        statistics.median(way.gib_per_second for way in ways),
        statistics.median(way.cpu_seconds_per_gib for way in ways),
    )


@dataclass(frozen=True, slots=True)
class _Running:
    socket: Path
    port: int
    pid: int


@contextlib.contextmanager
def _sidecar(
    folder: Path, authority: Authority, identity: str, arena: int, streams: int
) -> Iterator[_Running]:
    files = authority.leaf(identity).write(folder, "tls")
    socket = folder / "engine.sock"
    config = {
        "engine": {"socket": str(socket)},
        "arena_bytes": arena,
        "listen": {"peer": "127.0.0.1:0", "control": None, "health": "127.0.0.1:0"},
        "tls": {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)},
        "peers": {"accept": [_CONSUMER], "dial": [{"identity": _PRODUCER, "addresses": ["127.0.0.1:*"]}]},
        "link": {"streams": streams},
        "drain_seconds": 1,
    }
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump(config))
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "prfaas_sidecar", "--config", str(path)], stderr=errors
        ) as process,
    ):
        try:
            yield _Running(socket, _started(process, log), process.pid)
        finally:
            process.terminate()


def _started(process: subprocess.Popen[bytes], log: Path) -> int:
    """The peer port, as soon as the sidecar says it."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if '"sidecar started"' in line:
                return int(json.loads(line)["ports"]["peer"])
        time.sleep(0.05)
    raise OSError(f"the sidecar did not start: {log.read_text()}")


def _transfer(prefill: EngineSide, rank: EngineSide, decode: EngineSide, port: int, size: int) -> float:
    """Seconds from the consuming engine's question to the end; everything is published before it."""
    name, digest = secrets.token_hex(16), "0" * 64
    units = size // _LAYERS // _UNIT_BYTES
    lanes = tuple(Lane(0, layer, 0, units, _UNIT_BYTES) for layer in range(_LAYERS))
    # The producer frees the transfer before it when the consumer's word has crossed.
    deadline = time.monotonic() + _START_SECONDS
    while True:
        prefill.say(Produce(name, digest, _CONSUMER, lanes, 100.0))
        answer = prefill.hear(Accepted, Refused)
        if isinstance(answer, Accepted):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"the producer does not take the transfer: {answer}")
        time.sleep(0.01)
    rank.say(*(Publish(name, lane, 0, units) for lane in range(_LAYERS)), ProducerDone(name, 0, True))
    start = time.perf_counter()
    decode.say(Consume(name, digest, f"127.0.0.1:{port}", _PRODUCER, lanes, (((0, units),),), 100.0))
    decode.hear(Accepted)
    ended = decode.hear(Ended)
    seconds = time.perf_counter() - start
    decode.say(Release(name, 0))
    if not isinstance(ended, Ended) or ended.code != "complete":
        raise RuntimeError(f"the transfer did not complete: {ended}")
    return seconds


def _iperf3(size: int) -> float | None:
    """GiB/s of one plain TCP stream, or None without iperf3."""
    program = shutil.which("iperf3")
    if program is None:
        return None
    port = str(20_000 + secrets.randbelow(10_000))
    with subprocess.Popen([program, "-s", "-1", "-p", port], stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(50):
                client = subprocess.run(
                    [program, "-c", "127.0.0.1", "-p", port, "-n", str(size), "-J"],
                    capture_output=True,
                    text=True,
                    timeout=100,
                    check=False,
                )
                # Until its server listens the client answers, with status 0, that it could not connect.
                received = json.loads(client.stdout or "{}").get("end", {}).get("sum_received")
                if received is not None:
                    return float(received["bits_per_second"]) / 8 / _GIB
                time.sleep(0.1)
        finally:
            server.kill()
    return None


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _private_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


@click.command()
@click.option("--size-mib", default=1024, show_default=True, help="KV of one transfer.")
@click.option("--rounds", default=5, show_default=True, help="Rounds, each through every way.")
@click.option("--streams", default=4, show_default=True, help="TLS streams between the sidecars.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(size_mib: int, rounds: int, streams: int, as_json: bool) -> None:
    """Measure sidecar to sidecar beside bare TLS and iperf3."""
    result = measure(size_mib=size_mib, rounds=rounds, streams=streams)
    click.echo(json.dumps(asdict(result)) if as_json else table(result))


if __name__ == "__main__":
    main()
