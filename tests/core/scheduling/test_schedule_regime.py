"""Scarce and abundant bandwidth: when a link changes, that it does not swing, and what t does meanwhile."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import InvalidInputError
from prfaas.scheduling import LinkSample, Regime, RegimeRule, advance

RULE = RegimeRule()
START = Regime()


def after(samples: list[float], *, regime: Regime = START, step: float = 1.0) -> Regime:
    for index, utilisation in enumerate(samples):
        regime = advance(regime, LinkSample(utilisation), index * step)
    return regime


def test_it_turns_scarce_after_two_seconds_above_and_abundant_after_thirty_below() -> None:
    assert not after([0.85] * 2).scarce
    assert after([0.85] * 3).scarce
    scarce = Regime(scarce=True)
    assert after([0.5] * 30, regime=scarce).scarce
    assert not after([0.5] * 31, regime=scarce).scarce


@pytest.mark.parametrize("scarce", [True, False])
def test_nothing_changes_between_the_borders(scarce: bool) -> None:
    assert after([0.7, 0.61, 0.79] * 50, regime=Regime(scarce=scarce)).scarce is scarce


def test_one_good_measurement_begins_the_wait_anew() -> None:
    assert not after([0.9, 0.9, 0.7, 0.9, 0.9]).scarce


@pytest.mark.parametrize(
    "sample", [LinkSample(0.1, backlog_seconds=1.5), LinkSample(0.1, loss_share=0.02)], ids=["queue", "loss"]
)
def test_a_queue_and_loss_count_like_utilisation(sample: LinkSample) -> None:
    regime = Regime()
    for second in range(4):
        regime = advance(regime, sample, second)
    assert regime.scarce


@pytest.mark.parametrize(
    "sample",
    [None, LinkSample(0.1, age_seconds=61), LinkSample(math.nan)],
    ids=["never", "long-ago", "not-a-number"],
)
def test_bandwidth_that_nobody_knows_is_scarce(sample: LinkSample | None) -> None:
    regime = Regime()
    for second in range(4):
        regime = advance(regime, sample, second)
    assert regime.scarce
    assert regime.threshold_factor == 1
    for second in range(4, 60):
        regime = advance(regime, sample, second)
    assert regime.scarce
    assert regime.changes == 1


def test_t_rises_while_the_link_is_full_and_comes_back() -> None:
    regime = Regime()
    for second in range(200):
        regime = advance(regime, LinkSample(1.0), second)
    assert regime.threshold_factor == RULE.most_factor
    for second in range(200, 600):
        regime = advance(regime, LinkSample(0.3), second)
    assert regime.threshold_factor == 1
    assert not regime.scarce


@given(
    demand=st.floats(0.1, 3.0),
    shed=st.floats(0.0, 0.19),
    noise=st.lists(st.floats(-0.03, 0.03), min_size=20, max_size=20),
)
def test_its_own_effect_does_not_make_it_swing(demand: float, shed: float, noise: list[float]) -> None:
    """The link's load answers to the regime: scarce takes some away, a raised t some more. Once the load is
    where it was, a change cannot cause the next one."""
    regime, changes = Regime(), []
    for second in range(1200):
        load = demand * (1 - shed if regime.scarce else 1) / regime.threshold_factor
        load = max(0.0, load * (1 + noise[second % 20]))
        before = regime.changes
        regime = advance(regime, LinkSample(load), second)
        if regime.changes > before:
            changes.append(second)
    # A swing needs a whole round: two seconds above and thirty below.
    assert all(later - earlier >= 30 for earlier, later in zip(changes[::2], changes[1::2], strict=False))
    if demand * 1.03 < 0.8:
        assert not changes
    if 1 - shed > 0.75 and demand * 0.97 > 0.83 and demand * 1.03 < 0.9:
        assert len(changes) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"abundant_to": 0.8},
        {"scarce_from": 0.95},
        {"enter_seconds": 0},
        {"raise_by": 1.0},
        {"decay_by": 1.0},
        {"most_factor": 0.5},
        {"leave_seconds": math.nan},
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError):
        RegimeRule(**fields)
