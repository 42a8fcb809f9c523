"""What a sidecar tells of its engine's load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prfaas_demo.certificates import Authority
from prfaas_sidecar.load import KV_SAMPLES_MAX, kv_samples, of_page
from prfaas_sidecar.records import Records
from tests.sidecar.test_sidecar_drain import PAGE, with_requests

MORE = (
    PAGE
    + """# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
# TYPE vllm:request_prefill_time_seconds histogram
vllm:request_prefill_time_seconds_bucket{engine="0",le="1.0"} 3.0
vllm:request_prefill_time_seconds_bucket{engine="0",le="+Inf"} 5.0
vllm:request_prefill_time_seconds_count{engine="0"} 5.0
vllm:request_prefill_time_seconds_sum{engine="0"} 9.5
vllm:request_prefill_time_seconds_count{engine="1"} 1.0
vllm:request_prefill_time_seconds_sum{engine="1"} 0.5
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="1.0"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 5.0
vllm:time_to_first_token_seconds_count{engine="0"} 5.0
vllm:time_to_first_token_seconds_sum{engine="0"} 12.0
"""
)


def test_counters_are_summed_over_ranks_and_the_fullest_cache_counts() -> None:
    told = of_page(MORE)
    assert (told["running"], told["waiting"], told["kv_cache_usage"], told["error"]) == (3, 4, 0.75, None)
    assert told["totals"]["prefill_seconds"] == {"sum": 10.0, "count": 6.0}
    assert told["totals"]["first_token_seconds"] == {"sum": 12.0, "count": 5.0, "buckets": [[1.0, 4.0]]}


@pytest.mark.parametrize("page", ["", MORE.replace("2.0", "NaN"), MORE.replace("2.0", "many")])
def test_a_page_that_does_not_tell_gives_no_numbers_and_says_so(page: str) -> None:
    told = of_page(page)
    assert told["error"]
    assert told["running"] is None


def test_only_transfers_that_were_taken_whole_tell_the_size_of_kv() -> None:
    records = Records(keep=100, remember_seconds=60)
    for index in range(50):
        record = records.start(f"{index:032x}", "consumer")
        record.units_wanted, record.units_landed = 4, 4 if index % 2 else 3
        record.bytes_kv, record.taken_tokens = 4096, 64
        record.end("Complete", float(index))
    told = kv_samples(records)
    assert len(told) == min(25, KV_SAMPLES_MAX)
    assert told[-1] == [64.0, 4096.0, 49.0]


async def test_load_is_asked_of_the_engine_and_told_on_the_health_port(
    tmp_path: Path, authority: Authority
) -> None:
    async with with_requests(tmp_path, authority) as (side, requests):
        requests.running = 2
        code, text = await side.get("/load")
        told = json.loads(text)
        assert code == 200
        assert (told["version"], told["running"], told["waiting"]) == (1, 2, 0)
        assert told["draining"] is False
        assert told["kv_samples"] == []


async def test_an_engine_that_is_gone_leaves_the_load_unknown(tmp_path: Path, authority: Authority) -> None:
    async with with_requests(tmp_path, authority) as (side, requests):
        requests.broken = True
        told = json.loads((await side.get("/load"))[1])
        assert told["running"] is None
        assert "500" in told["error"]
