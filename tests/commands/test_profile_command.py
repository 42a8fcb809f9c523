"""`prfaas profile`: what is asked of an engine, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result

from prfaas.api.v1alpha1 import ModelKVProfile, ModelKVProfileSpec
from prfaas.capacity import InvalidInputError
from prfaas.cli import main
from prfaas.commands.profile import command
from prfaas.commands.profile.document import Measured, made, monotone, object_name
from prfaas.commands.profile.engine import Answer, Served
from prfaas.commands.profile.measure import Wanted, bytes_per_token_of, default_lengths, measure, rate_of
from prfaas.model_profile import profile_of
from prfaas_bench.fake_engine import Asked, FakeEngine, Script

ROOT = Path(__file__).parents[2]
LONGEST = 2048
METRICS = (
    'vllm:num_requests_running{engine="0"} 0.0\n'
    'vllm:cache_config_info{block_size="32",kv_cache_memory_bytes="1073741824",'
    'kv_cache_size_tokens="23296",num_gpu_blocks="728"} 1.0\n'
)


class Engine(FakeEngine):
    """Generates as many tokens as it is asked for, and knows token ids below 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.models = [{"id": "org/Tiny-1", "max_model_len": LONGEST}]
        self.metrics = METRICS

    async def _answer(self, request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
        if max(asked.body["prompt"]) >= 1000:
            script = Script(status=400)
        return await super()._answer(request, asked, replace(script, tokens=asked.body["max_tokens"]))


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["profile", *arguments])


async def test_an_engine_is_measured_with_prompts_that_no_cache_holds() -> None:
    async with Engine().run() as engine:
        result = await run(
            engine.url,
            *("--lengths", "64,512", "--batches", "1", "--repetitions", "2", "--hardware", "h1"),
            *("--kv-bytes-per-token", "100", "-n", "serving"),
        )
    assert result.exit_code == 0, result.output
    document = yaml.safe_load(result.stdout)
    assert document["metadata"] == {"name": "org-tiny-1", "namespace": "serving"}
    profile = ModelKVProfile.model_validate(document)
    (times,) = profile.spec.prefill or ()
    assert [point.tokens for point in times.points] == [64, 512]
    assert [(point.tokens, point.size_bytes) for point in profile.spec.kv_bytes or ()] == [
        (64, 6400),
        (512, 51200),
    ]
    assert [(each.hardware, each.batch) for each in profile.spec.decode or ()] == [("h1", 1)]
    # Ids are halved until the engine knows them; then for each length a warm-up and two that count.
    bodies = [each.body for each in engine.asked]
    counted = [body for body in bodies if len(body["prompt"]) in (64, 512)]
    assert [len(body["prompt"]) for body in counted] == [64] * 3 + [512] * 3
    assert all(body["max_tokens"] == 1 and body["ignore_eos"] and body["stream"] for body in counted)
    assert len({tuple(body["prompt"]) for body in counted}) == len(counted)
    assert "as given by --kv-bytes-per-token" in result.stdout


