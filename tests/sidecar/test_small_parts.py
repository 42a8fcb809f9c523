"""Identities, dial rules, memory limits, records, fair turns: the pure decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.local_api.units import Lane
from prfaas_sidecar import memory
from prfaas_sidecar.channels import Channel, OutPull
from prfaas_sidecar.config import ConfigError, DialRule, parse_text, split_address
from prfaas_sidecar.errors import CODES, retryable
from prfaas_sidecar.identity import IdentityError, Pattern, authorised, of_certificate, parse
from prfaas_sidecar.protocol.bodies import Open
from prfaas_sidecar.protocol.states import PULL, STREAM
from prfaas_sidecar.records import Records
from prfaas_sidecar.transfers.producer import ProducerTransfer, Pull

DOCS = Path(__file__).parents[2] / "docs"
POOL = "spiffe://example.org/region/us/ns/chat/pool/PrefillPool/long"
GATEWAY = "spiffe://example.org/region/us/ns/chat/gateway/main"


def test_identities_are_read_as_what_they_name() -> None:
    pool = parse(POOL)
    assert (pool.region, pool.namespace, pool.pool_kind, pool.name) == ("us", "chat", "PrefillPool", "long")
    assert (parse(GATEWAY).pool_kind, parse(GATEWAY).name) == ("", "main")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://example.org",
        POOL + "/more",
        POOL.replace("spiffe", "https"),
        POOL.replace("/ns/chat", ""),
        POOL.replace("long", ""),
        POOL.replace("long", "a b"),
        POOL.replace("long", "*"),
        POOL + "\n",
        POOL.replace("long", "x" * 3000),
    ],
)
def test_anything_else_is_no_identity(uri: str) -> None:
    with pytest.raises(IdentityError):
        parse(uri)


@pytest.mark.fuzz
@given(st.text(max_size=120))
def test_no_text_breaks_the_reader(text: str) -> None:
    for read in (parse, Pattern.parse):
        try:
            read(text)
        except IdentityError:
            continue
        assert text.startswith("spiffe://")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (POOL, True),
        (POOL.replace("long", "*"), True),
        (POOL.replace("us", "u?"), True),
        ("spiffe://*/region/*/ns/*/pool/*/*", True),
        (POOL.replace("us", "eu"), False),
        (POOL.replace("PrefillPool", "DecodePool"), False),
        (POOL.replace("example.org", "example.com"), False),
        (POOL.replace("long", "Long"), False),
        (GATEWAY, False),
    ],
)
def test_patterns_match_segment_by_segment(pattern: str, matches: bool) -> None:
    assert authorised(parse(POOL), [Pattern.parse(pattern)]) is matches


@pytest.mark.parametrize(
    "pattern",
    ["*", "spiffe://*", "spiffe://*/region/*", POOL + "/*", "spiffe://a/region/*/ns/*/*/*/*", GATEWAY + "/x"],
)
def test_patterns_that_could_never_match_are_refused(pattern: str) -> None:
    with pytest.raises(IdentityError):
        Pattern.parse(pattern)


def test_a_certificate_has_exactly_one_identity() -> None:
    names = (("DNS", "localhost"), ("URI", POOL))
    assert of_certificate({"subjectAltName": names}).uri == POOL
    bad: list[dict[str, Any] | None] = [
        None,
        {},
        {"subjectAltName": ()},
        {"subjectAltName": (*names, ("URI", GATEWAY))},
    ]
    for certificate in bad:
        with pytest.raises(IdentityError):
            of_certificate(certificate)


@pytest.mark.parametrize(
    ("address", "host", "port", "allowed"),
    [
        ("10.80.0.0/16:7400", "10.80.1.2", 7400, True),
        ("10.80.0.0/16:7400", "10.81.1.2", 7400, False),
        ("10.80.0.0/16:7400", "10.80.1.2", 7401, False),
        ("10.80.0.0/16:*", "10.80.1.2", 1, True),
        ("10.80.0.0/16:7400", "ten.example", 7400, False),
        ("[fd00::/8]:7400", "fd00::1", 7400, True),
        ("[fd00::/8]:7400", "fe00::1", 7400, False),
        ("*.prefill.example:7400", "a.prefill.example", 7400, True),
        ("*.prefill.example:7400", "a.PREFILL.example.", 7400, True),
        ("*.prefill.example:7400", "prefill.example", 7400, False),
        ("*.prefill.example:7400", "evilprefill.example", 7400, False),
        ("one.example:7400", "one.example", 7400, True),
        ("one.example:7400", "two.example", 7400, False),
    ],
)
def test_dial_rules_allow_what_they_say(address: str, host: str, port: int, allowed: bool) -> None:
    rule = DialRule(identity=POOL, addresses=[address])
    assert rule.allows(parse(POOL), host, port) is allowed
    assert not rule.allows(parse(GATEWAY), host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:70000", "a:b:c", "[::1]", "host:-1"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(text)


def test_an_arena_that_does_not_fit_is_refused_with_the_numbers() -> None:
    gib = 1 << 30
    memory.check_arena(gib, 2 * gib, None)
    memory.check_arena(gib, None, None)
    with pytest.raises(ConfigError, match=r"arena_bytes: 1,024 MiB .* memory limit \(1,024 MiB\)"):
        memory.check_arena(gib, 4 * gib, gib)
    with pytest.raises(ConfigError, match=r"available \(1,024 MiB\)"):
        memory.check_arena(gib, gib, None)


def test_an_arena_of_the_engines_need_not_fit_into_the_sidecars_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "limit_bytes", lambda: 64 << 20)
    text = "engine: {socket: /run/x.sock}\narena_bytes: 4GiB\ntls: {certificate: c, key: k, ca: a}\n"
    assert memory.arena_limit_bytes(parse_text(text, "test")) == 64 << 20
    assert memory.arena_limit_bytes(parse_text(f"{text}arena_charged_to: engine\n", "test")) is None
    with pytest.raises(ConfigError, match="arena_preallocate charges the arena to the sidecar"):
        parse_text(f"{text}arena_charged_to: engine\narena_preallocate: true\n", "test")


def test_limits_are_read_from_the_group_and_those_above_it(tmp_path: Path) -> None:
    group = tmp_path / "kube" / "pod" / "sidecar"
    group.mkdir(parents=True)
    (tmp_path / "kube" / "memory.max").write_text("max\n")
    (tmp_path / "kube" / "pod" / "memory.max").write_text("1000\n")
    (group / "memory.max").write_text("2000\n")
    where = tmp_path / "cgroup"
    where.write_text("0::/kube/pod/sidecar\n")
    assert memory.limit_bytes(where, tmp_path) == 1000
    assert memory.limit_bytes(tmp_path / "none", tmp_path) is None
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   12 kB\n")
    assert memory.available_bytes(meminfo) == 12 * 1024
    assert memory.available_bytes(tmp_path / "none") is None


def test_calls_before_their_transfer_are_remembered_for_a_while() -> None:
    records = Records(keep=2, remember_seconds=60)
    records.remember_call("a", "PrefillFailed", 0.0)
    records.remember_call("a", "Cancelled", 1.0)
    records.remember_call("b", "Cancelled", 1.0)
    records.remember_call("c", "Cancelled", 1.0)
    assert records.early_call("a", 60.0) == "PrefillFailed"
    assert records.early_call("c", 1.0) is None, "no more than two are kept"
    assert records.early_call("a", 60.5) is None
    assert records.early_call("b", 60.5) == "Cancelled"


def test_only_ended_transfers_are_forgotten() -> None:
    records = Records(keep=2, remember_seconds=60)
    first = records.start("1", "producer")
    records.start("2", "producer").end("complete", 1.0)
    records.start("3", "producer")
    assert ("1" in records, "2" in records, "3" in records) == (True, False, True)
    records.start("4", "producer")
    assert "1" in records
    assert first.as_json()["state"] == "running"


def pulling(name: str, channel: Channel, deadline: float, units: int) -> OutPull:
    lane = Lane(0, 0, 0, units, 10)
    transfer = ProducerTransfer((lane,), [0])
    transfer.publish(0, 0, units, None)
    request = Open(
        pull=len(channel.pulls),
        transfer_id="a" * 32,
        prompt_digest="b" * 64,
        lanes=((0, 0, 0, units, 10),),
        want=(((0, units),),),
        deadline_seconds=1.0,
    )
    out = channel.pulls[request.pull] = OutPull(name, channel, Pull(transfer, request), deadline)
    return out


@given(st.permutations(["soon", "later", "last"]))
def test_urgent_pulls_go_ahead_and_none_starves(order: list[str]) -> None:
    channel = Channel(parse(POOL), "c", "f", {})
    deadlines = {"soon": 1.0, "later": 2.0, "last": 3.0}
    for name in order:
        pulling(name, channel, deadlines[name], units=30)
    sent: list[str] = []
    for _ in range(30):
        picked = channel.next_chunk(10)
        assert picked is not None
        sent.append(picked[0].transfer_id)
    assert sent.count("soon") >= 15
    assert min(sent.count("later"), sent.count("last")) >= 5
    while (picked := channel.next_chunk(10)) is not None:
        sent.append(picked[0].transfer_id)
    assert {name: sent.count(name) for name in deadlines} == {"soon": 30, "later": 30, "last": 30}


def test_the_tables_of_codes_agree_with_the_contract() -> None:
    rows = {}
    for line in (DOCS / "contracts.md").read_text().partition("## Codes")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = (cells[1], cells[2] == "yes")
    ours = {name: (code.fault, code.retryable) for name, code in CODES.items()}
    assert {name: row for name, row in rows.items() if name in ours} == ours
    assert not retryable("NoSuchCode")


def test_the_protocol_page_shows_the_tables_that_the_code_uses() -> None:
    page = (DOCS / "wire-protocol.md").read_text()
    lines = {line.strip() for line in page.splitlines()}
    for role, states in STREAM.items():
        for state, steps in states.items():
            for (way, kind), following in steps.items():
                assert (
                    f"| {role.value} | {state.name} | {way.value} | {kind.name} | {following.name} |" in lines
                )
    for before, frames in PULL.items():
        for kind, after in frames.items():
            assert f"| {before.name} | {kind.name} | {after.name} |" in lines
    rows = [line for line in lines if line.startswith("|") and line.split("|")[1].strip() in _FIRST_CELLS]
    assert len(rows) == sum(len(steps) for states in STREAM.values() for steps in states.values()) + sum(
        map(len, PULL.values())
    )


_FIRST_CELLS = {role.value for role in STREAM} | {state.name for state in PULL}
