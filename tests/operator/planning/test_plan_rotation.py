"""Replacing the region's authority, step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from prfaas_operator.planning.rotation import RotationState, Step, plan_rotation

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LONG_AGO, JUST_NOW = NOW - timedelta(minutes=20), NOW - timedelta(minutes=1)
TRUSTING = RotationState(asked=True, since=LONG_AGO, next_id="new", region_trusts=frozenset({"old", "new"}))
SIGNING = RotationState(
    asked=True, since=LONG_AGO, previous_id="old", region_trusts=frozenset({"old", "new"})
)


@pytest.mark.parametrize(
    ("state", "step", "words"),
    [
        pytest.param(RotationState(asked=False), Step.NOTHING, "", id="nobody asked"),
        pytest.param(replace(TRUSTING, asked=False), Step.NOTHING, "", id="called off"),
        pytest.param(RotationState(asked=True, since=JUST_NOW), Step.BEGIN, "trusted beside", id="asked"),
        pytest.param(
            replace(TRUSTING, old_leaves=3),
            Step.WAIT,
            "3 certificates are still",
            id="leaves do not trust both",
        ),
        pytest.param(
            replace(TRUSTING, region_trusts=frozenset({"old"})),
            Step.WAIT,
            "Other regions have to trust the new one",
            id="the Region lacks it",
        ),
        pytest.param(
            replace(TRUSTING, since=JUST_NOW),
            Step.WAIT,
            "until 12:14:00 UTC",
            id="not everybody knows it yet",
        ),
        pytest.param(replace(TRUSTING, since=None), Step.WAIT, "until 12:15:00 UTC", id="no time is known"),
        pytest.param(TRUSTING, Step.SIGN, "The new authority signs", id="everybody knows it"),
        pytest.param(replace(TRUSTING, region_trusts=None), Step.SIGN, "signs", id="no federation"),
        pytest.param(replace(SIGNING, old_leaves=1), Step.WAIT, "1 certificates", id="a leaf is old"),
        pytest.param(
            replace(SIGNING, since=JUST_NOW), Step.WAIT, "take their certificates", id="just signed"
        ),
        pytest.param(SIGNING, Step.FINISH, "Take it out of the own Region's trustBundle", id="all are new"),
    ],
)
def test_the_next_step_follows_from_what_is_there(state: RotationState, step: Step, words: str) -> None:
    plan = plan_rotation(state, NOW)
    assert plan.step is step
    assert words in plan.message
    assert (plan.look_again_seconds is not None) == (step is Step.WAIT)
