"""What a request carries for the connector, and the digest that both engines compute."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.request import DecodeLeg, ParametersError, PrefillLeg, parse, prompt_digest

ID, DIGEST = "0123456789abcdef" * 2, "0123456789abcdef" * 4
PREFILL = {
    "version": 1,
    "leg": "prefill",
    "transfer_id": ID,
    "prompt_digest": DIGEST,
    "consumer": "spiffe://t/pool/DecodePool/chat",
    "deadline_seconds": 30.0,
}
DECODE = {
    "version": 1,
    "leg": "decode",
    "transfer_id": ID,
    "prompt_digest": DIGEST,
    "producer": {"address": "10.80.1.2:7400", "identity": "spiffe://t/pool/PrefillPool/long"},
    "deadline_seconds": 30,
}


def test_both_legs() -> None:
    assert parse({"prfaas": PREFILL}) == PrefillLeg(ID, DIGEST, 30.0, "spiffe://t/pool/DecodePool/chat")
    assert parse({"prompt_token_ids": [1, 2, 3], "prfaas": DECODE}) == DecodeLeg(
        ID, DIGEST, 30.0, "10.80.1.2:7400", "spiffe://t/pool/PrefillPool/long"
    )


def test_an_expected_queue() -> None:
    leg = parse({"prfaas": {**DECODE, "first_kv_seconds": 2}})
    assert isinstance(leg, DecodeLeg)
    assert leg.first_kv_seconds == 2.0


@pytest.mark.parametrize("parameters", [None, {}, {"do_remote_prefill": True}, {"prfaas": None}])
def test_an_ordinary_request(parameters: dict[str, Any] | None) -> None:
    assert parse(parameters) is None


def without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("prefill", "prfaas: not an object"),
        ([], "prfaas: not an object"),
        (without(PREFILL, "version"), "prfaas.version"),
        ({**PREFILL, "version": 2}, "prfaas.version"),
        ({**PREFILL, "leg": "both"}, "prfaas.leg"),
        ({**DECODE, "first_kv_seconds": -1}, "prfaas.first_kv_seconds"),
        ({**DECODE, "first_kv_seconds": True}, "prfaas.first_kv_seconds"),
        ({**DECODE, "first_kv_seconds": "2"}, "prfaas.first_kv_seconds"),
        (without(PREFILL, "leg"), "prfaas.leg"),
        (without(PREFILL, "transfer_id"), "prfaas.transfer_id"),
        ({**PREFILL, "transfer_id": ID.upper()}, "prfaas.transfer_id"),
        ({**PREFILL, "transfer_id": ID + "\n"}, "prfaas.transfer_id"),
        ({**PREFILL, "transfer_id": ID[1:]}, "prfaas.transfer_id"),
        ({**PREFILL, "transfer_id": 7}, "prfaas.transfer_id"),
        ({**PREFILL, "prompt_digest": ID}, "prfaas.prompt_digest"),
        ({**PREFILL, "consumer": ""}, "prfaas.consumer"),
        ({**PREFILL, "consumer": "x" * 513}, "prfaas.consumer"),
        (without(PREFILL, "consumer"), "prfaas.consumer"),
        (without(PREFILL, "deadline_seconds"), "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": 0}, "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": -1}, "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": 3601}, "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": True}, "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": "30"}, "prfaas.deadline_seconds"),
        ({**PREFILL, "deadline_seconds": float("nan")}, "prfaas.deadline_seconds"),
        (without(DECODE, "producer"), "prfaas.producer"),
        ({**DECODE, "producer": "10.80.1.2:7400"}, "prfaas.producer"),
        ({**DECODE, "producer": {"address": "10.80.1.2:7400"}}, "identity"),
        ({**DECODE, "producer": {"identity": "spiffe://t"}}, "address"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(part: Any, names: str) -> None:
    with pytest.raises(ParametersError, match=names):
        parse({"prfaas": part})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.fuzz
@given(st.sampled_from([PREFILL, DECODE]), st.data())
def test_any_other_value_is_a_leg_or_a_parameters_error(base: dict[str, Any], data: st.DataObject) -> None:
    part = dict(base)
    for name in data.draw(st.lists(st.sampled_from(sorted(base)), min_size=1, max_size=3)):
        part[name] = data.draw(json_values)
    try:
        parse({"prfaas": part})
    except ParametersError:
        return


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=50), st.none() | st.text(max_size=10))
def test_the_digest_is_the_one_of_the_contract(tokens: list[int], salt: str | None) -> None:
    expected = hashlib.sha256(
        b"prfaas-prompt-v1\0"
        + (salt or "").encode()
        + b"\0"
        + b"".join(struct.pack("<I", token) for token in tokens)
    )
    assert prompt_digest(tokens, salt) == expected.hexdigest()


def test_the_digest_tells_prompts_apart() -> None:
    digests = {
        prompt_digest(tokens, salt)
        for tokens, salt in (([1, 2, 3], None), ([1, 2], None), ([3, 2, 1], None), ([1, 2, 3], "salt"))
    }
    assert len(digests) == 4
