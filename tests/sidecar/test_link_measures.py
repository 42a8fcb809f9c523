"""Goodput, round trips and bytes by source region."""

from __future__ import annotations

import json

import pytest

from prfaas_sidecar.links import Links
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.sockets import TcpInfo
from tests.sidecar.fake_engine import lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, transfer_id

MEGABYTE = 1_000_000


def info(rtt_seconds: float = 0.05, segments: int = 0, out_of_order: int = 0) -> TcpInfo:
    return TcpInfo(rtt_seconds, 0, 0, segments, out_of_order)


def test_goodput_is_of_busy_time_only() -> None:
    links = Links()
    links.tick(0.0)
    received = links.tally("us")
    for window in range(1, 11):
        if window % 2:
            received(MEGABYTE)
        received(100)
        links.tick(window * 0.1)
    (told,) = links.as_json()
    assert told["busy_seconds"] == pytest.approx(0.5)
    assert told["received_bytes"] == 5 * MEGABYTE + 1000
    assert told["goodput_bits_per_second"] == pytest.approx(80e6, rel=0.01)


def test_goodput_follows_a_change_within_half_a_minute_of_busy_time() -> None:
    links = Links()
    links.tick(0.0)
    received, now = links.tally("us"), 0.0
    for size in [10 * MEGABYTE] * 10 + [MEGABYTE] * 300:
        received(size)
        now += 0.1
        links.tick(now)
    assert 80e6 < links.of("us").goodput_bits_per_second < 130e6  # type: ignore[operator]


def test_what_the_kernel_says_is_by_region_and_of_late() -> None:
    links = Links()
    links.measured(
        [("a", "us", info(0.08, 1000, 10)), ("b", "us", info(0.09, 1000, 30)), ("c", "ap", info())]
    )
    links.measured(
        [("a", "us", info(0.08, 2000, 10)), ("b", "us", info(0.10, 2000, 130)), ("c", "ap", info())]
    )
    ap, us = links.as_json()
    assert (us["streams"], us["rtt_seconds"], us["retransmits_percent"]) == (2, 0.1, 5.0)
    assert (ap["streams"], ap["retransmits_percent"]) == (1, None)
    links.measured([])
    assert [each["streams"] for each in links.as_json()] == [0, 0]
    assert links.as_json()[1]["rtt_seconds"] is None


def test_counters_are_told_once() -> None:
    links, metrics = Links(), Metrics()
    links.tally("us")(500)
    links.collect(metrics)
    links.tally("us")(500)
    links.collect(metrics)
    links.collect(metrics)
    assert b'prfaas_sidecar_link_received_bytes_total{source_region="us"} 1000.0' in metrics.render()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_transfer_is_seen_in_status_and_metrics(two: Pair) -> None:
    lanes, name = lanes_of(layers=2, units=4, unit_bytes=65536), transfer_id()
    before = await two.consumer.metric("prfaas_sidecar_link_received_bytes_total", source_region="us")
    produced = await two.prefill.produce(name, lanes, CONSUMER)
    await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    two.prefill.produce_all(produced, lanes)
    assert (await two.decode.ended(name)).code == "complete"
    kv = 2 * 4 * 65536
    await two.consumer.until(
        "prfaas_sidecar_link_received_bytes_total", lambda n: kv <= n - before < 1.2 * kv, source_region="us"
    )
    status = json.loads((await two.consumer.get("/status"))[1])
    (link,) = status["links"]
    assert link["region"] == "us"
    assert link["complete_transfers"] >= 1
    assert len(status["links_epoch"]) == 16
    assert json.loads((await two.producer.get("/status"))[1])["links"] == []
    two.decode.release(name)
