"""The page of the benchmarks: what was not measured anew stays."""

from __future__ import annotations

from prfaas_bench.command import PARTS, merged, page


def test_a_new_section_takes_the_place_of_the_old_one() -> None:
    known = page({"sidecar": "old speed", "gateway": "old delay"}, 5)
    text = merged(known, {"gateway": "new delay"}, 3)
    assert "old speed" in text
    assert "new delay" in text
    assert "old delay" not in text
    assert "rounds: 3." in text
    assert text.count("## ") == 2
    assert text.split("\n## ")[0] == known.split("\n## ")[0].rstrip("\n") + "\n"
    assert merged(text, {"gateway": "new delay"}, 3) == text


def test_a_section_that_was_not_there_comes_last() -> None:
    text = merged(page({"sidecar": "speed"}, 5), {"operator": "pools"}, 5)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [f"## {PARTS[name].title}" for name in ("sidecar", "operator")]
