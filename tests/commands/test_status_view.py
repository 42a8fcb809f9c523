"""`prfaas status` as text, in the states that people meet: the screens are in golden/, one file per state."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from prfaas.commands.cluster import explain
from prfaas.commands.durations import parse_duration, short_duration
from prfaas.commands.plain import plain
from prfaas.commands.status.judge import operator_view, pool_view
from prfaas.commands.status.text import screen
from prfaas.commands.status.view import EndpointState, FleetView, Health, OperatorState
from prfaas.kube import errors
from tests.commands import fleets

GOLDEN = Path(__file__).parent / "golden"
STATES = (
    fleets.healthy,
    fleets.progressing,
    fleets.no_capacity,
    fleets.incompatible,
    fleets.rolling_update,
    fleets.operator_down,
    fleets.out_of_memory,
)


def text_of(
    fleet: FleetView, *, namespaces: bool = False, width: int = 130, most_rows: int | None = None
) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, highlight=False)
    console.print(screen(fleet, namespaces=namespaces, most_rows=most_rows))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_the_screen_of_each_state(state: type) -> None:
    golden = GOLDEN / f"{state.__name__}.txt"
    assert text_of(state()) == golden.read_text(encoding="utf-8")


def test_an_empty_namespace_says_so() -> None:
    assert "No pools and no routes in namespace serving." in text_of(fleets.fleet(leases=[fleets.lease()]))


def test_namespaces_are_shown_when_there_may_be_several() -> None:
    assert "serving    dpool/chat" in text_of(fleets.healthy(), namespaces=True)


def test_words_of_others_are_no_markup() -> None:
    pool = fleets.pool("DecodePool", "chat")
    pool["spec"]["model"]["name"] = "[bold]chat[/nonsense]"
    assert "[bold]chat[/nonsense]" in text_of(fleets.fleet(pool, leases=[]))


@pytest.mark.parametrize("unsafe", ["\x1b[2J", "\x1b]0;title\x07", "\x9b1m", "\u202eeslaf", "\r"])
def test_words_of_others_do_not_reach_the_terminal_as_commands(unsafe: str) -> None:
    pool = fleets.pool(
        "DecodePool", "chat", changes=(fleets.condition("Ready", "False", "No", f"a{unsafe}b"),)
    )
    lease = fleets.lease(1, holder=f"a{unsafe}b")
    ended = fleets.pod("DecodePool", "chat", 1, status={"phase": "Failed", "reason": f"a{unsafe}b"})
    found = text_of(fleets.fleet(pool, ended, leases=[lease]))
    assert unsafe not in found
    assert found.count("a\ufffd") == 3
    assert all(each == "\n" or each.isprintable() for each in found)
    error = errors.Forbidden(f"pods is forbidden: a{unsafe}b")
    assert unsafe not in explain(error)


def test_what_people_write_is_shown_as_it_is() -> None:
    text = "grün 日本語 🙂 naïve\nnext"
    assert plain(text) == text


def test_of_a_fleet_that_does_not_fit_the_screen_what_is_not_well_is_shown() -> None:
    ill = (fleets.condition("Ready", "False", "NoPodReady", "0 of 2 pods are ready"),)
    pools = [fleets.pool("DecodePool", f"pool-{number:04}") for number in range(1000)]
    pools[777] = fleets.pool("DecodePool", "pool-0777", changes=ill)
    pods = [fleets.pod("DecodePool", f"pool-{number:04}", 1) for number in range(1000)]
    pods[999] = fleets.pod("DecodePool", "pool-0999", 1, status={"phase": "Failed", "reason": "Evicted"})
    fleet = fleets.fleet(*pools, *pods, leases=[fleets.lease()])
    text = text_of(fleet, most_rows=5)
    assert len(text.splitlines()) < 25
    assert "5 of 1000 pools, 5 of 1000 pods; what is not well comes first" in text
    assert "dpool/pool-0777" in text
    assert "Evicted" in text
    # Nothing else changes its place: the eye finds again what it saw before.
    assert [word for word in text.split() if word.startswith("dpool/")][:3] == [
        "dpool/pool-0777",
        "dpool/pool-0000",
        "dpool/pool-0001",
    ]
    assert "shown" not in text_of(fleets.healthy(), most_rows=50)


def test_a_narrow_terminal_loses_no_reason() -> None:
    folded = " ".join(text_of(fleets.no_capacity(), width=90).split())
    assert "waits for a" in folded
    assert "nvidia.com/gpu" in folded


@pytest.mark.parametrize(
    ("leases", "state"),
    [
        ([fleets.lease(29)], OperatorState.LEADING),
        ([fleets.lease(31)], OperatorState.DOWN),
        ([fleets.lease(1, holder="")], OperatorState.DOWN),
        ([fleets.lease(900), fleets.lease(2)], OperatorState.LEADING),
        ([], OperatorState.ABSENT),
        (None, OperatorState.NOT_VISIBLE),
    ],
)
def test_the_operator_by_its_lease(leases: list[fleets.Object] | None, state: OperatorState) -> None:
    assert operator_view(leases, fleets.NOW).state is state


def test_a_change_that_the_operator_has_not_seen_is_progress() -> None:
    pool = fleets.pool("DecodePool", "chat")
    pool["metadata"]["generation"] = 4
    assert pool_view(pool, fleets.NOW).health is Health.PROGRESSING


def test_a_pool_that_is_not_ready_says_why() -> None:
    ready = fleets.condition("Ready", "False", "NotEnoughReady", "0 of 2 instances are ready")
    view = pool_view(fleets.pool("DecodePool", "chat", changes=(ready,)), fleets.NOW)
    assert (view.health, view.reason, view.message) == (
        Health.NOT_READY,
        "NotEnoughReady",
        "0 of 2 instances are ready",
    )


def test_a_pool_that_waits_for_pods_says_once_what_they_do() -> None:
    loading = "0 of 2 instances are ready: engines are loading."
    changes = (
        fleets.condition("Ready", "False", "Starting", loading),
        fleets.condition("Reconciling", "True", "WaitingForPods", "0 of 2 instances are ready."),
        fleets.condition("WorkloadsAvailable", "False", "Starting", loading),
    )
    view = pool_view(fleets.pool("DecodePool", "chat", changes=changes), fleets.NOW)
    assert (view.health, view.reason, view.message) == (Health.PROGRESSING, "WaitingForPods", loading)
    assert view.notes == ()


def test_a_pair_of_which_nothing_is_known_yet_is_not_called_incompatible() -> None:
    unknown = {"prefillPool": "long", "compatible": "Unknown", "reason": "FingerprintUnknown"}
    shown = text_of(fleets.fleet(fleets.route(pairs=(unknown,)), leases=[]), width=160)
    assert "with ppool/long: no pair of ready engines yet\n" in shown


def test_a_status_of_a_newer_operator_that_cannot_be_read_says_so() -> None:
    pool = fleets.pool("DecodePool", "chat", kv={"chargedTo": "Moon"})
    view = pool_view(pool, fleets.NOW)
    assert view.health is Health.UNSEEN
    assert "status.kv.chargedTo" in view.message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"until": "soon"}', "3", "[" * 100_000])
def test_a_hold_that_cannot_be_read_is_shown(text: str) -> None:
    pool = fleets.pool("DecodePool", "chat")
    pool["metadata"]["annotations"] = {"prfaas.io/hold": text}
    assert "cannot be read" in pool_view(pool, fleets.NOW).notes[0]


def test_a_hold_that_has_ended_is_not_shown() -> None:
    pool = fleets.pool("DecodePool", "chat")
    past = fleets.at(fleets.NOW - timedelta(seconds=1))
    pool["metadata"]["annotations"] = {"prfaas.io/hold": f'{{"replicas": 1, "until": "{past}"}}'}
    assert pool_view(pool, fleets.NOW).notes == ()


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"metadata": {"deletionTimestamp": fleets.at(fleets.NOW)}}, EndpointState.ENDING),
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, EndpointState.ENDED),
        ({"status": {"phase": "Pending", "conditions": []}}, EndpointState.PENDING),
    ],
)
def test_pods_that_end_or_have_not_begun(changes: fleets.Object, state: EndpointState) -> None:
    view = fleets.fleet(fleets.pod("DecodePool", "chat", 1, **changes), leases=[])
    assert view.endpoints[0].state is state


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2h", timedelta(hours=2)),
        ("90m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1d2h3m4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ],
)
def test_durations_are_read(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-1h", "1m1h", "1.5h", "9999999h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3660, "1h01m"), (90_000, "1d1h")],
)
def test_durations_are_written_short(seconds: int, text: str) -> None:
    assert short_duration(timedelta(seconds=seconds)) == text
