"""What the gateway adds to a request: the same request sent directly and through it, by turns.

Run it alone with ``python -m prfaas_bench.gateway``; with ``--engine URL`` against a real engine. Prompts are
shorter than the threshold (their tokens are never counted) or longer (tokenised, hashed, and then found in
the decode engine's cache, so that the engine's own work is the same both ways).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prfaas_bench.fake_engine import FakeEngine, Script

_START_SECONDS = 60
_CASES = {"short": 400, "long": 16_000}
"""Prompt lengths in characters."""
_THRESHOLD_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Overhead:
    """One case. Times are in milliseconds, to the first byte of the answer; ``spread`` is over rounds.

    Attributes:
        added_p50_ms: median over rounds of (gateway's median minus the direct median).
        added_p99_ms: the same for the 99th percentile.
        spread_ms: smallest and largest ``added_p50_ms`` of a round.
        gateway_rss_mib: resident memory of the gateway's process at the end.
    """

    case: str
    requests: int
    rounds: int
    direct_p50_ms: float
    gateway_p50_ms: float
    added_p50_ms: float
    added_p99_ms: float
    spread_ms: tuple[float, float]
    gateway_rss_mib: float


async def measure(
    *,
    requests: int = 200,
    rounds: int = 5,
    engine_url: str | None = None,
    model: str = "bench",
    tokenizer: Path | None = None,
) -> list[Overhead]:
    """Measure with the fake engine, or with a real one at ``engine_url``.

    Args:
        requests: per case, round and way.
        rounds: repetitions that the spread is taken over.
        tokenizer: the model's folder; by default a tokenizer of bytes is made.

    Raises:
        TimeoutError: the gateway did not start.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if engine_url is None:
            engine = await stack.enter_async_context(FakeEngine().run())
            engine.default = Script(tokens=4)
            engine_url = engine.url
        if tokenizer is None:
            tokenizer = await asyncio.to_thread(_byte_tokenizer, folder / "model")
        gateway_url, pid = await stack.enter_async_context(_gateway(folder, engine_url, model, tokenizer))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        results = []
        for case, length in _CASES.items():
            body = {"model": model, "prompt": _text(length), "max_tokens": 4, "stream": True}
            ways = [f"{engine_url}/v1/completions", f"{gateway_url}/v1/completions"]
            await _round(client, ways, body, min(20, requests))
            timings = [await _round(client, ways, body, requests) for _ in range(rounds)]
            results.append(_overhead(case, requests, timings, _rss_mib(pid)))
        return results


async def _round(
    client: aiohttp.ClientSession, urls: Sequence[str], body: dict[str, Any], requests: int
) -> list[list[float]]:
    """First-byte times in ms per way. The ways take turns, and so does which of them goes first."""
    times: list[list[float]] = [[] for _ in urls]
    data = json.dumps(body).encode()
    for number in range(requests):
        for offset in range(len(urls)):
            way = (number + offset) % len(urls)
            times[way].append(await _first_byte_ms(client, urls[way], data))
    return times


async def _first_byte_ms(client: aiohttp.ClientSession, url: str, data: bytes) -> float:
    started = time.perf_counter()
    async with client.post(url, data=data, headers={"content-type": "application/json"}) as response:
        response.raise_for_status()
        await response.content.readany()
        elapsed = time.perf_counter() - started
        await response.read()
    return elapsed * 1000


def _overhead(case: str, requests: int, timings: list[list[list[float]]], rss_mib: float) -> Overhead:
    direct = [statistics.median(one) for one, _ in timings]
    through = [statistics.median(other) for _, other in timings]
    added = [gateway - engine for engine, gateway in zip(direct, through, strict=True)]
    tails = [_p99(gateway) - _p99(engine) for engine, gateway in timings]
    return Overhead(
        case=case,
        requests=requests,
        rounds=len(timings),
        direct_p50_ms=round(statistics.median(direct), 3),
        gateway_p50_ms=round(statistics.median(through), 3),
        added_p50_ms=round(statistics.median(added), 3),
        added_p99_ms=round(statistics.median(tails), 3),
        spread_ms=(round(min(added), 3), round(max(added), 3)),
        gateway_rss_mib=round(rss_mib, 1),
    )


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


@asynccontextmanager
async def _gateway(
    folder: Path, engine_url: str, model: str, tokenizer: Path
) -> AsyncIterator[tuple[str, int]]:
    """A gateway process in front of the engine, its URL and process id.

    The engine is listed under two names, because a single local engine makes tokenising pointless and
    skipped.
    """
    listen, health = _free_port(), _free_port()
    config = {
        "listen": f"127.0.0.1:{listen}",
        "health_listen": f"127.0.0.1:{health}",
        "region": "bench",
        "models": [
            {
                "name": model,
                "tokenizer": str(tokenizer),
                "max_model_tokens": 1_000_000,
                "threshold_tokens": _THRESHOLD_TOKENS,
            }
        ],
        "decode_engines": [{"name": name, "url": engine_url} for name in ("one", "two")],
    }
    file = folder / "gateway.yaml"
    await asyncio.to_thread(file.write_text, yaml.safe_dump(config))
    command = [sys.executable, "-m", "prfaas_gateway", "--config", str(file), "--log-level", "info"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        await _until_ready(f"http://127.0.0.1:{health}/readyz")
        yield f"http://127.0.0.1:{listen}", process.pid
    finally:
        process.terminate()
        await process.wait()


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as client:
        while not await _answers(client, url):  # noqa: ASYNC110  another process, nothing to await
            await asyncio.sleep(0.1)


async def _answers(client: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with client.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def _text(length: int) -> str:
    words = "the quick brown fox jumps over the lazy dog and runs away from it "
    return (words * (length // len(words) + 1))[:length]


def _byte_tokenizer(folder: Path) -> Path:

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def table(results: Sequence[Overhead]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| prompt | direct p50 ms | gateway p50 ms | added p50 ms (rounds) | added p99 ms | RSS MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.case} | {one.direct_p50_ms} | {one.gateway_p50_ms} | {one.added_p50_ms} "
        f"({one.spread_ms[0]} to {one.spread_ms[1]}) | {one.added_p99_ms} | {one.gateway_rss_mib} |"
        for one in results
    ]
    return "\n".join(lines)


@click.command()
@click.option("--requests", default=200, show_default=True, help="Requests per case, round and way.")
@click.option("--rounds", default=5, show_default=True, help="Repetitions.")
@click.option("--engine", "engine_url", help="URL of a real engine instead of the fake one.")
@click.option("--model", default="bench", show_default=True, help="Its model's name.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its model's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    requests: int, rounds: int, engine_url: str | None, model: str, tokenizer: Path | None, as_json: bool
) -> None:
    """Measure what the gateway adds to a request, at one request at a time."""
    results = asyncio.run(
        measure(requests=requests, rounds=rounds, engine_url=engine_url, model=model, tokenizer=tokenizer)
    )
    click.echo(json.dumps([asdict(one) for one in results]) if as_json else table(results))


if __name__ == "__main__":
    main()
