"""When a request counts as gone well, and what its figures mean."""

from __future__ import annotations

import json

import pytest

from prfaas_demo.results import Outcome, Request, local_problems, problems, request
from tests.demo.demo_values import LOCAL, answer, prompt, row, transfer


def got(**changes: object) -> Request:
    values = {
        "consumer": transfer(),
        "producer": transfer(),
        "prompt": prompt(),
        "answer": answer(),
        **changes,
    }
    return request(reference=answer(), **values)  # type: ignore[arg-type]


def test_figures_of_a_complete_transfer() -> None:
    row = got(answer=answer(cached_tokens=200))
    assert (row.tokens, row.uncached_tokens, row.landed_tokens) == (1000, 800, 1000)
    assert row.kv_bytes == 48 << 20
    assert row.wire_bits_per_second == pytest.approx(200e6)
    assert row.prefill_seconds == pytest.approx(2.75)
    assert row.tail_seconds == pytest.approx(0.25)
    assert problems(prompt(), row) == []


def test_a_local_request_has_no_transfer_figures() -> None:
    row = got(answer=answer(headers=LOCAL), consumer=None, producer=None)
    assert row.landed_tokens is row.kv_bytes is row.wire_bits_per_second is row.tail_seconds is None
    assert problems(prompt(expects="local"), row) == []


def test_a_cut_transfer_has_no_tail() -> None:
    row = got(consumer=transfer("Cancelled", 600))
    assert row.tail_seconds is None
    assert problems(prompt(cut=True), row) == []


def test_different_tokens_are_a_problem_even_if_the_text_is_the_same() -> None:
    row = got(answer=answer((1, 2, 4)))
    assert problems(prompt(), row) == ["the tokens differ from the reference"]


@pytest.mark.parametrize(
    ("cut", "consumer", "word"),
    [
        (False, transfer("LinkLost", 600), "LinkLost"),
        (False, transfer("complete", 0), "nothing"),
        (True, transfer("complete", 1000), "everything"),
        (True, transfer("LinkLost", 0), "nothing"),
        (True, transfer("LinkLost", None), "nothing"),
    ],
)
def test_remote_requests_that_did_not_go_as_they_should(cut: bool, consumer: object, word: str) -> None:
    (problem,) = problems(prompt(cut=cut), got(consumer=consumer))
    assert word in problem


def test_over_a_slow_link_an_engine_may_compute_everything_itself() -> None:
    gave_up = got(consumer=transfer("Cancelled", 0))
    assert problems(prompt(), gave_up, transfers_pay=False) == []
    assert problems(prompt(cut=True), gave_up, transfers_pay=False) == []
    assert problems(prompt(), gave_up) == ["nothing was taken from the transfer"]
    assert problems(prompt(), got(consumer=transfer("LinkLost", 0)), transfers_pay=False) != []


def test_a_transfer_that_no_sidecar_knows() -> None:
    assert problems(prompt(), got(consumer=None)) == ["the transfer ended with None"]


def test_a_request_that_should_have_been_remote() -> None:
    (problem,) = problems(prompt(), got(answer=answer(headers=LOCAL), consumer=None, producer=None))
    assert problem == "should have been remote, and was local (UnderThreshold)"


def test_the_engine_may_compute_the_last_tokens_itself() -> None:
    assert problems(prompt(), got(consumer=transfer("Cancelled", 990))) == []


def test_problems_of_the_all_local_course() -> None:
    assert local_problems(row(local=True)) == []
    assert len(local_problems(row(same_tokens=False))) == 2


def outcome(**changes: object) -> Outcome:
    ours = [row("short", local=True), row("long")]
    values = {"facts": {}, "prfaas": ours, "local": [row("short", local=True), row("long", local=True)]}
    return Outcome(**{**values, "problems": {}, **changes})  # type: ignore[arg-type]


def test_the_ratio_is_all_local_over_prfaas_and_counts_complete_transfers_only() -> None:
    fast = got(answer=answer(first_token_seconds=1.0))
    slow = got(answer=answer(first_token_seconds=3.0, headers=LOCAL), consumer=None, producer=None)
    cut = got(answer=answer(first_token_seconds=0.1), consumer=transfer("LinkLost", 5))
    outcome = Outcome({}, [fast], [slow], {})
    assert outcome.median_first_token_ratio() == pytest.approx(3.0)
    assert Outcome({}, [cut], [slow], {}).median_first_token_ratio() is None


def test_json_holds_every_figure_of_the_table() -> None:
    shown = json.loads(json.dumps(outcome(problems={"long": ["it rained"]}).as_json()))
    assert shown["passed"] is False
    assert shown["problems"] == {"long": ["it rained"]}
    assert set(Request.__dataclass_fields__) == set(shown["requests"][1])
    assert shown["comparison"][1]["first_token_ratio"] == 1.0
