"""Bad input: the field or the line, what is wrong with it, what to write instead."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from prfaas.capacity import InvalidInputError
from prfaas.commands.simulate.scenario import settings_of
from prfaas.simulator import Arrival, Settings, Trace, TraceForm, parsed, simulate
from prfaas.simulator.request import BLOCK_TOKENS
from prfaas.simulator.traces import played
from tests.simulator.simulator_scenarios import OPTIONS, settings, two_sites

OWN = ["arrival_seconds,input_tokens,output_tokens,session\n", "5,1000,20,a\n", "7.5,3000,10,a\n"]


@pytest.mark.parametrize(
    ("section", "field", "word"),
    [
        ({"durationSeconds": 0}, "simulation.durationSeconds", "greater than 0"),
        ({"durationSeconds": float("nan")}, "simulation.durationSeconds", "finite"),
        ({"duration": 5}, "simulation.duration", "not permitted"),
        ({"warmUpSeconds": 4000}, "simulation", "warmUpSeconds"),
        ({"demand": {"d": {"pattern": {"kind": "Sunny"}}}}, "simulation.demand.d.pattern", "Poisson"),
        ({"demand": {"d": {"pattern": {"kind": "Bursty", "factor": 1}}}}, "Bursty.factor", "greater than 1"),
        ({"demand": {"d": {"sessions": {"sharedPrefixes": 3}}}}, "simulation.demand.d.sessions", "both"),
        (
            {"demand": {"d": {"pattern": {"kind": "Diurnal", "peakHour": 24}}}},
            "Diurnal.peakHour",
            "less than 24",
        ),
        ({"pools": {"far": {"priceByHour": [1, 2]}}}, "simulation.pools.far", "priceByHour has 2"),
        ({"networks": {"north-west": {"lossShare": 1}}}, "networks.north-west.lossShare", "less than 1"),
        ({"failures": [{"atSeconds": 1, "forSeconds": 1}]}, "simulation.failures.0", "exactly one"),
        (
            {"failures": [{"atSeconds": 1, "forSeconds": 1, "pool": "d", "link": "north-west"}]},
            "simulation.failures.0",
            "exactly one",
        ),
        (
            {"failures": [{"atSeconds": 1, "forSeconds": 9, "pool": "d", "everySeconds": 5}]},
            "simulation.failures.0",
            "more than forSeconds",
        ),
        (
            {"failures": [{"atSeconds": 1, "forSeconds": 9, "pool": "d", "capacityShare": 0.5}]},
            "simulation.failures.0",
            "for links",
        ),
        ({"policy": {"router": "Oracle"}}, "simulation.policy.router", "Threshold"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_by_field(
    section: dict[str, Any], field: str, word: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        settings_of(section)
    assert field in refused.value.field
    assert word in str(refused.value)
    assert "docs/simulator.md" in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"demand": {"nobody": {}}}, "simulation.demand.nobody"),
        ({"networks": {"nowhere": {}}}, "simulation.networks.nowhere"),
        ({"pools": {"none": {}}}, "simulation.pools.none"),
        ({"failures": [{"atSeconds": 1, "forSeconds": 1, "region": "mars"}]}, "simulation.failures.0.region"),
        ({"failures": [{"atSeconds": 1, "forSeconds": 1, "pool": "mars"}]}, "simulation.failures.0.pool"),
    ],
)
def test_names_that_the_scenario_does_not_have_are_told_with_those_that_it_has(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError, match="there is no") as refused:
        simulate(two_sites(), OPTIONS, settings(**fields))
    assert refused.value.field == field
    assert "use one of" in refused.value.remedy


def test_the_own_form_is_read_from_csv_and_from_json_lines() -> None:
    expected = (Arrival(0.0, 1000, 20, session="a"), Arrival(2.5, 3000, 10, session="a"))
    assert parsed("t.csv", OWN, TraceForm.PRFAAS) == expected
    lines = [
        '{"arrival_seconds": 5, "input_tokens": 1000, "output_tokens": 20, "session": "a"}\n',
        "\n",
        '{"arrival_seconds": 7.5, "input_tokens": 3000, "output_tokens": 10, "session": "a"}\n',
    ]
    assert parsed("t.jsonl", lines, TraceForm.PRFAAS) == expected


def test_published_forms_are_read() -> None:
    mooncake = ['{"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [4, 5, 6]}']
    assert parsed("m", mooncake, TraceForm.MOONCAKE) == (Arrival(0.0, 1100, 7, (4, 5, 6)),)
    azure = [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n",
        "2023-11-16 18:15:46.6805900,374,44\n",
        "2023-11-16 18:15:50.9951690,396,109\n",
    ]
    found = parsed("a", azure, TraceForm.AZURE_LLM)
    assert [each.input_tokens for each in found] == [374, 396]
    assert found[1].at_seconds == pytest.approx(4.314579, abs=1e-5)
    later = ["TIMESTAMP,ContextTokens,GeneratedTokens\n", "2024-05-10 00:00:00.009930+00:00,2162,5\n"]
    assert parsed("a", later, TraceForm.AZURE_LLM)[0].output_tokens == 5


@pytest.mark.parametrize(
    ("form", "lines", "line", "word"),
    [
        (TraceForm.PRFAAS, [*OWN, "9,0,10,\n"], 4, "input_tokens is '0'"),
        (TraceForm.PRFAAS, [*OWN, "9,2.5,10,\n"], 4, "whole number"),
        (TraceForm.PRFAAS, [*OWN, "nan,5,10,\n"], 4, "arrival_seconds is 'nan'"),
        (TraceForm.PRFAAS, [*OWN, "-1,5,10,\n"], 4, "at least 0"),
        (TraceForm.PRFAAS, [*OWN, "9,5\n"], 4, "output_tokens is None"),
        (TraceForm.PRFAAS, ["arrival_seconds,input_tokens\n"], 1, "no column output_tokens"),
        (TraceForm.PRFAAS, ['{"arrival_seconds": 1}\n'], 1, "input_tokens is None"),
        (TraceForm.PRFAAS, ['{"arrival_seconds": true, "input_tokens": 1, "output_tokens": 1}'], 1, "True"),
        (TraceForm.MOONCAKE, ["{}\n", "{"], 1, "timestamp is None"),
        (TraceForm.MOONCAKE, ["[]"], 1, "not a JSON object"),
        (TraceForm.MOONCAKE, ["nonsense"], 1, "not JSON"),
        (
            TraceForm.MOONCAKE,
            ['{"timestamp": 1, "input_length": 9, "output_length": 1, "hash_ids": ["x"]}'],
            1,
            "hash_ids",
        ),
        (
            TraceForm.AZURE_LLM,
            ["TIMESTAMP,ContextTokens,GeneratedTokens\n", "yesterday,1,1\n"],
            2,
            "TIMESTAMP",
        ),
        (TraceForm.AZURE_LLM, ["a,b\n"], 1, "no column TIMESTAMP"),
    ],
)
def test_a_bad_line_is_told_by_its_number(form: TraceForm, lines: list[str], line: int, word: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parsed("trace", lines, form)
    assert refused.value.field == f"trace, line {line}"
    assert word in str(refused.value)


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="holds no request"):
        parsed("trace", [OWN[0]], TraceForm.PRFAAS)


def test_a_trace_is_played_faster_and_again() -> None:
    arrivals = parsed("t", OWN, TraceForm.PRFAAS)
    twice = list(played(arrivals, Trace(kind="Trace", file="t", speed=2.0, repeat=True), 0, 4.0, count()))
    assert [each.arrived for each in twice] == pytest.approx([0.0, 1.25, 2.5, 3.75])
    once = list(played(arrivals, Trace(kind="Trace", file="t"), 0, 100.0, count()))
    assert [each.arrived for each in once] == [0.0, 2.5]


def test_requests_of_one_session_begin_alike_and_others_do_not() -> None:
    arrivals = (
        Arrival(0, 2 * BLOCK_TOKENS, 1, session="a"),
        Arrival(1, 4 * BLOCK_TOKENS, 1, session="a"),
        Arrival(2, 2 * BLOCK_TOKENS, 1, session="b"),
        Arrival(3, 2 * BLOCK_TOKENS, 1),
    )
    one, two, other, none = played(arrivals, Trace(kind="Trace", file="t"), 0, 10.0, count())
    assert two.blocks[:2] == one.blocks
    assert len(two.blocks) == 4
    assert not set(two.blocks) & (set(other.blocks) | set(none.blocks))


def test_a_trace_decides_on_what_comes() -> None:
    arrivals = tuple(Arrival(index * 2.0, 1024, 5) for index in range(50))
    result = simulate(
        two_sites(),
        OPTIONS,
        settings(demand={"d": {"pattern": {"kind": "Trace", "file": "t"}}}),
        traces={"t": arrivals},
    )
    assert result.total.arrived == result.total.served == 50


def test_names_of_fields_are_those_of_the_file_and_of_python() -> None:
    assert Settings.model_validate({"durationSeconds": 5}) == Settings(duration_seconds=5)
