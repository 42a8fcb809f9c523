"""The page of `prfaas evidence`: every table has the runs that it needs, and figures are what runs say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from prfaas.cli import main
from prfaas.commands.evidence import workloads
from prfaas.commands.evidence.runs import CASES, all_runs, follow_ups, paper_runs, result_of
from prfaas.commands.evidence.tables import page
from prfaas.simulator import Result, RouterKind, simulate
from tests.simulator.simulator_scenarios import OPTIONS, settings, two_sites


@pytest.fixture(scope="module")
def same() -> dict[str, Result]:
    """One result for every run that the page needs."""
    some = simulate(two_sites(), OPTIONS, settings(duration_seconds=60.0))
    first = dict.fromkeys(all_runs(), some)
    return first | dict.fromkeys(follow_ups(first), some)


def row_of(text: str, name: str) -> list[str]:
    """The cells after the name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_all_tables_are_made_of_the_runs_and_judge_by_their_figures(same: dict[str, Result]) -> None:
    text = page(same)
    assert row_of(text, "latency") == ["-40 %", "+0 %", "+0 %", "+0 %", "+0 %", "no"]
    assert row_of(text, "requests in time per money")[-1] == "no"
    assert all(f"| {case} |" in text for case in CASES)
    assert "| everything |" in text
    assert "| as it should be |" in text
    shared = same["reference/shared"]
    cheap = page(same | {"reference/shared": replace(shared, cost=shared.cost / 4)})
    assert row_of(cheap, "requests in time per money") == ["3x", *["4.00x"] * 4, "yes"]
    assert row_of(cheap, "cost by idle regions")[-1] == "at equal service: yes"
    assert "at equal spend hold with reference;" in " ".join(cheap.split())
    assert "at equal spend hold with reference;" not in " ".join(text.split())


def test_single_regions_get_the_money_that_shared_has_spent() -> None:
    """Prices of all hours count: what the instances cost in the simulation is what they were bought for."""
    world = CASES["reference"]
    money = 3000.0
    problem = workloads.static_for(world, money)
    prices = workloads.night_prices(world, problem)
    hours = range(int(workloads.HOURS))
    begin = workloads.WARM_UP_SECONDS / 3600
    spent = sum(
        (pool.instances.current or 0) * (prices[pool.name].price_by_hour or ())[int(hour + begin)]
        for pool in problem.pools
        for hour in hours
    )
    assert spent == pytest.approx(money, rel=0.05)
    by_region = {
        region: [pool.instances.current or 0 for pool in problem.pools if pool.cluster == region]
        for region in workloads.REGIONS
    }
    assert max(map(sum, by_region.values())) - min(map(sum, by_region.values())) <= 1
    assert all(min(sizes) >= 1 for sizes in by_region.values())


def test_alone_at_equal_spend_is_told_of_less_demand(same: dict[str, Result]) -> None:
    half = same | {
        "reference/shared": replace(same["reference/shared"], cost=same["reference/alone"].cost / 2)
    }
    run = follow_ups(half)["reference/alone, same spend"]
    assert run.settings.policy.headroom == pytest.approx((1 + workloads.HEADROOM) / 2 - 1)
    assert not run.problem.links


def test_the_papers_system_is_simulated_with_the_papers_division() -> None:
    assert workloads.paper_split(100.0, workloads.paper.KV) == (3, 5)


def test_the_papers_baseline_serves_about_what_was_published() -> None:
    """2.11 requests/s, but for those that leave the queue when they have waited for half a minute."""
    run = paper_runs()["paper/homogeneous overloaded"]
    short = run.settings.model_copy(update={"duration_seconds": 1500.0, "warm_up_seconds": 300.0})
    result = result_of(replace(run, settings=short))
    assert 1.9 < result.served_per_second < 2.15
    assert run.settings.policy.router is RouterKind.LOCAL


def test_write_is_for_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["evidence", "--write"])
    assert result.exit_code == 2
    assert "for a checkout" in result.output
