"""The page of `prfaas evidence`: every table has the runs that it needs, and figures are what runs say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from prfaas.cli import main
from prfaas.commands.evidence import workloads
from prfaas.commands.evidence.runs import CASES, all_runs, result_of
from prfaas.commands.evidence.tables import page
from prfaas.simulator import RouterKind, simulate
from tests.simulator.simulator_scenarios import OPTIONS, settings, two_sites


def test_all_tables_are_made_of_the_runs_and_judge_by_their_figures() -> None:
    some = simulate(two_sites(), OPTIONS, settings(duration_seconds=60.0))
    same = dict.fromkeys(all_runs(), some)
    text = page(same)
    assert "| idle decode slots, shared against static | -50 % | +0 % | no | nowhere here |" in text
    assert all(f"| {case} |" in text for case in CASES)
    assert "| everything |" in text
    assert "| as it should be |" in text
    cheap = same | {"reference/shared": replace(some, cost=some.cost / 4)}
    assert "| requests in time per money, shared over static | 3x | 4.00x | yes | reference |" in page(cheap)


def test_the_papers_system_is_simulated_with_the_papers_division() -> None:
    assert workloads.paper_split(100.0, workloads.paper.KV) == (3, 5)


def test_the_papers_baseline_serves_about_what_was_published() -> None:
    """2.11 requests/s, but for those that leave the queue when they have waited for half a minute."""
    run = all_runs()["paper/homogeneous overloaded"]
    short = run.settings.model_copy(update={"duration_seconds": 1500.0, "warm_up_seconds": 300.0})
    result = result_of(replace(run, settings=short))
    assert 1.9 < result.served_per_second < 2.15
    assert run.settings.policy.router is RouterKind.LOCAL


def test_write_is_for_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["evidence", "--write"])
    assert result.exit_code == 2
    assert "for a checkout" in result.output
