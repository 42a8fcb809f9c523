"""The gateway's decisions as tables: the ladder, failure scores, and which engine is picked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.scheduling import DecodeSide, Rule, Work, schedule
from prfaas_gateway.config import DecodeEngine, Health, PrefillEngine
from prfaas_gateway.fleet import Decoder, Member, Prefiller, healthy_prefillers, pick_decoder
from prfaas_gateway.health import FailureScore
from prfaas_gateway.ladder import Bounds, Progress, Step, after_decode_failure, after_prefill_failure
from prfaas_gateway.prefix_index import Matches, PrefixIndex, PrefixTable, PromptBlocks

BOUNDS = Bounds(remote_attempts=2, decode_attempts=2, retry_within_seconds=10)
FRESH = Progress(remote_attempts=1, decode_attempts=1, age_seconds=0.5)
HEALTH = Health()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Step.RETRY_REMOTE),
        ({"landed_units": 1}, Step.LOCAL_PREFILL),
        ({"landed_units": None}, Step.LOCAL_PREFILL),
        ({"another_prefill_engine": False}, Step.LOCAL_PREFILL),
        ({"retryable": False}, Step.LOCAL_PREFILL),
        ({"progress": Progress(2, 1, 0.5)}, Step.LOCAL_PREFILL),
        ({"progress": Progress(1, 1, 10)}, Step.LOCAL_PREFILL),
    ],
    ids=["all-well", "landed", "unknown", "no-other", "hopeless", "attempts-spent", "too-old"],
)
def test_after_a_failed_prefill_leg(change: dict[str, object], expected: Step) -> None:
    case: dict[str, object] = {
        "progress": FRESH,
        "landed_units": 0,
        "another_prefill_engine": True,
        "retryable": True,
        **change,
    }
    assert after_prefill_failure(BOUNDS, **case) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("another", "progress", "expected"),
    [
        (True, FRESH, Step.RETRY_DECODE),
        (False, FRESH, Step.GIVE_UP),
        (True, Progress(1, 2, 0.5), Step.GIVE_UP),
        (True, Progress(1, 1, 10), Step.GIVE_UP),
    ],
)
def test_after_a_failed_decode_leg(another: bool, progress: Progress, expected: Step) -> None:
    assert after_decode_failure(BOUNDS, progress, another_decode_engine=another) is expected


def test_every_sequence_of_failures_ends() -> None:
    """Whatever fails and however often: the number of legs is bounded by the two attempt limits."""
    for failures in itertools.product("pd", repeat=8):
        progress, legs = Progress(1, 1, 0), 0
        for kind in failures:
            legs += 1
            if kind == "p":
                step = after_prefill_failure(
                    BOUNDS, progress, landed_units=0, another_prefill_engine=True, retryable=True
                )
                if step is Step.LOCAL_PREFILL:
                    continue
                progress = Progress(progress.remote_attempts + 1, progress.decode_attempts, 0)
            else:
                if after_decode_failure(BOUNDS, progress, another_decode_engine=True) is Step.GIVE_UP:
                    break
                progress = Progress(progress.remote_attempts, progress.decode_attempts + 1, 0)
        assert progress.remote_attempts <= BOUNDS.remote_attempts
        assert progress.decode_attempts <= BOUNDS.decode_attempts


@given(
    times=st.lists(st.floats(0, 1000), max_size=30).map(sorted),
    limit=st.floats(1, 10),
    half_life=st.floats(0.1, 100),
)
def test_a_failure_score_is_bounded_and_decays(times: list[float], limit: float, half_life: float) -> None:
    score = FailureScore()
    for time in times:
        score = score.failed(time, half_life, limit)
        assert 0 < score.value(time, half_life) <= 2 * limit
    last = times[-1] if times else 0.0
    assert score.value(last + half_life, half_life) <= limit * (1 + 1e-6)
    assert score.value(last + 1e6 * half_life, half_life) == pytest.approx(0)
    assert score.value(last - 5, half_life) <= 2 * limit


def test_a_success_forgives_half() -> None:
    score = FailureScore().failed(0, 10, 3).failed(0, 10, 3)
    assert score.value(0, 10) == 2
    assert score.succeeded(0, 10).value(0, 10) == 1


BLOCKS = PromptBlocks(tuple(range(10)))


def decoder(name: str, matched: int = 0, in_flight: int = 0, **fields: object) -> Decoder:
    """A decode engine that holds the first ``matched`` of the blocks 0, 1, 2, …"""
    config = DecodeEngine.model_validate({"name": name, "url": "http://192.0.2.1", **fields})
    made = Decoder(config, Member(HEALTH), Member(HEALTH), PrefixIndex(100), in_flight=in_flight)
    made.index.add(PromptBlocks(BLOCKS.sent[:matched]))
    return made


def prefiller(
    name: str,
    matched: int = 0,
    in_flight_tokens: int = 0,
    table: PrefixTable | None = None,
    **fields: object,
) -> Prefiller:
    """A prefill engine likewise."""
    config = PrefillEngine.model_validate(
        {
            "name": name,
            "control": "https://192.0.2.1:7401",
            "kv_address": "192.0.2.1:7400",
            "identity": "spiffe://t/a",
            **fields,
        }
    )
    made = Prefiller(config, Member(HEALTH), PrefixIndex(100, table), in_flight_tokens=in_flight_tokens)
    made.index.add(PromptBlocks(BLOCKS.sent[:matched]))
    return made


def unhealthy(member: Member) -> None:
    """Let it fail until it is not asked any more."""
    for _ in range(5):
        member.failed(0)


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        ([decoder("a"), decoder("b", matched=5)], "b"),
        ([decoder("a", in_flight=1), decoder("b")], "b"),
        ([decoder("a", matched=5, in_flight=8), decoder("b")], "a"),
        ([decoder("a", matched=5, in_flight=9), decoder("b")], "b"),
        ([decoder("a", matched=5, max_in_flight=1, in_flight=1), decoder("b")], "b"),
        ([decoder("a", matched=5, models=("other",)), decoder("b")], "b"),
        ([decoder("a", models=("other",))], None),
        ([decoder("a", max_in_flight=1, in_flight=1)], None),
        ([], None),
    ],
    ids=[
        "prefix",
        "idlest",
        "prefix-before-a-little-load",
        "much-load-before-prefix",
        "full",
        "other-model",
        "no-model",
        "all-full",
        "none",
    ],
)
def test_which_decode_engine(engines: list[Decoder], expected: str | None) -> None:
    pick = pick_decoder(engines, "m", Matches(BLOCKS), now=0)
    assert (pick.engine.name if pick else None) == expected


def test_an_unhealthy_decode_engine_is_the_last_resort() -> None:
    ill, well = decoder("ill", matched=9), decoder("well")
    unhealthy(ill.engine)
    first = pick_decoder([ill, well], "m", Matches(BLOCKS), now=0)
    only = pick_decoder([ill], "m", Matches(BLOCKS), now=0)
    assert first is not None
    assert first.engine is well
    assert only is not None
    assert only.engine is ill
    assert pick_decoder([ill, well], "m", Matches(BLOCKS), now=0, tried=frozenset({"ill", "well"})) is None


def choose(engines: list[Prefiller], now: float = 0) -> str | None:
    """The prefill engine that the scheduler takes for a prompt of ten blocks; no pace is known of any."""
    healthy = healthy_prefillers(engines, "m", now)
    matches = {each.view.slot: each.index.matched_blocks(BLOCKS) * 16 for each in healthy}
    views = [each.view for each in healthy]
    choice = schedule(Work(160), DecodeSide(0), views, matches, Rule(0))
    return choice.producer.name if choice.producer else None


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        ([("a", 0, 10), ("b", 0, 0)], "b"),
        ([("a", 5, 0), ("b", 0, 0)], "a"),
        ([("a", 5, 81), ("b", 0, 0)], "b"),
        ([("a", 0, 950, 1000)], None),
        ([("a", 0, 0, 1)], "a"),
        ([], None),
    ],
    ids=["idlest", "prefix", "prefix-with-a-longer-queue", "full", "a-single-long-prompt", "none"],
)
def test_which_prefill_engine(engines: list[tuple[str, int, int, int]], expected: str | None) -> None:
    table = PrefixTable(1000)
    made = []
    for name, matched, in_flight_tokens, *most in engines:
        fields = {"max_in_flight_tokens": most[0]} if most else {}
        made.append(prefiller(name, matched, in_flight_tokens, table, **fields))
    assert choose(made) == expected


@dataclass(frozen=True)
class Told:
    """What a region tells of an engine."""

    queued_tokens: int | None
    queued_requests: int | None = None
    running_requests: int | None = None


def test_what_was_sent_since_a_region_told_counts_beside_what_others_have_there() -> None:
    """One report of two equal queues: a burst would otherwise see them as they were before it."""
    one, other = prefiller("one"), prefiller("other")
    with one.work(10_000):
        for engine in (one, other):
            engine.take_load(Told(40_000))
        assert [one.load_tokens, other.load_tokens] == [40_000, 40_000], "the own 10,000 are among them"
        with other.work(30_000):
            assert other.load_tokens == other.view.queued_tokens == 70_000
    assert [one.load_tokens, other.load_tokens] == [30_000, 40_000], "others' are as they were last told"


def test_an_unhealthy_prefill_engine_is_never_asked() -> None:
    ill = prefiller("ill")
    unhealthy(ill.sidecar)
    assert choose([ill]) is None
    assert choose([ill], now=100) == "ill"
    ill.sidecar.reachable = False
    assert choose([ill], now=100) is None
