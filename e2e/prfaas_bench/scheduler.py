"""What a decision of the gateway's scheduler costs: the index's look-up and the choice, and hashing apart.

A fleet with many prefill pools in a few regions, of three kinds of engines, each behind its region's link.
The index is filled with sessions that share system prompts. Decided are prompts that go on with one of them.
"""

from __future__ import annotations

import random
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from prfaas.block_chain import chain_seed, chained
from prfaas.capacity import Curve, KVSize
from prfaas.scheduling import (
    BlockIndex,
    CompiledCurve,
    DecodeSide,
    Link,
    Producer,
    Rule,
    WireSize,
    Work,
    schedule,
)

BLOCK_TOKENS = 64
SYSTEM_PROMPTS = 200
SYSTEM_BLOCKS = 64
REGIONS = 5
DECISIONS_PER_ROUND = 4000
P50_LIMIT_MICROSECONDS = 100.0
P99_LIMIT_MICROSECONDS = 500.0
MEBIBYTES_PER_MILLION_LIMIT = 60.0
_PAGE_BYTES = 4096
_MEBIBYTE = float(1 << 20)


@dataclass(frozen=True, slots=True)
class Size:
    """How many pools, with one engine each in the index, and how many blocks."""

    pools: int
    blocks: int


SIZES = (Size(10, 1_000_000), Size(100, 1_000_000), Size(100, 10_000_000), Size(400, 10_000_000))
QUICK_SIZES = (Size(10, 100_000), Size(100, 1_000_000))


@dataclass(frozen=True, slots=True)
class Result:
    """Times in microseconds. `cpu_…` is the thread's own time, which other programs do not lengthen."""

    pools: int
    blocks: int
    look_up_p50: float
    p50: float
    p99: float
    cpu_p50: float
    cpu_p99: float
    add_per_block: float
    table_mebibytes_per_million: float
    resident_mebibytes_per_million: float


@dataclass(frozen=True, slots=True)
class Hashing:
    """Chained hashing of a prompt, as the gateway does it in a thread; microseconds, best of the rounds."""

    tokens: int
    block_tokens: int
    microseconds: float


def measure(*, rounds: int, sizes: tuple[Size, ...] = SIZES) -> tuple[list[Result], list[Hashing]]:
    """All sizes, each with its own index; then hashing."""
    return [_measured(size, rounds) for size in sizes], [
        _hashed(tokens, block, rounds) for tokens in (8192, 131_072) for block in (16, 64, 128)
    ]


def targets_missed(results: list[Result]) -> list[str]:
    """What is not as fast or as small as promised, at 100 pools."""
    missed = []
    for result in results:
        if result.pools > 100:
            continue
        where = f"{result.pools} pools, {result.blocks / 1e6:g} M blocks"
        if result.p50 > P50_LIMIT_MICROSECONDS:
            missed.append(f"{where}: p50 {result.p50:.0f} µs, promised are {P50_LIMIT_MICROSECONDS:.0f}")
        if result.p99 > P99_LIMIT_MICROSECONDS:
            missed.append(f"{where}: p99 {result.p99:.0f} µs, promised are {P99_LIMIT_MICROSECONDS:.0f}")
        if result.table_mebibytes_per_million > MEBIBYTES_PER_MILLION_LIMIT:
            missed.append(f"{where}: {result.table_mebibytes_per_million:.0f} MiB per million blocks")
    return missed


def table(results: list[Result], hashing: list[Hashing]) -> str:
    """Two Markdown tables."""
    lines = [
        "| pools | blocks | look-up p50 µs | decision p50 µs | p99 µs | CPU p50 µs | CPU p99 µs | "
        "add a block µs | MiB per million | resident |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.pools} | {each.blocks / 1e6:g} M | {each.look_up_p50:.0f} | {each.p50:.0f} | "
        f"{each.p99:.0f} | "
        f"{each.cpu_p50:.0f} | {each.cpu_p99:.0f} | {each.add_per_block:.2f} | "
        f"{each.table_mebibytes_per_million:.1f} | {each.resident_mebibytes_per_million:.1f} |"
        for each in results
    ]
    lines += [
        "",
        "A decision is the look-up and the choice. Promised at 100 pools and 10 M blocks: p50 100 µs, p99",
        "500 µs, 60 MiB per million blocks. Hashing comes before it, in a thread for bodies over 4 KiB:",
        "",
        "| prompt | by blocks of | hashing µs |",
        "|---|---|---|",
    ]
    lines += [f"| {each.tokens} | {each.block_tokens} | {each.microseconds:.0f} |" for each in hashing]
    return "\n".join(lines)


