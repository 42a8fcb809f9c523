"""`prfaas simulate` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from prfaas.cli import main
from prfaas.commands.simulate.svg import Line, chart, number, ticks

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "simulator").glob("*.yaml"))
TWO = ROOT / "examples" / "planner" / "two-regions.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_simulated_and_planned(example: Path) -> None:
    short = "10m" if "three" in example.stem else "5m"
    result = run(str(example), "--duration", short, "--set", "simulation.warmUpSeconds=0", "-o", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["total"]["served"] > 10
    planned = CliRunner().invoke(main, ["plan", str(example)])
    assert planned.exit_code == 0, planned.output


def test_the_planners_example_needs_no_section_of_its_own(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    result = run(str(TWO), "--duration", "5m", "--report", str(report))
    assert result.exit_code == 0, result.output
    assert "TTFT mean s" in result.output
    assert re.search(r"north-h200 +prefill", result.output)
    text = report.read_text()
    # Nothing is fetched and nothing is executed.
    assert not re.search(r"(src|href)=|https?://|<script|@import|url\(", text)
    assert text.count("<svg") == 9
    for drawing in re.findall(r"<svg.*?</svg>", text):
        ET.fromstring(drawing)  # noqa: S314 (made by the code under test)


def test_seed_and_what_if() -> None:
    def figures(*more: str) -> dict[str, Any]:
        result = run(str(TWO), "--duration", "5m", "-o", "json", *more)
        assert result.exit_code == 0, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    assert figures() == figures()
    assert figures("--seed", "9") != figures()
    more = figures("--set", "demand.chat=6")
    assert more["total"]["arrived"] > 1.5 * figures()["total"]["arrived"]
    local = figures("--set", "simulation.policy.router=Local")
    assert local["total"]["remote_share"] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("simulation.policy.router=Oracle", "simulation.policy.router"),
        ("simulation.seed=-1", "simulation.seed"),
        ("simulation.policy", "write simulation.FIELD=VALUE"),
        ("link.nowhere=3", "links has no nowhere"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(change: str, told: str) -> None:
    result = run(str(TWO), "--set", change)
    assert result.exit_code == 1
    assert told in result.output


def test_trace_files_lie_beside_the_scenario(tmp_path: Path) -> None:
    document = yaml.safe_load(TWO.read_text())
    pattern = {"kind": "Trace", "file": "trace.csv"}
    document["simulation"] = {"durationSeconds": 100, "demand": {"chat": {"pattern": pattern}}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    missing = run(str(path))
    assert missing.exit_code == 1
    assert "simulation.demand.chat.pattern.file: trace.csv cannot be read" in missing.output
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_seconds,input_tokens,output_tokens\n0,1000,10\n1,-5,10\n")
    bad = run(str(path))
    assert "trace.csv, line 3: input_tokens is '-5'" in bad.output
    trace.write_text("arrival_seconds,input_tokens,output_tokens\n0,1000,10\n1,500,10\n")
    good = run(str(path), "-o", "json")
    assert json.loads(good.stdout)["total"]["served"] == 2


def test_ctrl_c_shows_what_is_known() -> None:
    command = [sys.executable, "-c", "from prfaas.cli import main; main()", "simulate", str(TWO)]
    with subprocess.Popen(
        [*command, "--duration", "400h", "--set", "simulation.sampleSeconds=60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        # The first word of progress says that the simulation is under way.
        assert "simulated" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=50)
    assert process.returncode == 130
    assert output.startswith("Interrupted: what is known of the first")
    assert "TTFT mean s" in output


DEMO: dict[str, Any] = {
    "facts": {
        "Regions": "two network namespaces, joined by an emulated WAN: 1000 Mbit/s, 50 ms RTT, 0 % loss",
        "Model": "M with its real weights, float32, greedy, 32 tokens each",
        "Policy": "prompts of more than 256 uncached tokens go to the east",
    },
    "requests": [],
    "all_local": [],
}


def demo() -> dict[str, Any]:
    """What a demo would print if engines were straight lines: 1 ms a token there, 4 ms here, 0.1 s each."""
    document = json.loads(json.dumps(DEMO))
    for name, tokens in (("short", 100), ("a", 800), ("b", 1600), ("c", 2400), ("d", 1200)):
        remote = tokens > 256
        prefill = 0.1 + tokens * 1e-3
        kv_bytes = tokens * 46_080
        first = max(prefill, kv_bytes * 8 / 1e9) + 0.05 + 0.02 if remote else 0.1 + tokens * 4e-3 + 0.02
        document["requests"].append(
            {
                "name": name,
                "route": "remote" if remote else "local",
                "transfer_code": "complete" if remote else None,
                "uncached_tokens": tokens,
                "first_token_seconds": first,
                "total_seconds": first + 31 * 0.02,
                "prefill_seconds": prefill if remote else None,
                "kv_bytes": kv_bytes if remote else None,
            }
        )
        local = 0.1 + tokens * 4e-3 + 0.02
        document["all_local"].append(
            document["requests"][-1]
            | {
                "route": "local",
                "transfer_code": None,
                "first_token_seconds": local,
                "total_seconds": local + 31 * 0.02,
                "prefill_seconds": None,
                "kv_bytes": None,
            }
        )
    return document


def test_what_real_engines_did_is_predicted_from_the_other_requests(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(demo()))
    result = run("--validate", str(path), "-o", "json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["route"] for row in rows] == ["local", "remote", "remote", "remote", "remote"]
    assert all(abs(row["error"]) < 0.02 for row in rows), rows
    table = run("--validate", str(path))
    assert "each predicted from the other requests: mean error 0 %" in table.output
    assert "given its own prefill time: mean error 0 %" in table.output


def test_what_no_demo_printed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    for text, told in (
        ("{", "is not JSON"),
        ('{"facts": {}}', "prfaas demo --json"),
        ("[]", "prfaas demo --json"),
    ):
        path.write_text(text)
        result = run("--validate", str(path))
        assert result.exit_code == 1
        assert told in result.output
    assert run().exit_code == 2


def test_axes_have_round_numbers() -> None:
    assert ticks(0, 97) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 0) == [0, 1]
    assert number(12_300) == "12.3k"
    many = [Line(f"line {index}", [0, 1, 2], [1.0, float("nan"), index]) for index in range(12)]
    assert "and 4 more" in chart(many, x_label="x", y_label="y")
    assert "<svg" in chart([], x_label="x", y_label="y")
