"""What must hold for every model: the tokens of prefill-there-and-decode-here are those of one engine alone.

Each scenario takes a running `Pair`, and leaves it empty: no blocks held, no arena byte used.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from prfaas_lab.engine import Answer
from prfaas_lab.pair import Legs, Pair
from prfaas_lab.prompts import prompt
from tests.helpers import eventually

OUTPUT_TOKENS = 24
LOGPROB_TOLERANCE = 2e-4
"""float32: two ways to add up the same numbers. Measured differences stay below 2e-5."""


LEASE_SECONDS = 15.0
"""Deadline of transfers that are cut off for good; longer than any of them takes."""


@dataclass(frozen=True)
class Expectation:
    """What the model's kind allows to expect.

    Attributes:
        state: the model has recurrent state, which is sent whole.
        one_short: a complete transfer stops one token short of the prompt: state and windows must be those
            from which the decode engine computes the last token.
        any_block: a cut transfer can be used up to any block, not only at planned resume points.
        lengths: prompts of `whole_prompt`. In bfloat16 a prompt must end one token after a chunk's end, so
            that the reference has the chunk boundaries of a transfer; in float32 boundaries do not matter.
        long_tokens: the prompt of the scenarios that break something on its way.
        tolerance: of log-probabilities.
    """

    state: bool = False
    one_short: bool = False
    any_block: bool = True
    lengths: tuple[int, ...] = (2, 33, 128, 129, 257, 513, 700)
    long_tokens: int = 1000
    tolerance: float = LOGPROB_TOLERANCE

    def target(self, tokens: int) -> int:
        """How many tokens a complete transfer brings."""
        return tokens - 1 if self.one_short else tokens


def same(answer: Answer, reference: Answer, tolerance: float = LOGPROB_TOLERANCE) -> None:
    """Equal tokens; equal log-probabilities within rounding, so that a lucky argmax hides nothing."""
    assert answer.tokens == reference.tokens
    assert len(set(reference.tokens)) > 2, (
        "the model says the same token all the time: the test could not fail"
    )
    assert answer.logprobs == pytest.approx(reference.logprobs, abs=tolerance)


def whole_prompt(pair: Pair, expect: Expectation) -> None:
    """Lengths at, below and above block and chunk boundaries."""
    for tokens in expect.lengths:
        reference = pair.local(prompt(tokens), OUTPUT_TOKENS)
        answer, record = pair.run(prompt(tokens), OUTPUT_TOKENS)
        assert record["taken_tokens"] == expect.target(tokens), record
        assert record["code"] == "complete"
        same(answer, reference, expect.tolerance)
        pair.reset()
    pair.assert_nothing_held()


def prefix_at_consumer(pair: Pair, expect: Expectation) -> None:
    """What the decode engine has in its own cache does not cross again."""
    # Not a whole number of blocks: vLLM looks for a window at the last block boundary before the end,
    # which a transfer of exactly whole blocks has no place for.
    long, longer = prompt(650), prompt(650) + prompt(200, seed=2)
    reference = pair.local(longer, OUTPUT_TOKENS)
    _, first = pair.run(long, OUTPUT_TOKENS)
    answer, second = pair.run(longer, OUTPUT_TOKENS)
    same(answer, reference, expect.tolerance)
    assert second["code"] == "complete"
    if not expect.state:
        if expect.any_block:
            assert second["bytes_kv"] < first["bytes_kv"] / 2
        assert second["taken_tokens"] < len(longer) - 500
    pair.assert_nothing_held()


def prefix_at_producer(pair: Pair, expect: Expectation) -> None:
    """What the prefill engine has in its own cache crosses although it is not computed again."""
    shared = prompt(640)
    longer = shared + prompt(100, seed=3)
    reference = pair.local(longer, OUTPUT_TOKENS)
    pair.prefill.generate(shared, 1)
    answer, record = pair.run(longer, OUTPUT_TOKENS)
    assert record["taken_tokens"] == expect.target(len(longer)), record
    same(answer, reference, expect.tolerance)
    pair.assert_nothing_held()


def concurrent_requests(pair: Pair, expect: Expectation) -> None:
    """Several transfers and a local request at once."""
    prompts = [prompt(300 + 100 * index, seed=10 + index) for index in range(3)]
    references = [pair.local(tokens, OUTPUT_TOKENS) for tokens in prompts]
    alone = pair.local(prompt(90, seed=20), OUTPUT_TOKENS)
    local = pair.decode.start(prompt(90, seed=20), OUTPUT_TOKENS)
    legs = [pair.start(tokens, OUTPUT_TOKENS) for tokens in prompts]
    for leg, reference, tokens in zip(legs, references, prompts, strict=True):
        answer, record = pair.finish(leg)
        assert record["taken_tokens"] == expect.target(len(tokens)), record
        same(answer, reference, expect.tolerance)
    same(pair.decode.finish(local), alone, expect.tolerance)
    pair.assert_nothing_held()


def cut_in_the_middle(pair: Pair, expect: Expectation) -> None:
    """The link breaks after a part has crossed: that part is used, the rest computed, nothing is fetched
    twice."""
    tokens = expect.long_tokens
    reference = pair.local(prompt(tokens, seed=30), OUTPUT_TOKENS)
    _, whole = pair.run(prompt(tokens, seed=30), OUTPUT_TOKENS)
    pair.reset()
    for fraction in (0.05, 0.4, 0.8):
        pair.link.restore()
        pair.link.cut_after_bytes = int(whole["bytes_wire"] * fraction)
        # The producer cannot be told over a cut link: its memory comes back when the lease ends.
        legs = pair.start(prompt(tokens, seed=30), OUTPUT_TOKENS, deadline_seconds=LEASE_SECONDS)
        answer, record = pair.finish(legs)
        same(answer, reference, expect.tolerance)
        assert record["taken_tokens"] < expect.target(tokens)
        if expect.any_block and fraction >= 0.4:
            assert record["taken_tokens"] > 0, record
        pair.link.restore()
        pair.reset()
    answer, record = pair.run(prompt(tokens, seed=30), OUTPUT_TOKENS)
    assert record["taken_tokens"] == expect.target(tokens), "the link is back"
    same(answer, reference, expect.tolerance)
    pair.assert_nothing_held()


def resume_over_a_new_stream(pair: Pair, expect: Expectation) -> None:
    """Every stream breaks once; the transfer goes on over new ones and is complete."""
    tokens = expect.long_tokens
    reference = pair.local(prompt(tokens, seed=31), OUTPUT_TOKENS)
    legs = pair.start(prompt(tokens, seed=31), OUTPUT_TOKENS)
    eventually(lambda: _landed(pair, legs) > 0, within_seconds=60, what="something has landed")
    pair.link.cut()
    pair.link.restore()
    answer, record = pair.finish(legs)
    same(answer, reference, expect.tolerance)
    assert record["taken_tokens"] == expect.target(tokens), record
    pair.assert_nothing_held()


def aborts(pair: Pair, expect: Expectation) -> None:
    """The client goes away on either side, early and late."""
    tokens = prompt(expect.long_tokens, seed=40)
    for side in ("decode", "prefill"):
        for landed in (False, True):
            legs = pair.start(tokens, 400)
            if landed:
                eventually(
                    lambda legs=legs: _landed(pair, legs) > 0, within_seconds=60, what="something landed"
                )
            if side == "decode":
                assert pair.decode.abort(legs.decode), "the request had ended: nothing was aborted"
                pair.prefill.finish(legs.prefill)
                pair.consumer.call("POST", f"/v1/transfers/{legs.transfer_id}/cancel")
                pair.producer.call("POST", f"/v1/transfers/{legs.transfer_id}/cancel")
            else:
                pair.prefill.abort(legs.prefill)
                assert pair.decode.abort(legs.decode), "the request had ended: nothing was aborted"
            pair.assert_nothing_held()
    reference = pair.local(tokens, OUTPUT_TOKENS)
    legs = pair.start(tokens, OUTPUT_TOKENS)
    eventually(lambda: _landed(pair, legs) > 0, within_seconds=60, what="something has landed")
    pair.prefill.abort(legs.prefill)
    answer = pair.decode.finish(legs.decode)
    same(answer, reference, expect.tolerance)
    pair.assert_nothing_held()


def prefill_fails(pair: Pair, expect: Expectation) -> None:
    """The gateway says that the prefill leg failed: the decode engine computes at once."""
    tokens = prompt(expect.long_tokens, seed=50)
    reference = pair.local(tokens, OUTPUT_TOKENS)
    legs = pair.start(tokens, OUTPUT_TOKENS)
    pair.consumer.call("POST", f"/v1/transfers/{legs.transfer_id}/fail", {"reason": "PrefillFailed"})
    answer, record = pair.finish(legs)
    same(answer, reference, expect.tolerance)
    assert record["code"] in ("PrefillFailed", "complete")
    pair.assert_nothing_held()


def sidecars_die(pair: Pair, expect: Expectation) -> None:
    """Either sidecar is killed in the middle; the request is answered; after a restart transfers work
    again."""
    tokens = prompt(expect.long_tokens, seed=60)
    reference = pair.local(tokens, OUTPUT_TOKENS)
    for victim, engine in ((pair.producer, pair.prefill), (pair.consumer, pair.decode)):
        greetings = engine.greetings()
        legs = pair.start(tokens, OUTPUT_TOKENS, deadline_seconds=LEASE_SECONDS)
        eventually(lambda legs=legs: _landed(pair, legs) > 0, within_seconds=60, what="something has landed")
        victim.kill()
        answer = pair.decode.finish(legs.decode)
        pair.prefill.finish(legs.prefill)
        same(answer, reference, expect.tolerance)
        victim.restart()
        eventually(
            lambda engine=engine, greetings=greetings: engine.greetings() >= greetings + 2,
            within_seconds=20,
            what="both sides of the engine know the new sidecar",
        )
        pair.assert_nothing_held()
    answer, record = pair.run(tokens, OUTPUT_TOKENS)
    assert record["taken_tokens"] == expect.target(len(tokens)), record
    same(answer, reference, expect.tolerance)
    pair.assert_nothing_held()


def mismatched_prompts(pair: Pair, expect: Expectation) -> None:
    """The two legs carry different prompts: nothing is loaded, and the decode leg's own prompt is
    answered."""
    mine, other = prompt(400, seed=70), prompt(400, seed=71)
    reference = pair.local(mine, OUTPUT_TOKENS)
    legs = pair.start(mine, OUTPUT_TOKENS)
    swapped = pair.start(other, OUTPUT_TOKENS)
    # A decode leg that announces the transfer of the other prompt, with the digest of its own.
    same(pair.finish(legs)[0], reference, expect.tolerance)
    pair.finish(swapped)
    pair.reset()
    answer = pair.decode.generate(mine, OUTPUT_TOKENS, _foreign_transfer(pair, other))
    same(answer, reference, expect.tolerance)
    pair.assert_nothing_held()


def _foreign_transfer(pair: Pair, other: list[int]) -> dict[str, object]:
    from prfaas_connector.request import prompt_digest
    from prfaas_lab.pair import PRODUCER

    return {
        "prfaas": {
            "version": 1,
            "leg": "decode",
            "transfer_id": "f" * 32,
            "prompt_digest": prompt_digest(other, None),
            "deadline_seconds": 30.0,
            "producer": {"address": f"127.0.0.1:{pair.link.port}", "identity": PRODUCER},
        }
    }


def _landed(pair: Pair, legs: Legs) -> int:
    try:
        record = pair.consumer.call("GET", f"/v1/transfers/{legs.transfer_id}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return 0
        raise
    landed: int = record["units_landed"]
    return landed


Scenario = Callable[[Pair, Expectation], None]
SCENARIOS: tuple[Scenario, ...] = (
    whole_prompt,
    prefix_at_consumer,
    prefix_at_producer,
    concurrent_requests,
    cut_in_the_middle,
    resume_over_a_new_stream,
    aborts,
    prefill_fails,
    sidecars_die,
    mismatched_prompts,
)
