"""`prfaas profile`."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import aiohttp
import click
import yaml

from prfaas.capacity import InvalidInputError
from prfaas.commands.plain import plain
from prfaas.commands.profile.document import Made, Measured, made
from prfaas.commands.profile.engine import Engine, EngineError
from prfaas.commands.profile.measure import Wanted, measure

INTERRUPTED = 130
DEFAULT_HARDWARE = "unnamed"


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """The value of --lengths or --batches."""
    try:
        found = tuple(int(each) for each in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no list of whole numbers such as 256,512.", ctx, param
        ) from error
    if any(each < 1 for each in found):
        raise click.BadParameter("give numbers of at least 1.", ctx, param)
    return tuple(sorted(set(found)))


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas profile http://localhost:8000 --hardware NVIDIA-H100-80GB-HBM3 > profile.yaml\n"
    "  prfaas profile http://localhost:8000 --lengths 1024,8192,32768 --batches 1,8,32,128\n"
    "  prfaas profile http://localhost:8000 --kv-bytes-per-token 147456 | kubectl apply -n serving -f -"
)
@click.argument("url", metavar="URL")
@click.option(
    "--lengths", callback=_numbers, metavar="TOKENS,…", help="Default: doubling from 256 to the longest."
)
@click.option(
    "--batches",
    callback=_numbers,
    default="1,2,4,8,16,32",
    show_default=True,
    metavar="N,…",
    help="To decode.",
)
@click.option("--no-decode", is_flag=True, help="Measure prefill alone.")
@click.option("--model", help="Name of the model; needed where the engine serves several.")
@click.option("--revision", help="Revision of the weights, for the profile.")
@click.option(
    "--hardware",
    default=DEFAULT_HARDWARE,
    show_default=True,
    help="What the engine runs on, as in scaling.instance.hardware of the pools.",
)
@click.option("--name", help="Of the ModelKVProfile; default: from the model's name.")
@click.option("-n", "--namespace", help="Of the ModelKVProfile; default: left to kubectl.")
@click.option("--repetitions", type=click.IntRange(1, 100), default=3, show_default=True, help="Of each.")
@click.option("--no-warm-up", is_flag=True, help="Count the first run of each length and batch too.")
@click.option(
    "--decode-tokens", type=click.IntRange(16, 4096), default=64, show_default=True, help="Per answer."
)
@click.option(
    "--time-limit",
    "time_limit_seconds",
    type=click.FloatRange(1, 86_400),
    default=300.0,
    show_default=True,
    help="Seconds for everything; then what is known is written.",
)
@click.option("--kv-bytes-per-token", type=click.FloatRange(min=0, min_open=True), help="If you know it.")
@click.option("--kv-state-bytes", type=click.FloatRange(0), default=0.0, help="Recurrent state beside it.")
@click.option("--sidecar", metavar="URL", help="Health port of the engine's sidecar, for sizes of KV.")
@click.option("--kv-from-metrics", is_flag=True, help="Size of KV from vLLM's metrics, where they tell.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json", "table"]), default="yaml", help="Form.")
@click.option("-f", "--file", type=click.Path(dir_okay=False, path_type=Path), help="Write there instead.")
def profile(
    url: str,
    lengths: tuple[int, ...],
    batches: tuple[int, ...],
    no_decode: bool,
    model: str | None,
    revision: str | None,
    hardware: str,
    name: str | None,
    namespace: str | None,
    repetitions: int,
    no_warm_up: bool,
    decode_tokens: int,
    time_limit_seconds: float,
    kv_bytes_per_token: float | None,
    kv_state_bytes: float,
    sidecar: str | None,
    kv_from_metrics: bool,
    output: str,
    file: Path | None,
) -> None:
    """Measure a running engine, and write a ModelKVProfile for kubectl and the planner.

    URL is the engine's own address, such as http://localhost:8000 behind `kubectl port-forward`. The engine
    should be idle: random prompts that no cache holds are prefilled one at a time, then answers are decoded
    in batches. Ctrl-C ends it and writes what is known.
    """
    wanted = Wanted(
        model=model,
        lengths=lengths,
        batches=() if no_decode else batches,
        repetitions=repetitions,
        decode_tokens=decode_tokens,
        warm_up=not no_warm_up,
        time_limit_seconds=time_limit_seconds,
        kv_bytes_per_token=kv_bytes_per_token,
        kv_state_bytes=kv_state_bytes,
        sidecar_url=sidecar,
        kv_from_metrics=kv_from_metrics,
    )
    measured = Measured()
    interrupted = False
    try:
        asyncio.run(_measured(url, wanted, measured))
    except KeyboardInterrupt:
        interrupted = True
        measured.ended_early = "it was interrupted"
    except EngineError as error:
        raise click.ClickException(plain(str(error))) from error
    try:
        found = made(measured, hardware=hardware, name=name, namespace=namespace, revision=revision)
    except InvalidInputError as error:
        raise click.ClickException(plain(str(error))) from error
    text = _text(found, output)
    if file is not None:
        file.write_text(text, encoding="utf-8")
        click.echo(f"{file} is written", err=True)
    else:
        click.echo(text, nl=False)
    if output == "json" or file is not None:
        for note in found.notes:
            click.echo(f"note: {plain(note)}", err=True)
    if interrupted:
        raise SystemExit(INTERRUPTED)


async def _measured(url: str, wanted: Wanted, measured: Measured) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        # Prompts that must differ from those of every earlier run, and guard nothing.
        engine = Engine(session, url, random.Random())  # noqa: S311
        await measure(engine, wanted, measured, lambda words: click.echo(plain(words), err=True))


def _text(found: Made, output: str) -> str:
    if output == "table":
        return table(found)
    document = found.profile.to_api()
    # What the server sets is not for a manifest.
    document["metadata"] = {
        key: value for key, value in document["metadata"].items() if value and key in _OWN
    }
    document = {key: document[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    if output == "json":
        return json.dumps(document, indent=2) + "\n"
    head = "".join(f"# {plain(note)}\n" for note in ("Measured by `prfaas profile`.", *found.notes))
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


_OWN = ("name", "namespace")


def table(found: Made) -> str:
    """The same for people."""
    spec = found.profile.spec
    lines = [f"{spec.model.name}: ModelKVProfile {found.profile.metadata.name}", ""]
    for times in spec.prefill or ():
        lines.append(f"prefill on {times.hardware}")
        lines += [
            f"  {point.tokens:>9,} tokens  {point.seconds:>10.4g} s"
            f"  {point.tokens / point.seconds:>9,.0f} tokens/s"
            for point in times.points
        ]
    if spec.decode:
        lines.append("decode")
        lines += [
            f"  {each.batch:>9,} at a time  {each.tokens_per_second:>9.4g} tokens/s  on {each.hardware}"
            for each in spec.decode
        ]
    if spec.kv_bytes:
        lines.append("KV")
        lines += [f"  {point.tokens:>9,} tokens  {point.size_bytes:>14,} bytes" for point in spec.kv_bytes]
    lines += ["", *(f"note: {plain(note)}" for note in found.notes)] if found.notes else []
    return plain("\n".join(lines)) + "\n"
