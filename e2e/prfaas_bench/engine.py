"""What the connector costs the engine: prefill with and without a transfer, decoding beside a waiting one.

Run it alone with ``python -m prfaas_bench.engine``. Real vLLM on the CPU with SmolLM2 in float32, where one
prompt token's KV is 46 KB; the ways take turns in every round, and a spread is the smallest and largest ratio
of a round.
"""

from __future__ import annotations

import json
import secrets
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

import prfaas_setup
from prfaas_connector.request import prompt_digest
from prfaas_lab.engine import Engine
from prfaas_lab.pair import CONSUMER, PRODUCER, Pair, pair
from prfaas_lab.prompts import prompt

_MODEL = "smollm2-135m"
_DECODE_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds, with the smallest and the largest."""

    median: float
    smallest: float
    largest: float


@dataclass(frozen=True, slots=True)
class Result:
    """Times relative to the same engine without the thing measured; 1.05 is 5 % slower.

    Attributes:
        prefill_seconds: median prefill of ``prompt_tokens`` by an engine without a connector.
        idle: engine with the connector and no transfer, against the engine without it.
        producing: the same prompt with its KV copied out, against the connector's own engine without a
        transfer.
        waiting: a running request's seconds per token while a transfer waits, against without one.
    """

    prompt_tokens: int
    rounds: int
    prefill_seconds: float
    idle: Ratio
    producing: Ratio
    waiting: Ratio


def measure(*, prompt_tokens: int = 4096, rounds: int = 5) -> Result:
    """Start three engines and take every way once a round.

    Args:
        prompt_tokens: length of the prompts that are prefilled.
        rounds: counted rounds, after one that is not.
    """
    with tempfile.TemporaryDirectory(prefix="prfaas-bench-") as folder:
        arguments: dict[str, Any] = {
            "max_model_len": prompt_tokens + 1024,
            "max_num_batched_tokens": 1024,
            "block_size": 32,
        }
        with pair(Path(folder), _MODEL, **arguments) as engines:
            plain = Engine(
                Path(folder),
                "plain",
                {
                    "model": str(prfaas_setup.model_path(_MODEL)),
                    "dtype": "float32",
                    "enforce_eager": True,
                    "max_num_seqs": 8,
                    "enable_prefix_caching": True,
                    **arguments,
                },
            )
            try:
                plain.wait_until_ready()
                return _rounds(engines, plain, prompt_tokens, rounds)
            finally:
                plain.stop()


def _rounds(engines: Pair, plain: Engine, prompt_tokens: int, rounds: int) -> Result:
    prefill, idle, producing, waiting = [], [], [], []
    for number in range(rounds + 1):
        tokens = prompt(prompt_tokens, seed=number)
        without = _prefill(plain, tokens)
        with_connector = _prefill(engines.prefill, tokens)
        with_transfer = _produce(engines, tokens)
        beside_nothing = _decode(engines, number, waits=False)
        beside_transfer = _decode(engines, number, waits=True)
        if number:
            prefill.append(without)
            idle.append(with_connector / without)
            producing.append(with_transfer / with_connector)
            waiting.append(beside_transfer / beside_nothing)
    return Result(
        prompt_tokens, rounds, statistics.median(prefill), _ratio(idle), _ratio(producing), _ratio(waiting)
    )


def _ratio(values: list[float]) -> Ratio:
    return Ratio(statistics.median(values), min(values), max(values))


def _prefill(engine: Engine, tokens: list[int], params: dict[str, Any] | None = None) -> float:
    engine.reset()
    began = time.perf_counter()
    engine.generate(tokens, 1, params)
    return time.perf_counter() - began


def _produce(engines: Pair, tokens: list[int]) -> float:
    """Prefill with everything copied to the arena; nobody pulls, so that only the engine's side is
    measured."""
    leg = _leg("prefill", tokens) | {"consumer": CONSUMER}
    seconds = _prefill(engines.prefill, tokens, {"prfaas": leg})
    engines.producer.call("POST", f"/v1/transfers/{leg['transfer_id']}/cancel")
    return seconds


def _decode(engines: Pair, number: int, *, waits: bool) -> float:
    """Seconds per token of a running request, with or without another one that waits for KV."""
    running = prompt(200, seed=1000 + number)
    awaited = prompt(2000, seed=2000 + number)
    leg = _leg("decode", awaited)
    engines.decode.reset()
    engines.decode.generate(running, 1)
    waiting = ""
    if waits:
        producer = {"address": f"127.0.0.1:{engines.link.port}", "identity": PRODUCER}
        waiting = engines.decode.start(awaited, 1, {"prfaas": leg | {"producer": producer}})
    began = time.perf_counter()
    engines.decode.generate(running, _DECODE_TOKENS)
    seconds = (time.perf_counter() - began) / _DECODE_TOKENS
    if waits:
        engines.decode.abort(waiting)
    return seconds


def _leg(kind: str, tokens: list[int]) -> dict[str, Any]:
    return {
        "version": 1,
        "leg": kind,
        "transfer_id": secrets.token_hex(16),
        "prompt_digest": prompt_digest(tokens, None),
        "deadline_seconds": 600.0,
    }


def table(result: Result) -> str:
    """The result as lines of Markdown."""

    def row(name: str, ratio: Ratio, target: str) -> str:
        return f"| {name} | {ratio.median:.3f} | {ratio.smallest:.3f}-{ratio.largest:.3f} | {target} |"

    return "\n".join(
        (
            f"Prefill of {result.prompt_tokens} tokens: {result.prefill_seconds:.2f} s"
            f" (median of {result.rounds} rounds).",
            "",
            "| time relative to the engine without it | median | spread | target |",
            "|---|---|---|---|",
            row("connector, no transfer", result.idle, "no measurable change"),
            row("connector, KV copied out while it is computed", result.producing, "at most 1.05"),
            row("a running request while a transfer waits", result.waiting, "at most 1.05"),
        )
    )


@click.command()
@click.option("--prompt-tokens", default=4096, show_default=True, type=click.IntRange(256, 16384))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(prompt_tokens: int, rounds: int, as_json: bool) -> None:
    """Measure what the connector costs an engine."""
    result = measure(prompt_tokens=prompt_tokens, rounds=rounds)
    click.echo(json.dumps(asdict(result)) if as_json else table(result))


if __name__ == "__main__":
    main()
