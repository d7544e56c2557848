"""The one property everything rests on: under the null no bet has a positive expectation."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.domain.rollouts import (
    Arm,
    Baseline,
    Goal,
    Guard,
    Outcome,
    Plan,
    Question,
    SplitEvidence,
)
from penstock.rules.evidence import BETS, fold, observe, open_evidence
from penstock.rules.splits import fold_split

UNIT = st.floats(0.0, 1.0, allow_subnormal=False)
INNER = st.floats(0.005, 0.995)


def _test(question: Question, margin: float, mean: float):
    plan = Plan(
        guards=(Guard(metric="m", views=("m",), margin=margin),),
        goal=Goal(metric="m", views=("m",), margin=margin),
    )
    tests = open_evidence(plan, Baseline(means={"m": mean}))
    return next(test for test in tests if test.question is question)


def _met(arm: Arm, weight: float, y: float) -> Outcome:
    return Outcome(arm=arm, weight=weight, position=1, metrics={"m": y})


def _expected(test, weight: float, stable: float, candidate: float, low: float, high: float):
    """E[capital] of each bet after one session with outcomes in {low, high}, exactly."""
    total = [0.0] * 6
    for arm, chance, mean in (
        (Arm.CANDIDATE, weight, candidate),
        (Arm.STABLE, 1 - weight, stable),
    ):
        up = (mean - low) / (high - low)
        for y, share in ((high, up), (low, 1 - up)):
            after = observe(test, _met(arm, weight, y))
            for index, capital in enumerate(after.capitals[0]):
                assert capital >= 0.0
                total[index] += chance * share * capital
    return total


@given(
    weight=INNER, mean=UNIT, margin=st.floats(0.0, 0.5), ends=st.tuples(UNIT, UNIT),
    places=st.tuples(UNIT, UNIT), question=st.sampled_from(list(Question)),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_bet_gains_under_the_null(weight, mean, margin, ends, places, question):
    """E[factor] <= 1 for every m, w, margin and every pair of means in the null hypothesis."""
    low, high = min(ends), max(ends)
    if high - low < 0.01:
        low, high = 0.0, 1.0
    a, b = (low + place * (high - low) for place in places)
    margin = max(margin, 0.01) if question is Question.NOT_WORSE else margin
    # Move the pair into the null: worse wants c >= s - margin, not worse wants c <= s - margin.
    if question is Question.WORSE:
        stable, candidate = (a, b) if b >= a - margin else (b, a)
    else:
        stable, candidate = max(a, b), min(a, b)
        if candidate > stable - margin:
            low, high, stable, candidate = 0.0, 1.0, 1.0, 1.0 - margin
    expected = _expected(_test(question, margin, mean), weight, stable, candidate, low, high)
    assert max(expected) <= 1.0 + 1e-9


@given(weight=INNER, mean=UNIT, rate=UNIT)
@settings(max_examples=100, deadline=None)
def test_equal_arms_are_a_fair_game(weight, mean, rate):
    """At margin 0 and equal arms the expectation is exactly 1, whatever the rate: no bias."""
    expected = _expected(_test(Question.WORSE, 0.0, mean), weight, rate, rate, 0.0, 1.0)
    assert max(abs(value - 1.0) for value in expected) < 1e-9


SESSIONS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.05, 0.1, 0.5, 0.95, 1.0]), UNIT), max_size=60
)


@given(sessions=SESSIONS, cuts=st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=100, deadline=None)
def test_batches_do_not_matter_and_peaks_only_rise(sessions, cuts):
    """Any batching gives the same evidence, every capital stays positive, the peak never falls."""
    outcomes = [_met(Arm.CANDIDATE if c else Arm.STABLE, w, y) for c, w, y in sessions]
    edges = sorted({0, len(outcomes), *(min(cut, len(outcomes)) for cut in cuts)})
    for question in Question:
        start = _test(question, 0.05, 0.9)
        whole, parts = fold(start, outcomes), start
        for left, right in pairwise(edges):
            after = fold(parts, outcomes[left:right])
            assert after.peak >= parts.peak
            parts = after
        close = {"difference_sum": 0.0, "difference_squares": 0.0, "candidate_sum": 0.0,
                 "stable_sum": 0.0}  # fmt: skip
        assert replace(whole, **close) == replace(parts, **close)
        assert min(whole.capitals[0]) > 0.0
        assert len(whole.capitals[0]) == len(BETS[question])


@given(
    weight=INNER,
    before=st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.5])), max_size=50),
)
@settings(max_examples=100, deadline=None)
def test_a_right_split_is_a_fair_game(weight, before):
    """After any history, also over changes of the weight, the martingale's expectation stays."""
    history = [_met(Arm.CANDIDATE if c else Arm.STABLE, w, 1.0) for c, w in before]
    now = fold_split(SplitEvidence(), history)
    expected = sum(
        chance * fold_split(now, [_met(arm, weight, 1.0)]).capital
        for arm, chance in ((Arm.CANDIDATE, weight), (Arm.STABLE, 1 - weight))
    )
    assert abs(expected / now.capital - 1.0) < 1e-9
