"""Answers of a sidecar that do not fit the transfer end the connection, not the engine."""

from __future__ import annotations

import pytest

from prfaas_connector.anytime import Reason
from prfaas_connector.consumer import ConsumerTransfer, MissingUnitsError
from prfaas_connector.local_api.messages import (
    Accepted,
    Ended,
    Message,
    MessageError,
    Progress,
    Refused,
    Wanted,
)
from prfaas_connector.manifest import Group, Kind, Layout, Manifest
from prfaas_connector.producer import NULL_BLOCK, ProducerTransfer
from prfaas_connector.request import DecodeLeg, PrefillLeg
from prfaas_connector.steps import Memory

ID, DIGEST = "1" * 32, "2" * 64
LAYOUT = Layout(
    (
        Group(Kind.ATTENTION, 16, 0, (("a", 100), ("b", 100))),
        Group(Kind.STATE, 16, 0, (("s", 1000),)),
    ),
    shards=1,
)
PROMPT_TOKENS = 49  # three blocks and one snapshot
ARENA_BYTES = 2000


def producer() -> ProducerTransfer:
    leg = PrefillLeg(ID, DIGEST, 30.0, "spiffe://t/pool/DecodePool/chat")
    return ProducerTransfer(leg, Manifest(LAYOUT, PROMPT_TOKENS), 1000.0)


def consumer(local_tokens: int = 0) -> ConsumerTransfer:
    leg = DecodeLeg(ID, DIGEST, 30.0, "192.0.2.1:7400", "spiffe://t/pool/PrefillPool/long")
    manifest = Manifest(LAYOUT, PROMPT_TOKENS)
    return ConsumerTransfer(leg, manifest, manifest.want(local_tokens), 1000.0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Accepted(ID, (0, 300)), "2 extents for 3 lanes"),
        (Accepted(ID, (0, 300, 600, 1700)), "4 extents for 3 lanes"),
        (Accepted(ID, (0, 300, 1001)), "after the arena's"),
        (Accepted(ID, (1701, 0, 300)), "after the arena's"),
        (Wanted(ID, (((0, 3),),)), "1 groups instead of 2"),
    ],
)
def test_a_producer_refuses(answer: Message, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        producer().receive(answer, "arena", ARENA_BYTES)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Accepted(ID, (0, 300)), "2 extents for 3 lanes"),
        (Accepted(ID, (0, 300, 1001)), "after the arena's"),
        (Progress(ID, ((),), ({}, {}), 0), "each of 2 groups"),
        (Progress(ID, ((), ()), ({},), 0), "each of 2 groups"),
    ],
)
def test_a_consumer_refuses(answer: Message, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        consumer().receive(answer, "arena", ARENA_BYTES, 1001.0)


def test_memory_that_just_fits_is_taken() -> None:
    outgoing, incoming = producer(), consumer()
    outgoing.receive(Accepted(ID, (0, 300, 1000)), "arena", ARENA_BYTES)
    incoming.receive(Accepted(ID, (0, 300, 1000)), "arena", ARENA_BYTES, 1001.0)
    assert outgoing.memory == incoming.memory == Memory("arena", (0, 300, 1000))


def test_a_consumers_extents_hold_only_what_it_wants() -> None:
    incoming = consumer(local_tokens=32)
    incoming.receive(Accepted(ID, (0, 1900, 1000)), "arena", ARENA_BYTES, 1001.0)
    assert incoming.memory == Memory("arena", (0, 1900, 1000))


def test_units_that_were_not_asked_for_do_not_count() -> None:
    incoming = consumer(local_tokens=32)
    incoming.receive(Accepted(ID, (0, 100, 200)), "arena", ARENA_BYTES, 1001.0)
    incoming.receive(
        Progress(ID, (((0, 1 << 50),), ((0, 1),)), ({}, {0: 48}), 1), "arena", ARENA_BYTES, 1001.0
    )
    assert incoming.landed == (((2, 3),), ((0, 1),))
    incoming.receive(Ended(ID, "complete", ""), "arena", ARENA_BYTES, 1002.0)
    assert incoming.matched(32, None, 1002.0) == 16
    # The prefix has gone meanwhile: the units before 32 never travelled.
    assert incoming.matched(0, None, 1002.0) == 0


WINDOWS = Layout(
    (Group(Kind.ATTENTION, 16, 0, (("a", 100),)), Group(Kind.WINDOW, 16, 32, (("w", 100),))), shards=1
)


def test_a_block_of_an_earlier_window_that_has_not_landed_is_missed() -> None:
    """The window before token 2048 was planned too, but only the last one has landed."""
    manifest = Manifest(WINDOWS, 4097)
    leg = DecodeLeg(ID, DIGEST, 30.0, "192.0.2.1:7400", "spiffe://t/pool/PrefillPool/long")
    incoming = ConsumerTransfer(leg, manifest, manifest.want(0), 1000.0)
    incoming.receive(Accepted(ID, (0, 30_000)), "arena", 1 << 20, 1000.0)
    incoming.receive(Progress(ID, (((0, 256),), ((2, 4),)), ({}, {}), 25_800), "arena", 1 << 20, 1001.0)
    incoming.receive(Ended(ID, "LinkLost", ""), "arena", 1 << 20, 1002.0)
    assert incoming.matched(0, None, 1002.0) == 4096
    attention, window = list(range(1, 257)), [NULL_BLOCK] * 254 + [301, 302]
    load = incoming.load("r", 4096, (attention, window))
    assert load.copies[1].units == (2, 3)
    window[126] = 300
    with pytest.raises(MissingUnitsError, match="group 1: block 126 has not landed"):
        incoming.load("r", 4096, (attention, window))
    window[126:129] = [NULL_BLOCK, NULL_BLOCK, 300]
    with pytest.raises(MissingUnitsError, match="group 1: block 128 is never shipped"):
        incoming.load("r", 4096, (attention, window))


def test_a_refused_transfer_is_computed_here_at_once() -> None:
    incoming = consumer()
    assert incoming.matched(0, None, 1000.1) is None
    incoming.receive(Refused(ID, "ArenaFull", ""), "arena", ARENA_BYTES, 1000.2)
    assert incoming.matched(0, None, 1000.2) == 0
    assert (incoming.ended, incoming.reason) == ("ArenaFull", Reason.ENDED)


def test_only_bytes_are_a_sign_of_life() -> None:
    incoming = consumer()
    incoming.receive(Accepted(ID, (0, 300, 1000)), "arena", ARENA_BYTES, 1000.0)
    for now, landed_bytes in ((1001.0, 100), (1002.0, 100), (1003.0, 50), (1004.0, 200)):
        incoming.receive(Progress(ID, ((), ()), ({}, {}), landed_bytes), "arena", ARENA_BYTES, now)
    assert (incoming.first_progress_at, incoming.last_progress_at) == (1001.0, 1004.0)
    assert incoming.landed_bytes == 200