async def test_what_is_written_is_what_the_capacity_model_takes(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    async with Engine().run() as engine:
        result = await run(
            f"{engine.url}/v1",
            "--no-decode",
            "--kv-from-metrics",
            "--repetitions",
            "1",
            "-o",
            "json",
            "-f",
            str(file),
        )
    assert result.exit_code == 0, result.output
    spec = ModelKVProfileSpec.model_validate(json.loads(file.read_text())["spec"])
    found, trouble = profile_of(spec, hardware="unnamed", revision=None, output_tokens=None)
    assert not trouble
    assert found.prefill is not None
    assert found.kv is not None
    assert found.prefill.to_tokens == LONGEST - 1
    assert found.kv.at(1024) == pytest.approx(1024 * 1073741824 / 23296, rel=1e-3)
    assert "note: kvBytes: the engine's cache by its blocks" in result.stderr


@pytest.mark.parametrize(
    ("setting", "arguments", "words"),
    [
        ({"models": []}, (), "names no model"),
        ({"models": [{"id": "a"}, {"id": "b"}]}, (), "the engine serves a, b: say which with --model"),
        ({}, ("--model", "other"), "the engine serves org/Tiny-1, not other"),
        ({}, ("--lengths", "5000"), "the engine takes at most 2048 tokens"),
        ({"default": Script(status=503)}, ("--lengths", "64"), "the engine answered 503: scripted"),
        ({"default": Script(cached_tokens=32)}, ("--lengths", "64"), "came from a cache"),
        ({"default": Script(die_before_first=True)}, ("--lengths", "64"), "the engine broke off"),
    ],
)
async def test_an_engine_that_cannot_be_measured(
    setting: dict[str, Any], arguments: tuple[str, ...], words: str
) -> None:
    engine = Engine()
    for name, value in setting.items():
        setattr(engine, name, value)
    async with engine.run():
        result = await run(engine.url, *arguments)
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


async def test_no_engine_there() -> None:
    result = await run("http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "cannot be reached" in result.output


async def test_load_of_others_is_told_and_written_down() -> None:
    engine = Engine()
    engine.metrics = 'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'
    async with engine.run():
        result = await run(engine.url, "--lengths", "64", "--no-decode", "--kv-from-metrics")
    assert "warning: 4 requests of others" in result.stderr
    assert "# 4 requests of others were on the engine" in result.stdout
    assert "do not tell the size of its cache" in result.stdout


async def test_sizes_of_kv_from_the_sidecar() -> None:
    async def load(_: web.Request) -> web.Response:
        samples = [[128, 5000, 1.0], [512, 19_000, 2.0], [512, 21_000, 3.0]]
        return web.json_response({"version": 1, "kv_samples": samples})

    app = web.Application()
    app.router.add_get("/load", load)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sidecar = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        async with Engine().run() as engine:
            result = await run(engine.url, "--lengths", "64", "--no-decode", "--sidecar", sidecar)
    finally:
        await runner.cleanup()
    assert result.exit_code == 0, result.output
    sizes = yaml.safe_load(result.stdout)["spec"]["kvBytes"]
    assert sizes == [{"tokens": 128, "bytes": 5000}, {"tokens": 512, "bytes": 20_000}]


def test_an_interrupted_measurement_writes_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(url: str, wanted: Wanted, measured: Measured) -> None:
        measured.model = "m"
        measured.prefill_seconds[256] = [0.5, 0.4, 0.45]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_measured", interrupted)
    result = CliRunner().invoke(main, ["profile", "http://nowhere"])
    assert result.exit_code == 130
    assert "# not all was measured: it was interrupted" in result.stdout
    assert yaml.safe_load(result.stdout)["spec"]["prefill"][0]["points"] == [{"tokens": 256, "seconds": 0.45}]


class Slow:
    """An engine whose prefill takes a second per 100 tokens of a clock that only it moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def served(self, wanted: str | None) -> Served:
        return Served("m", None)

    async def requests_running(self) -> None:
        return None

    async def learn_token_ids(self, model: str, deadline_seconds: float) -> None:
        return None

    def prompt(self, tokens: int) -> list[int]:
        return [1] * tokens

    async def generate(
        self, model: str, prompt: list[int], max_tokens: int, deadline_seconds: float
    ) -> Answer:
        asked, took = self.seconds, len(prompt) / 100
        if took > deadline_seconds:
            self.seconds += deadline_seconds
            raise TimeoutError
        self.seconds += took
        steps = [asked + took + 0.1 * number for number in range(max_tokens)]
        return Answer(asked, steps, tokens=max_tokens)


async def test_time_that_runs_out_ends_prefill_and_leaves_some_for_decoding() -> None:
    engine, measured = Slow(), Measured()
    wanted = Wanted(lengths=(100, 1000, 5000), batches=(1,), time_limit_seconds=60.0)
    await measure(engine, wanted, measured, lambda _: None, lambda: engine.seconds)  # type: ignore[arg-type]
    assert measured.prefill_seconds == {100: [1.0] * 3, 1000: [10.0] * 2}
    assert "1,000 tokens: 2 of 3 repetitions" in measured.notes
    assert measured.decode_tokens_per_second[1] == [pytest.approx(10.0)] * 3
    assert "--time-limit were over" in measured.ended_early
    assert made(measured, hardware="h").notes[0].startswith("not all was measured")


def test_a_rate_counts_only_the_time_when_all_decode() -> None:
    early = Answer(0.0, [1.0 + 0.1 * step for step in range(40)], tokens=40)
    late = Answer(0.0, [2.0 + 0.1 * step for step in range(40)], tokens=40)
    # From 2.0 to 4.9: ten tokens per second each.
    assert rate_of([early, late]) == pytest.approx(20.0, rel=0.05)
    several = Answer(0.0, [1.0 + 0.2 * step for step in range(20)], tokens=40)
    assert rate_of([several]) == pytest.approx(10.0, rel=0.01)
    queued = replace(late, at_seconds=[at + 3.5 for at in late.at_seconds])
    assert rate_of([early, queued]) is None


def test_points_never_fall_and_what_was_changed_is_said() -> None:
    found, changed = monotone({1: 1.0, 2: 3.0, 3: 2.0, 4: 4.0})
    assert found == {1: 1.0, 2: 2.5, 3: 2.5, 4: 4.0}
    assert changed == {2: (3.0, 2.5), 3: (2.0, 2.5)}
    assert monotone({}) == ({}, {})
    measured = Measured("m", {256: [0.3], 512: [0.2], 1024: [0.9, 0.8, 3.0]})
    profile = made(measured, hardware="h", name="x")
    assert [point.seconds for point in (profile.profile.spec.prefill or ())[0].points] == [0.25, 0.25, 0.9]
    text = "\n".join(profile.notes)
    assert "of 256 tokens was put at 0.25 instead of 0.3 s" in text
    assert "1,024 tokens: repetitions differ by ±122 %" in text
    with pytest.raises(InvalidInputError, match="nothing was measured"):
        made(Measured("m"), hardware="h")


def test_defaults() -> None:
    assert default_lengths(4096) == (256, 512, 1024, 2048, 4095)
    assert default_lengths(200) == (199,)
    assert default_lengths(None)[-1] == 8192
    assert default_lengths(10**6)[-1] == 131_072
    assert object_name("Org/Model_2.5-Chat!") == "org-model-2-5-chat"
    assert object_name("***") == "model"
    assert bytes_per_token_of("nothing") is None
    assert bytes_per_token_of('vllm:cache_config_info{kv_cache_memory_bytes="None"} 1.0\n') is None


def test_the_measured_example_is_one_that_the_capacity_model_takes() -> None:
    document = yaml.safe_load((ROOT / "examples" / "planner" / "smollm2-cpu-profile.yaml").read_text())
    profile, trouble = profile_of(
        ModelKVProfile.model_validate(document).spec, hardware="cpu-1-thread", revision=None, output_tokens=64
    )
    assert not trouble
    assert profile.prefill is not None
    assert profile.kv is not None
    assert profile.decode is not None
    assert profile.decode.batch_max == 4


def test_bad_lists_are_refused() -> None:
    for bad in ("a,b", "0"):
        result = CliRunner().invoke(main, ["profile", "http://x", "--lengths", bad])
        assert result.exit_code == 2
