"""`prfaas plan` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from click.testing import CliRunner, Result

from prfaas.cli import main
from prfaas.commands.plan.paper_tables import results_page

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "planner" / "two-regions.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def changed(tmp_path: Path, **changes: object) -> str:
    document = yaml.safe_load(EXAMPLE.read_text()) | changes
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return str(path)


def test_the_example_is_served_in_full_and_says_what_binds() -> None:
    result = run(str(EXAMPLE))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Egress north to west binds")
    assert "served 3 of 3 requests/s" in result.output
    assert "proven best" in result.output


def test_json_for_programs_and_what_if() -> None:
    wide, narrow = (
        json.loads(run(str(EXAMPLE), "--set", f"link.north-west={gigabits}", "-o", "json").output)
        for gigabits in (40, 6)
    )
    assert wide["complete"]
    assert narrow["complete"]
    assert narrow["cost_per_hour"] > wide["cost_per_hour"]
    thresholds = [each["decode_pools"][0]["threshold_tokens"] for each in (wide, narrow)]
    assert thresholds[0] < thresholds[1]


def test_more_demand_than_there_is_room_for() -> None:
    result = run(str(EXAMPLE), "--set", "demand.chat=40")
    assert result.exit_code == 0
    assert "of 40 requests/s" in result.output
    assert "would serve" in result.output


def test_nothing_remote_is_null_in_json(tmp_path: Path) -> None:
    path = changed(tmp_path, links=[])
    document = json.loads(run(path, "-o", "json").output)
    assert document["decode_pools"][0]["threshold_tokens"] is None
    assert document["decode_pools"][0]["remote_share"] == 0
    assert "none remote" in run(path).output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"goal": "Fun"}, "goal: "),
        ({"models": None}, "models: Field required"),
        (
            {"models": {"hybrid-1t": {}}},
            "models[hybrid-1t].points: the size is not given; give either points or bytesPerToken",
        ),
        ({"prefillTimes": {"h200": {"points": [[2, 1], [1, 2]]}}}, "prefillTimes[h200].points[1].tokens"),
        ({"prefillTimes": {"h20": {"polynomial": [1, 1]}}}, "give either points, or polynomial and longest"),
        ({"models": {"other": {"bytesPerToken": 1}}}, "decodePools[chat].model: models has no hybrid-1t"),
        (
            {"links": [{"name": "l", "source": "north", "target": "west", "gbitsPerSecond": 0}]},
            "links[l].gbitsPerSecond: is 0.0; leave out a link that carries nothing",
        ),
        (
            {"links": [{"name": "l", "source": "north", "target": "west", "gbitsPerSecond": float("nan")}]},
            "links[l].gbitsPerSecond: is nan",
        ),
        ({"options": {"buckets": 0}}, "options.buckets"),
        ({"wire": {"tokenRatio": 0}}, "wire.token_ratio"),
        (
            {"regions": [{"name": "eu", "within": "eu-north"}, {"name": "eu-north", "within": "eu"}]},
            "the regions contain each other",
        ),
        ({"quotas": [{"name": "q", "pools": ["x"], "accelerators": 1}]}, "quotas[q].pools"),
        ({"options": {"timeLimitSeconds": 1e-9}}, "no plan was found in 1e-09 s"),
    ],
)
def test_a_bad_scenario_names_the_place_and_the_remedy(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    result = run(changed(tmp_path, **changes))
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "is not YAML"), ("- 1", "is not a mapping"), ("", "is not a mapping")]
)
def test_what_is_no_scenario(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    result = run(str(path))
    assert result.exit_code == 1
    assert words in result.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("link.x=1", "links has no x"),
        ("link.north-west=fast", "is no number"),
        ("speed=1", "write link.NAME=Gbit/s, demand.NAME=requests/s"),
        ("demand.chat=-1", "arrivals_per_second: is -1.0"),
    ],
)
def test_a_bad_change(change: str, words: str) -> None:
    result = run(str(EXAMPLE), "--set", change)
    assert result.exit_code == 1
    assert words in result.output


def test_a_scenario_or_the_paper() -> None:
    for arguments in ((), (str(EXAMPLE), "--paper")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "give a scenario file, --from-cluster or --paper" in result.output


def test_lengths_as_counted_tokens(tmp_path: Path) -> None:
    pools = yaml.safe_load(EXAMPLE.read_text())["decodePools"]
    pools[0]["lengths"] = {"tokens": [300, 5_000, 9_000, 40_000, 90_000]}
    assert "served 3 of 3" in run(changed(tmp_path, decodePools=pools)).output
    pools[0]["lengths"] = {"tokens": [0]}
    result = run(changed(tmp_path, decodePools=pools))
    assert "decodePools[chat].lengths.lengths[0]: is 0" in result.output


def test_the_page_of_results_is_what_the_command_prints() -> None:
    # Behind it comes what `prfaas evidence --write` simulates.
    planned, *_ = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").split("\n# Results: simulated")
    assert results_page(lambda: lambda: 0.0).rstrip("\n") == planned.rstrip("\n"), (
        "write it anew: prfaas plan --paper > docs/results.md, then prfaas evidence --write"
    )


def test_a_picture_of_throughput_over_t(tmp_path: Path) -> None:
    drawn = tmp_path / "t.svg"
    result = run(str(EXAMPLE), "--picture", str(drawn))
    assert result.exit_code == 0, result.output
    (best,) = [line for line in result.output.splitlines() if line.endswith("<- most")]
    assert "local prefill" in best
    root = ET.fromstring(drawn.read_text())  # noqa: S314 (written just now)
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"throughput", "demand", "t of the plan", "t, tokens"} <= set(words)
    points = json.loads(run(str(EXAMPLE), "--picture", str(drawn), "-o", "json").output)[
        "throughput_over_threshold"
    ]["chat"]
    assert max(point["throughput"] for point in points) == pytest.approx(float(best.split()[2]), rel=0.01)


def test_nothing_remote_is_nothing_to_draw(tmp_path: Path) -> None:
    result = run(changed(tmp_path, links=[]), "--picture", str(tmp_path / "t.svg"))
    assert result.exit_code == 0
    assert "no pool has anything remote to draw" in result.output


def test_what_if_a_pool_had_another_size() -> None:
    fewer = json.loads(run(str(EXAMPLE), "--set", "pool.north-h200.replicas=1", "-o", "json").output)
    sizes = {pool["name"]: pool["instances"] for pool in fewer["pools"]}
    assert sizes["north-h200"] == 1
    capped = json.loads(run(str(EXAMPLE), "--set", "pool.chat.maximum=2", "-o", "json").output)
    assert {pool["name"]: pool["instances"] for pool in capped["pools"]}["chat"] == 2
    assert not capped["complete"]


def test_the_scenario_with_its_changes_can_be_written_and_planned_again(tmp_path: Path) -> None:
    changes = ("--set", "link.north-west=500Mbit", "--set", "output.chat=100")
    written = run(str(EXAMPLE), *changes, "-o", "yaml")
    assert written.exit_code == 0, written.output
    document = yaml.safe_load(written.output)
    assert document["links"][0]["gbitsPerSecond"] == 0.5
    assert document["decodePools"][0]["outputTokens"] == 100
    path = tmp_path / "changed.yaml"
    path.write_text(written.output)
    by_file, by_change = (
        json.loads(run(*arguments, "-o", "json").output)["cost_per_hour"]
        for arguments in ((str(path),), (str(EXAMPLE), *changes))
    )
    assert by_file == pytest.approx(by_change)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"instances": {"maximum": 1}}, "give either instances or instancesOf"),
        ({"instancesOf": "nobody"}, "decodePools has no nobody"),
        ({}, ""),
    ],
)
def test_instances_of_a_decode_pool_may_prefill(tmp_path: Path, pool: dict[str, object], words: str) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    own = {"name": "own", "cluster": "west", "model": "hybrid-1t", "prefill": "h20", "instancesOf": "chat"}
    path = changed(tmp_path, prefillPools=[*document["prefillPools"], own | pool])
    result = run(path)
    assert words in result.output
    assert (result.exit_code == 0) == (not words)
    if not words:
        refused = run(path, "--set", "pool.own.replicas=2")
        assert "own uses the instances of chat; change chat" in refused.output


@pytest.mark.parametrize(
    "arguments", [(str(EXAMPLE), "--from-cluster"), ("--paper", "--from-cluster"), (str(EXAMPLE), "-n", "x")]
)
def test_a_cluster_is_a_source_of_its_own(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
