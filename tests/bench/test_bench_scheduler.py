"""The benchmark of the scheduler measures what it says, at a small size."""

from __future__ import annotations

from dataclasses import replace

from prfaas_bench.scheduler import Size, measure, table, targets_missed


def test_a_small_fleet_is_measured_and_shown() -> None:
    (result,), hashing = measure(rounds=1, sizes=(Size(5, 20_000),))
    assert result.blocks == 20_000
    assert 0 < result.look_up_p50 < result.p50 <= result.p99
    assert 10 < result.table_mebibytes_per_million < 90
    assert {each.tokens for each in hashing} == {8192, 131_072}
    text = table([result], hashing)
    assert text.count("\n|") == 10
    slow = replace(result, p50=101.0, p99=501.0, table_mebibytes_per_million=61.0)
    assert len(targets_missed([slow])) == 3
    assert targets_missed([replace(slow, pools=400)]) == []
