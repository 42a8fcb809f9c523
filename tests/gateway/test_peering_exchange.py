"""What regions tell one another, as values: lines, changes, pace, and what a reader makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.api.snapshot import OwnPool
from prfaas.api.v1alpha1.pools import Reach
from prfaas_gateway.engine_report import LinkCounters, read_report
from prfaas_gateway.peering.feed import FIRST_BYTES, Feed
from prfaas_gateway.peering.lines import Lines, LineTooLongError
from prfaas_gateway.peering.links import links_into, pace_of
from prfaas_gateway.peering.offers import Offers, offers
from prfaas_gateway.peering.region import MAX_PODS, RegionView
from prfaas_gateway.peering.stream import Allowance
from prfaas_gateway.peering.wire import (
    MAX_LINE_BYTES,
    BadDocumentError,
    LinkState,
    PeerPod,
    line_of,
    pod_fields,
    read_line,
)
from tests.gateway.cluster_values import FINGERPRINT, pod, report

RATE = 50_000.0


def peer_pod(number: int = 0, **fields: Any) -> PeerPod:
    """A pod as a region of many tells it, with names as long as they are in practice."""
    given: dict[str, Any] = {
        "uid": f"7d0f4a1c-5b5e-4a55-9d2e-{number:012}",
        "namespace": "serving",
        "name": f"long-context-prefill-7c9f8d6b5-{number:05}",
        "pool": "long-context-prefill",
        "kind": "PrefillPool",
        "fingerprint": FINGERPRINT,
        "block_tokens": 32,
        "max_model_tokens": 131_072,
        "kv_address": f"10.1.{number // 250}.{number % 250}:7400",
        "kv_server_name": f"10-1-{number // 250}-{number % 250}.kv.example.org",
        "ready": True,
        "draining": False,
        "queued_requests": 0,
        "running_requests": 0,
        "queued_tokens": 0,
        "incarnation": "0123456789abcdef0123456789abcdef",
        **fields,
    }
    return PeerPod(**given)


def by_uid(pods: Iterable[PeerPod]) -> dict[str, PeerPod]:
    """Pods as a feed takes them."""
    return {pod.uid: pod for pod in pods}


def hear(view: RegionView, lines: Iterable[bytes], now: float = 0.0) -> None:
    """Let a view hear what a feed says."""
    for line in lines:
        assert len(line) <= MAX_LINE_BYTES
        view.hear(read_line(line), now, 1000 + now)


# --- lines


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.integers(1, 50))
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines: list[bytes], size: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    reader = Lines(30)
    found = [line for at in range(0, len(data), size) for line in reader.feed(data[at : at + size])]
    assert found == [line for line in lines if line.strip()]


def test_a_line_without_an_end_is_not_kept() -> None:
    reader = Lines(100)
    for _ in range(10):
        reader.feed(b"x" * 10)
    with pytest.raises(LineTooLongError):
        reader.feed(b"x")


# --- documents


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"type": 1}',
        b'{"type": "hello", "region": "us", "now": 1}',
        b'{"type": "hello", "version": 0, "region": "us", "now": 1}',
        b'{"type": "hello", "version": 1, "region": "../us", "now": 1}',
        b'{"type": "beat"}',
        b'{"type": "beat", "now": NaN}',
        b'{"type": "beat", "now": true}',
        b'{"type": "pods", "pods": {}}',
        b'{"type": "pods", "gone": "all"}',
        b'{"type": "links"}',
        b'{"type": "report", "report": []}',
        b"[" * 100_000,
        b'{"type": "report", "report": {"x": "' + b"x" * 70_000 + b'"}}',
    ],
)
def test_what_is_no_document_is_refused(line: bytes) -> None:
    with pytest.raises(BadDocumentError):
        read_line(line)


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_any_bytes_are_a_document_or_refused(line: bytes) -> None:
    try:
        RegionView("us").hear(read_line(line), 0, 0)
    except BadDocumentError:
        return


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_address", "10.0.0.1"),
        ("kv_address", "10.0.0.1:99999"),
        ("kv_address", "10.0.0.1:1/x"),
        ("kv_server_name", "a b"),
        ("uid", "eu:uid"),
        ("pool", "../long"),
        ("ready", "yes"),
        ("queued_tokens", -1),
        ("queued_tokens", 1.5),
        ("queued_tokens", 1 << 60),
        ("fingerprint", "short"),
        ("incarnation", "x" * 65),
        ("kind", "Pool"),
    ],
)
def test_a_pod_that_is_not_as_agreed_is_left_out_and_the_others_are_not(name: str, value: Any) -> None:
    view = RegionView("us")
    entries = [{**pod_fields(peer_pod(1)), name: value}, pod_fields(peer_pod(2))]
    view.hear(read_line(line_of({"type": "pods", "full": True, "pods": entries})), 0, 0)
    assert list(view.pods.values()) == [peer_pod(2)]
    assert view.ignored == 1


def test_a_newer_peer_is_understood_as_far_as_it_goes() -> None:
    view = RegionView("us")
    entry = {**pod_fields(peer_pod()), "gpu": "H300", "nested": {"x": [1]}}
    hear(
        view,
        [
            line_of(
                {"type": "hello", "version": 1, "region": "us", "cluster": "us-1", "now": 1000.5, "new": 1}
            ),
            line_of({"type": "weather", "rain": True}),
            line_of({"type": "pods", "full": True, "pods": [entry], "generation": 7}),
        ],
    )
    assert list(view.pods.values()) == [peer_pod()]
    assert view.ignored == 1


def test_an_older_peer_without_the_newer_keys_is_understood() -> None:
    view = RegionView("us")
    keys = ("uid", "namespace", "pool", "kind", "fingerprint", "kv_address", "ready", "draining")
    entry = {key: getattr(peer_pod(), key) for key in keys}
    hear(view, [line_of({"type": "pods", "full": True, "pods": [entry]})])
    (told,) = view.pods.values()
    assert (told.kv_server_name, told.queued_tokens, told.incarnation) == ("", 0, "")
    assert told.takes_requests


# --- what a region has told


def test_a_change_of_load_is_no_change_of_the_fleet() -> None:
    view = RegionView("us")
    hear(view, [line_of({"type": "pods", "full": True, "pods": [pod_fields(peer_pod())]})])
    patch = {"uid": peer_pod().uid, "queued_tokens": 5}
    heard = view.hear(read_line(line_of({"type": "pods", "pods": [patch]})), 1, 1001)
    assert (heard.fleet, heard.loads) == (False, frozenset({peer_pod().uid}))
    heard = view.hear(read_line(line_of({"type": "pods", "pods": [{**patch, "draining": True}]})), 1, 1001)
    assert heard.fleet


def test_a_region_that_starts_anew_keeps_its_pods_until_it_has_told_all() -> None:
    view = RegionView("us")
    for pods, more in (([1, 2, 3], False), ([1], True)):
        entries = [pod_fields(peer_pod(number)) for number in pods]
        hear(view, [line_of({"type": "pods", "full": True, "more": more, "pods": entries})])
    assert len(view.pods) == 3
    hear(view, [line_of({"type": "pods", "pods": [pod_fields(peer_pod(3))]})])
    assert sorted(view.pods) == [peer_pod(1).uid, peer_pod(3).uid]


def test_ages_are_by_the_own_clock_and_the_clock_hop_by_both() -> None:
    view = RegionView("us")
    assert view.silent(0, 3)
    assert view.age_seconds(0) is None
    view.hear(read_line(line_of({"type": "beat", "now": 5060.0})), 10, 5000)
    assert view.clock_ahead_seconds == 60
    assert view.age_seconds(5002) == 2
    assert not view.silent(13, 3)
    assert view.silent(13.1, 3)


def test_what_the_disk_has_is_as_old_as_it_is_and_good_for_one_silence() -> None:
    view = RegionView("us")
    lines = [
        {"type": "pods", "full": True, "pods": [pod_fields(peer_pod())]},
        {"type": "links", "links": [{"source": "eu", "destination": "us", "streams": 2}]},
        {"type": "report", "report": {"name": "us"}},
    ]
    hear(view, [line_of(line) for line in lines], now=7)
    kept = json.loads(json.dumps(view.to_document()))
    again = RegionView.from_document("us", kept, now=100)
    assert (again.pods, again.links, again.report) == (view.pods, view.links, view.report)
    assert (again.age_seconds(1017), again.from_disk) == (10, True)
    assert not again.silent(102, 3)
    assert again.silent(104, 3)
    with pytest.raises(ValueError, match="not a region"):
        RegionView.from_document("us", [], now=0)


def test_a_region_cannot_tell_of_links_that_end_elsewhere_or_of_more_pods_than_there_is_room_for() -> None:
    view = RegionView("us")
    links = [{"source": "eu", "destination": "us"}, {"source": "us", "destination": "eu"}, {"source": "x"}]
    hear(view, [line_of({"type": "links", "links": links})])
    assert [link.source for link in view.links] == ["eu"]
    for start in range(0, MAX_PODS + 500, 500):
        entries = [pod_fields(peer_pod(number)) for number in range(start, start + 500)]
        hear(view, [line_of({"type": "pods", "pods": entries})])
    assert len(view.pods) == MAX_PODS


def test_a_flood_is_read_with_pauses() -> None:
    allowance = Allowance(per_second=1000, most=5000, left=5000, at=0)
    assert allowance.pause_seconds(5000, 0) == 0
    assert allowance.pause_seconds(500, 0) == 0.5
    assert allowance.pause_seconds(500, 1.0) == 0


# --- what a peer is told

STATES = st.lists(
    st.dictionaries(
        st.integers(0, 12),
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 3), st.sampled_from(["a", "b"])),
        max_size=12,
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(STATES, st.sampled_from([400.0, RATE]))
def test_whatever_happens_the_reader_ends_with_what_the_teller_has(
    states: list[dict[int, tuple[bool, bool, int, str]]], rate: float
) -> None:
    feed, view, now = Feed(rate, 0.0), RegionView("us"), 0.0
    current: dict[str, PeerPod] = {}
    for state in states:
        wanted = by_uid(
            peer_pod(number, ready=ready, draining=draining, queued_tokens=load, incarnation=incarnation)
            for number, (ready, draining, load, incarnation) in state.items()
        )
        current = {uid: current[uid] if current.get(uid) == pod else pod for uid, pod in wanted.items()}
        now += 0.25
        hear(view, feed.lines(now, 1000, current, (), None), now)
    for _ in range(400):
        now += 0.25
        hear(view, feed.lines(now, 1000, current, (), None), now)
    assert view.pods == current
    assert view.ignored == 0


@pytest.mark.parametrize("count", [10, 200, 1000])
def test_the_exchange_stays_within_its_pace_and_what_matters_is_told_at_once(count: int) -> None:
    """Every pod's load changes at every tick; the paper's fleets change less."""
    feed, view = Feed(RATE, 0.0), RegionView("us")
    current = by_uid(peer_pod(number) for number in range(count))
    total = first = 0
    told_at = dict.fromkeys(current, 0.0)
    longest = 0.0
    drained = peer_pod(0).uid
    for tick in range(1, 241):
        now = tick * 0.25
        current = {uid: replace(pod, queued_tokens=tick) for uid, pod in current.items()}
        if tick == 200:
            current[drained] = replace(current[drained], draining=True)
        lines = feed.lines(now, 1000 + now, current, (), None)
        hear(view, lines, now)
        size = sum(map(len, lines))
        total += size
        if tick <= 80:
            first += size
        elif tick > 120:
            assert len(view.pods) == count
            for uid, pod in view.pods.items():
                if pod.queued_tokens == tick:
                    longest, told_at[uid] = max(longest, now - told_at[uid]), now
        else:
            told_at = dict.fromkeys(current, now)
        if tick == 200:
            assert view.pods[drained].draining
    assert first <= FIRST_BYTES + RATE * 20 + 2000
    assert total <= FIRST_BYTES + RATE * 60 + 2000
    # Bytes of the last half, and how old a load gets: 200 pods are told anew every half second.
    assert longest <= max(0.25, count * 0.0025), longest
    assert (total - first) / 40 <= RATE * 1.02


def test_nothing_new_is_a_beat_a_second() -> None:
    feed = Feed(RATE, 0.0)
    pods = by_uid([peer_pod()])
    feed.lines(0.25, 1000, pods, (), {"name": "us"})
    quiet = [
        line for tick in range(2, 42) for line in feed.lines(tick * 0.25, 1000, pods, (), {"name": "us"})
    ]
    assert [json.loads(line)["type"] for line in quiet] == ["beat"] * 10


def test_links_and_reports_are_told_when_they_change_and_not_more_often_than_agreed() -> None:
    feed, kinds = Feed(RATE, 0.0), []
    for tick in range(1, 121):
        links = (LinkState("eu", "us", received_bytes=tick),)
        kinds += [
            json.loads(line)["type"] for line in feed.lines(tick * 0.25, 0, {}, links, {"number": tick})
        ]
    assert kinds.count("links") == 6
    assert kinds.count("report") == 3


# --- what is offered


def own_pool(**fields: Any) -> OwnPool:
    """A pool that `eu` may use."""
    given = {
        "namespace": "llm",
        "name": "long",
        "kind": "PrefillPool",
        "model": "chat",
        "offered_to": ("eu",),
    }
    return OwnPool.model_validate({**given, **fields})


def test_pods_are_offered_with_the_address_that_their_pool_is_reached_by() -> None:
    there = pod("a", "long", "PrefillPool", ip="10.1.2.3", host_ip="192.0.2.9")
    reports = {there.uid: report(incarnation="run-1")}
    for fields, address in (
        ({}, "10.1.2.3:7400"),
        ({"kv_reach": Reach.HOST_PORT, "kv_port": 31000}, "192.0.2.9:31000"),
        ({"kv_reach": Reach.PASSTHROUGH, "kv_proxy": "kv.us.example.org:7411"}, "kv.us.example.org:7411"),
    ):
        made = offers([own_pool(**fields)], [there], reports, "test", Offers())
        (told,) = made.for_region("eu").values()
        assert (told.kv_address, told.kv_server_name) == (address, "10-1-2-3.kv.test")
        assert (told.incarnation, told.takes_requests) == ("run-1", True)
        assert made.for_region("asia") == {}


def test_a_pod_is_offered_as_its_sidecar_and_the_api_server_say() -> None:
    pods = [
        pod("unheard", "long", "PrefillPool"),
        pod("draining", "long", "PrefillPool", draining=True),
        pod("deleting", "long", "PrefillPool", deleting=True),
        pod("other", "short", "PrefillPool"),
        pod("decode", "long", "DecodePool"),
        pod("early", "long", "PrefillPool", ip=""),
    ]
    reports = {each.uid: report() for each in pods[1:]}
    made = offers([own_pool()], pods, reports, "test", Offers())
    found = {each.name: (each.ready, each.draining) for each in made.pods.values()}
    assert found == {"unheard": (False, False), "draining": (True, True), "deleting": (False, True)}
    # What has not changed is the same object, so that comparing costs nothing.
    again = offers([own_pool()], pods, reports, "test", made)
    assert all(again.pods[uid] is each for uid, each in made.pods.items())


# --- links


def test_links_are_added_up_by_source() -> None:
    busy = LinkCounters("us", 100, 1.0, 4e9, 0.1, 1.0, 2)
    more = LinkCounters("us", 300, 3.0, 2e9, 0.2, 0.0, 1)
    idle = LinkCounters("us", 0, 0.0, 9e9, None, None, 0)
    other = LinkCounters("asia", 5)
    own = LinkCounters("eu", 7)
    asia, us = links_into("eu", [(busy, other), (more, own), (idle,)])
    assert (asia.source, asia.goodput_bits_per_second, asia.received_bytes) == ("asia", None, 5)
    assert (us.source, us.destination, us.received_bytes, us.streams) == ("us", "eu", 400, 3)
    # Those that receive at the same time share the link.
    assert us.goodput_bits_per_second == 6e9
    assert us.rtt_seconds == pytest.approx((0.1 * 3 + 0.2 * 2) / 5)
    (alone,) = links_into("eu", [(replace(busy, streams=0),), (idle,)])
    assert alone.goodput_bits_per_second == 9e9


def test_a_links_use_is_what_came_between_two_looks() -> None:
    link = LinkState("us", "eu", received_bytes=1000)
    assert pace_of(link, None, 0) is None
    first = pace_of(replace(link, goodput_bits_per_second=8e9), None, 0)
    assert first is not None
    assert (first.capacity_bits_per_second, first.used_bits_per_second) == (8e9, 0)
    then = pace_of(replace(link, received_bytes=2_500_001_000, goodput_bits_per_second=7e9), first, 5)
    assert then is not None
    assert then.used_bits_per_second == 4e9
    assert then.capacity_bits_per_second == pytest.approx(8e9, rel=0.01)
    # A sidecar has gone with its counters, and the best of before is forgotten slowly.
    later = pace_of(replace(link, received_bytes=5), then, 605)
    assert later is not None
    assert later.used_bits_per_second == 0
    assert later.capacity_bits_per_second == pytest.approx(4e9, rel=0.01)


def test_a_link_that_was_throttled_is_known_to_be_another_one_after_seconds_of_use() -> None:
    link = LinkState("us", "eu", 0, 10.0, 1e9)
    fast = pace_of(link, None, 0)
    assert fast is not None
    throttled = replace(link, received_bytes=25_000_000, busy_seconds=30.0, goodput_bits_per_second=5e7)
    slow = pace_of(throttled, fast, 20)
    assert slow is not None
    assert slow.capacity_bits_per_second < 1.3e8
    # A third of the best is what slow prefill looks like, and idle time says nothing of a link.
    hungry = pace_of(replace(throttled, goodput_bits_per_second=3e8), fast, 20)
    assert hungry is not None
    assert hungry.capacity_bits_per_second > 9e8
    idle = pace_of(replace(link, goodput_bits_per_second=5e7), fast, 20)
    assert idle is not None
    assert idle.capacity_bits_per_second > 9e8


def test_a_sidecar_that_tells_nonsense_of_links_is_a_sidecar_all_the_same() -> None:
    answer = {
        "version": 1,
        "engine_connected": True,
        "links": [{"region": "us", "received_bytes": "many", "streams": 2}, {"region": 5}, "x", None],
        "queued_requests": -1,
    }
    told = read_report(json.dumps(answer).encode())
    assert told.links == (LinkCounters("us", streams=2),)
    assert told.queued_requests is None
    assert read_report(b'{"version": 1, "links": "none"}').links == ()