def _measured(size: Size, rounds: int) -> Result:
    # Always the same traffic.
    chance = random.Random(size.pools * 31 + size.blocks)  # noqa: S311
    before = _resident_bytes()
    index = BlockIndex(size.blocks + size.blocks // 4)
    producers = _fleet(size.pools, index, chance)
    prompts, seconds_per_block = _fill(index, producers, size.blocks, chance)
    grown = _resident_bytes() - before
    wire = WireSize(KVSize.per_token(17_280, state_bytes=174 << 20, to_tokens=131_072))
    rule = Rule(19_400, wire=wire)
    decode = DecodeSide(0, CompiledCurve(Curve.polynomial(0.47, 1.3e-4, 2.9e-10, to_tokens=131_072)), 0.2)
    walls, cpus, looks = [], [], []
    for _ in range(rounds * DECISIONS_PER_ROUND):
        known = chance.choice(prompts)
        hashes = [*known, *(chance.getrandbits(64) for _ in range(chance.randrange(8, 200)))]
        cpu, begun = time.thread_time(), time.perf_counter()
        matches = index.matches(hashes, BLOCK_TOKENS)
        looked = time.perf_counter()
        schedule(Work(len(hashes) * BLOCK_TOKENS), decode, producers, matches, rule)
        walls.append(time.perf_counter() - begun)
        cpus.append(time.thread_time() - cpu)
        looks.append(looked - begun)
    return Result(
        size.pools,
        size.blocks,
        _share(looks, 0.5),
        _share(walls, 0.5),
        _share(walls, 0.99),
        _share(cpus, 0.5),
        _share(cpus, 0.99),
        seconds_per_block * 1e6,
        index.size_bytes / _MEBIBYTE / (len(index) / 1e6),
        grown / _MEBIBYTE / (len(index) / 1e6),
    )


def _fleet(pools: int, index: BlockIndex, chance: random.Random) -> list[Producer]:
    curves = [
        CompiledCurve(Curve.polynomial(0.3 + 0.1 * kind, 4e-5 * (1 + kind), 1e-10, to_tokens=131_072))
        for kind in range(3)
    ]
    links = [Link(f"r{number}", "here", 20e9, rtt_seconds=0.01 * number) for number in range(REGIONS)]
    found = []
    for number in range(pools):
        queued = chance.randrange(0, 100_000)
        producer = Producer(f"pool-{number}", index.register(10_000_000), prefill=curves[number % 3])
        producer.queued_tokens, producer.queue_seconds = queued, queued * 1e-4
        producer.link = links[number * REGIONS // pools]
        found.append(producer)
    return found


def _fill(
    index: BlockIndex, producers: list[Producer], blocks: int, chance: random.Random
) -> tuple[list[list[int]], float]:
    """Fill the index; some of the prompts, and seconds per block added."""
    systems = [[chance.getrandbits(64) for _ in range(SYSTEM_BLOCKS)] for _ in range(SYSTEM_PROMPTS)]
    kept: list[list[int]] = []
    seconds, added = 0.0, 0
    while len(index) < blocks:
        prompt = [
            *chance.choice(systems),
            *(chance.getrandbits(64) for _ in range(chance.randrange(16, 512))),
        ]
        slot = chance.choice(producers).slot
        begun = time.perf_counter()
        index.add(slot, prompt)
        seconds += time.perf_counter() - begun
        added += len(prompt)
        if len(kept) < 500:
            kept.append(prompt)
        elif chance.random() < 0.01:
            kept[chance.randrange(500)] = prompt
    return kept, seconds / added


def _hashed(tokens: int, block_tokens: int, rounds: int) -> Hashing:
    ids, best = array("I", range(tokens)), float("inf")
    for _ in range(rounds * 5):
        begun = time.perf_counter()
        chained(ids, block_tokens, chain_seed())
        best = min(best, time.perf_counter() - begun)
    return Hashing(tokens, block_tokens, best * 1e6)


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
