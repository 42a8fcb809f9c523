"""The measurement: lengths one after the other, then batches, within a bound of time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from prfaas.commands.profile.document import Measured
from prfaas.commands.profile.engine import Answer, Engine, EngineError

SHORT_PROMPT_TOKENS = 32
"""Of the prompts that are decoded: the KV that a step reads is mostly that of the answers."""
PREFILL_SHARE = 0.7
"""Of the time, where batches are measured too."""
SHORTEST_TOKENS = 256
LONGEST_TOKENS = 131_072
FEWEST_STEPS = 8
"""Of a batch with all its requests in it; with fewer the rate says little."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        lengths, batches: empty: `default_lengths`; no decoding.
        decode_tokens: that each request of a batch generates.
        warm_up: before each length and batch one run is not counted.
        time_limit_seconds: for everything; what is done by then counts.
        kv_bytes_per_token, kv_state_bytes: as the caller knows them.
    """

    model: str | None = None
    lengths: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    repetitions: int = 3
    decode_tokens: int = 64
    warm_up: bool = True
    time_limit_seconds: float = 300.0
    kv_bytes_per_token: float | None = None
    kv_state_bytes: float = 0.0
    sidecar_url: str | None = None
    kv_from_metrics: bool = False


async def measure(
    engine: Engine,
    wanted: Wanted,
    measured: Measured,
    say: Say,
    now_seconds: Callable[[], float] = time.monotonic,
) -> None:
    """Fill `measured` step by step, so that whoever interrupts has what was found until then.

    Raises:
        EngineError: nothing can be measured; the text says why.
    """
    begun = now_seconds()

    def left(share: float = 1.0) -> float:
        return wanted.time_limit_seconds * share - (now_seconds() - begun)

    served = await engine.served(wanted.model)
    measured.model = served.name
    busy = await engine.requests_running()
    if busy:
        measured.notes.append(f"{busy:g} requests of others were on the engine: its times are too long")
        say(f"warning: {busy:g} requests of others are on the engine; better measure an idle one")
    lengths = _lengths(wanted, served.longest_tokens, measured)
    # It takes no time, and an interrupted measurement has it too.
    await _kv(engine, wanted, measured, lengths, say)
    over = f"the {wanted.time_limit_seconds:g} s of --time-limit were over; give more, or fewer lengths"
    try:
        try:
            await engine.learn_token_ids(served.name, max(1.0, left()))
            for tokens in lengths:
                await _prefill(engine, wanted, measured, say, tokens, lambda: left(_share(wanted)))
        except TimeoutError:
            # The rest of the time is for decoding.
            measured.ended_early = over
            say(f"some lengths are left out: {over}")
        for batch in wanted.batches:
            if not await _decode(engine, wanted, measured, say, batch, left):
                break
    except TimeoutError:
        measured.ended_early = over
        say(f"some batches are left out: {over}")
    except EngineError as error:
        if not measured.prefill_seconds:
            raise
        measured.ended_early = str(error)
        say(str(error))


def default_lengths(longest_tokens: int | None) -> tuple[int, ...]:
    """Doubling from 256; the last is what the model takes, one generated token left out."""
    most = min(LONGEST_TOKENS, (longest_tokens or 8193) - 1)
    found, tokens = [], SHORTEST_TOKENS
    while tokens < most:
        found.append(tokens)
        tokens *= 2
    return (*found, most)


def _share(wanted: Wanted) -> float:
    return PREFILL_SHARE if wanted.batches else 1.0


def _lengths(wanted: Wanted, longest_tokens: int | None, measured: Measured) -> tuple[int, ...]:
    if not wanted.lengths:
        return default_lengths(longest_tokens)
    lengths = tuple(sorted(set(wanted.lengths)))
    too_long = [each for each in lengths if longest_tokens is not None and each >= longest_tokens]
    if len(too_long) == len(lengths):
        raise EngineError(f"the engine takes at most {longest_tokens} tokens: give shorter --lengths")
    if too_long:
        measured.notes.append(
            f"lengths of {', '.join(map(str, too_long))} tokens were left out: the engine takes "
            f"{longest_tokens} with the answer"
        )
    return tuple(each for each in lengths if each not in too_long)


async def _prefill(
    engine: Engine, wanted: Wanted, measured: Measured, say: Say, tokens: int, left: Callable[[], float]
) -> None:
    """Repetitions of one length; those that the time does not allow are left out, but not all of them."""
    for number in range(-1 if wanted.warm_up else 0, wanted.repetitions):
        seconds = left()
        done = measured.prefill_seconds.get(tokens)
        if seconds <= 0 or (done and seconds < median(done)):
            if done:
                measured.notes.append(f"{tokens:,} tokens: {len(done)} of {wanted.repetitions} repetitions")
                return
            raise TimeoutError
        answer = await engine.generate(measured.model, engine.prompt(tokens), 1, seconds)
        if answer.cached_tokens:
            raise EngineError(
                f"{answer.cached_tokens} tokens of a random prompt came from a cache: "
                "measure the engine itself"
            )
        if number >= 0:
            measured.prefill_seconds.setdefault(tokens, []).append(answer.first_seconds)
    shown = measured.prefill_seconds[tokens]
    say(f"prefill {tokens:>7,} tokens  {median(shown):9.4f} s  (median of {len(shown)})")


async def _decode(
    engine: Engine, wanted: Wanted, measured: Measured, say: Say, batch: int, left: Callable[[], float]
) -> bool:
    """Repetitions of one batch size; whether a larger one is worth a try."""
    rates: list[float] = []
    for number in range(-1 if wanted.warm_up else 0, wanted.repetitions):
        if left() <= 0:
            raise TimeoutError
        answers = await _together(engine, wanted, measured.model, batch, left())
        rate = rate_of(answers)
        if rate is None:
            words = f"decoding {batch} at a time: the engine did not run all of them at once for long enough"
            measured.notes.append(words)
            say(words)
            return False
        if number >= 0:
            rates.append(rate)
            measured.decode_tokens_per_second[batch] = rates
    say(f"decode  {batch:>7,} at a time {median(rates):9.1f} tokens/s  (median of {len(rates)})")
    return True


async def _together(
    engine: Engine, wanted: Wanted, model: str, batch: int, deadline_seconds: float
) -> Sequence[Answer]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    engine.generate(
                        model, engine.prompt(SHORT_PROMPT_TOKENS), wanted.decode_tokens, deadline_seconds
                    )
                )
                for _ in range(batch)
            ]
    except BaseExceptionGroup as group_of_errors:
        # The first says why; the others were cancelled or say the same.
        raise group_of_errors.exceptions[0] from None
    return [task.result() for task in tasks]


def rate_of(answers: Sequence[Answer]) -> float | None:
    """Tokens per second of all while all of them decode: from the last first token to the first end.

    None when they were together for fewer than `FEWEST_STEPS` steps.
    """
    from_seconds = max(answer.at_seconds[0] for answer in answers)
    to_seconds = min(answer.at_seconds[-1] for answer in answers)
    tokens, fewest = 0.0, float("inf")
    for answer in answers:
        events = sum(from_seconds < at <= to_seconds for at in answer.at_seconds)
        # An event may carry several tokens.
        each = max(1.0, answer.tokens / len(answer.at_seconds))
        tokens += events * each
        fewest = min(fewest, events * each)
    if fewest < FEWEST_STEPS or to_seconds <= from_seconds:
        return None
    return tokens / (to_seconds - from_seconds)


async def _kv(engine: Engine, wanted: Wanted, measured: Measured, lengths: Sequence[int], say: Say) -> None:
    """Sizes of KV from where the caller said; else none, and that is said."""
    if wanted.sidecar_url is not None:
        try:
            samples = await engine.kv_samples(wanted.sidecar_url)
        except EngineError as error:
            samples = []
            say(str(error))
        by_length: dict[int, list[int]] = {}
        for tokens, size in samples:
            by_length.setdefault(tokens, []).append(size)
        measured.kv_bytes |= {tokens: median(sizes) for tokens, sizes in by_length.items()}
        measured.notes.append(
            f"kvBytes: medians of {len(samples)} transfers that the sidecar has seen"
            if samples
            else "kvBytes is missing: the sidecar has seen no transfer yet"
        )
        return
    per_token = wanted.kv_bytes_per_token
    source = "as given by --kv-bytes-per-token"
    if per_token is None and wanted.kv_from_metrics:
        per_token = bytes_per_token_of(await engine.metrics())
        source = "the engine's cache by its blocks, from vllm:cache_config_info"
        if per_token is None:
            measured.notes.append(
                "kvBytes is missing: the engine's metrics do not tell the size of its cache"
            )
            return
    if per_token is None:
        measured.notes.append(
            "kvBytes is missing, without which no link can be planned for: give --kv-bytes-per-token, "
            "or --sidecar where transfers have run"
        )
        return
    measured.notes.append(f"kvBytes: {source}, not measured by transfers")
    ends = sorted({min(lengths), max(lengths)})
    measured.kv_bytes |= {tokens: wanted.kv_state_bytes + per_token * tokens for tokens in ends}


def bytes_per_token_of(metrics: str) -> float | None:
    """From the labels of vLLM's cache_config_info, where it was told how large its cache is."""
    line = re.search(r"^vllm:cache_config_info\{(.*)\} ", metrics, re.MULTILINE)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line[1])) if line else {}
    try:
        size = float(labels["kv_cache_memory_bytes"])
        # Blocks are of different sizes where some layers see a window or keep a state.
        tokens = float(labels["kv_cache_size_tokens"])
    except (KeyError, ValueError):
        return None
    return size / tokens if size > 0 and tokens > 0 else None
