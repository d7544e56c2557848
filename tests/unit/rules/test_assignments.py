"""Assignments: sticky, monotone in the weight, fair."""

import pytest

from penstock.domain.rollouts import Arm
from penstock.rules.assignments import assign, draw


def test_a_draw_is_a_known_function_of_salt_and_unit():
    """The hash is part of the product: changing it would move every unit in mid-rollout."""
    assert draw("salt", "session-1") == 0.9876263025806301
    assert draw("salt", "session-2") == 0.24743318956553406


@pytest.mark.parametrize(("weight", "arm"), [(0.0, Arm.STABLE), (1.0, Arm.CANDIDATE)])
def test_the_ends_of_the_scale_are_exact(weight, arm):
    """At 0 nobody meets the candidate, at 1 everybody does."""
    assert {assign("s", f"u{n}", weight) for n in range(2000)} == {arm}


def test_raising_the_weight_moves_nobody_back():
    """Over 1 → 5 → 10 → 25 → 50 → 100 % no unit returns to stable."""
    units = [f"user-{n}" for n in range(20_000)]
    before: set[str] = set()
    for weight in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0):
        now = {unit for unit in units if assign("salt", unit, weight) is Arm.CANDIDATE}
        assert before <= now
        assert len(now) == pytest.approx(weight * len(units), abs=3.5 * (len(units) / 4) ** 0.5)
        before = now


def test_another_rollout_draws_other_units():
    """A new salt: being in one canary says nothing about the next."""
    units = [f"user-{n}" for n in range(20_000)]
    first = {unit for unit in units if assign("a", unit, 0.1) is Arm.CANDIDATE}
    second = {unit for unit in units if assign("b", unit, 0.1) is Arm.CANDIDATE}
    assert len(first & second) == pytest.approx(0.01 * len(units), abs=50)
