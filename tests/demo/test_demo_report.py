"""What the tables look like."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from prfaas_demo.report import write
from prfaas_demo.results import Outcome
from tests.demo.demo_values import row


def printed(outcome: Outcome, *, columns: int = 120, terminal: bool = False) -> str:
    file = io.StringIO()
    write(Console(file=file, width=columns, force_terminal=terminal, color_system=None), outcome)
    return file.getvalue()


def outcome(*, same_tokens: bool = True, problems: dict[str, list[str]] | None = None) -> Outcome:
    ours = [row("short question", local=True), row("repeated prefix", same_tokens=same_tokens)]
    theirs = [row("short question", local=True), row("repeated prefix", local=True)]
    return Outcome({"Model": "a small one"}, ours, theirs, problems or {})


def test_the_widest_rows_fit_120_columns_with_nothing_cut_off() -> None:
    text = printed(outcome())
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "…" not in text
    (line, _) = (line for line in text.splitlines() if "repeated prefix" in line)
    assert line.split() == [
        *("repeated", "prefix", "8192", "8192", "8192", "remote", "TokenizerMismatch"),
        *("360.0", "987", "123.46", "12.35", "123.45", "234.56", "yes"),
    ]


def test_what_a_local_request_has_not_is_a_dash() -> None:
    line = next(line for line in printed(outcome()).splitlines() if "short question" in line)
    assert line.split()[4:11] == ["-", "local", "UnderThreshold", "-", "-", "-", "-"]


def test_tokens_that_differ_catch_the_eye() -> None:
    text = printed(outcome(same_tokens=False, problems={"repeated prefix": ["the tokens differ"]}))
    assert " NO" in text
    assert "repeated prefix: the tokens differ" in text
    assert "All answers have the same tokens" not in text


def test_the_verdict_of_a_good_run() -> None:
    assert (
        printed(outcome()).rstrip().endswith("All answers have the same tokens as the decode engine alone.")
    )


@pytest.mark.parametrize(("terminal", "times"), [(False, 1), (True, 0)])
def test_how_it_was_run_is_said_again_only_where_it_has_not_been_seen(terminal: bool, times: int) -> None:
    assert printed(outcome(), terminal=terminal).count("Model: a small one") == times


def test_what_the_cut_cost_is_said() -> None:
    cut = replace(row("link cut"), landed_tokens=5000)
    ours = Outcome({}, [cut], [row("link cut", local=True)], {}, cut="cut when 88 of 146 MiB had landed")
    text = " ".join(printed(ours).split())
    assert (
        "cut when 88 of 146 MiB had landed; of 8192 tokens 5000 were used, 3192 computed in the west" in text
    )
