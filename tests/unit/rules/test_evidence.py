"""The e-processes: known values, what is folded, how the risk is split, what a report says."""

import math
import random

import pytest

from penstock.domain.rollouts import (
    DEFAULT_PLAN,
    Arm,
    Baseline,
    Evidence,
    Goal,
    Guard,
    Outcome,
    Plan,
    Question,
    SplitEvidence,
)
from penstock.rules.evidence import (
    BETS,
    SETTLED,
    effect,
    fold,
    observe,
    open_evidence,
    thresholds,
    verdict,
)
from penstock.rules.measures import active, freeze, measure
from penstock.rules.splits import fold_split, mismatched

ONE_GUARD = Plan(guards=(Guard(metric="completion", views=("completion",)),))


def outcome(arm: Arm, y: float | None, weight: float = 0.1, **more: float) -> Outcome:
    """One session, with its completion if it has one."""
    metrics = more if y is None else {"completion": y, **more}
    return Outcome(arm=arm, weight=weight, position=1, metrics=metrics)


def stream(rng: random.Random, n: int, *, weight: float, stable: float, candidate: float):
    """Seeded sessions of two arms with these completion rates."""
    for _ in range(n):
        arm = Arm.CANDIDATE if rng.random() < weight else Arm.STABLE
        rate = candidate if arm is Arm.CANDIDATE else stable
        yield outcome(arm, float(rng.random() < rate), weight)


def opened(question: Question, plan: Plan = ONE_GUARD, mean: float = 0.9) -> Evidence:
    """The completion test of a question, before its first session."""
    tests = open_evidence(plan, Baseline(means={"completion": mean}))
    return next(test for test in tests if test.question is question and test.metric == "completion")


@pytest.mark.parametrize(
    ("arm", "y", "question", "ratio"),
    [
        (Arm.CANDIDATE, 0.0, Question.WORSE, 9.0 / 1.0),
        (Arm.CANDIDATE, 1.0, Question.WORSE, -1.0 / 1.0),
        (Arm.STABLE, 1.0, Question.WORSE, (0.1 / 0.9) / 1.0),
        (Arm.STABLE, 0.0, Question.WORSE, -(0.9 / 0.9) / 1.0),
        (Arm.CANDIDATE, 1.0, Question.NOT_WORSE, (0.05 + 1.0) / 8.95),
        (Arm.CANDIDATE, 0.0, Question.NOT_WORSE, (0.05 - 9.0) / 8.95),
        (Arm.STABLE, 0.0, Question.NOT_WORSE, (0.05 + 1.0) / 8.95),
    ],
)
def test_one_session_changes_the_capitals_by_the_formula(arm, y, question, ratio):
    """At w = 0.1 and m = 0.9 every factor is 1 + bet · r, r computed by hand."""
    after = observe(opened(question), outcome(arm, y))
    assert after.capitals[0] == pytest.approx([1 + bet * ratio for bet in BETS[question]])
    assert after.e == pytest.approx(sum(after.capitals[0]) / 6)
    assert after.means[0] == pytest.approx((0.9 * 10 + y) / 11)


def test_a_batch_is_the_same_as_one_by_one():
    """However sessions are batched, evidence and peak are the same, bit by bit."""
    sessions = list(stream(random.Random(7), 700, weight=0.2, stable=0.9, candidate=0.8))
    single = opened(Question.WORSE)
    for session in sessions:
        single = observe(single, session)
    batched = fold(fold(opened(Question.WORSE), sessions[:333]), sessions[333:])
    assert batched.capitals == single.capitals
    assert (batched.e, batched.peak, batched.means) == (single.e, single.peak, single.means)
    assert (batched.seen, batched.candidate_seen) == (single.seen, single.candidate_seen)
    assert batched.difference_sum == pytest.approx(single.difference_sum)


def test_an_overwhelming_difference_settles_without_overflow():
    """After 20,000 sessions of nothing but failures the numbers are still finite."""
    sessions = list(stream(random.Random(1), 20_000, weight=0.5, stable=1.0, candidate=0.0))
    after = fold(opened(Question.WORSE), sessions)
    assert SETTLED <= after.peak < math.inf
    assert all(math.isfinite(capital) for capital in after.capitals[0])


def test_a_crossing_is_latched():
    """A verdict, once earned, is not lost by what comes later."""
    bad = fold(
        opened(Question.WORSE),
        list(stream(random.Random(2), 300, weight=0.5, stable=0.95, candidate=0.3)),
    )
    later = fold(bad, list(stream(random.Random(3), 5000, weight=0.5, stable=0.3, candidate=1.0)))
    assert later.e < 1
    assert later.peak > 20
    assert verdict(ONE_GUARD, [later]).worse is later


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_session_without_a_counterpart_is_not_folded(weight):
    """At 0 and 100 % there is nothing to compare with."""
    before = opened(Question.WORSE)
    after = observe(before, outcome(Arm.CANDIDATE, 0.0, weight))
    assert after.capitals == before.capitals
    assert after.candidate_seen == 0


def test_a_session_without_the_measure_moves_nothing():
    """A missing measure changes neither capitals nor mean nor counts."""
    before = opened(Question.WORSE)
    after = observe(before, outcome(Arm.CANDIDATE, None))
    assert (after.capitals, after.means, after.candidate_seen) == (before.capitals, before.means, 0)


def test_two_views_are_one_average():
    """Cost is the mean of both e-processes at each session, and its peak the peak of that mean."""
    plan = Plan(guards=(Guard(metric="cost", views=("a", "b")),), goal=None)
    rng = random.Random(4)
    sessions = [
        outcome(
            Arm.CANDIDATE if rng.random() < 0.3 else Arm.STABLE,
            None,
            0.3,
            a=float(rng.random() < 0.9),
            b=rng.random(),
        )
        for _ in range(400)
    ]
    (both,) = open_evidence(plan, Baseline())
    peak = 1.0
    for session in sessions:
        both = observe(both, session)
        peak = max(peak, sum(map(sum, both.capitals)) / 12)
    assert both.e == pytest.approx(sum(map(sum, both.capitals)) / 12)
    assert both.peak == pytest.approx(peak)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (
            Baseline(latency_us_p95=1.0, cost_nanos_p95=1.0, cost_limit_nanos=1),
            {"completion": 40, "errors": 120, "latency": 120, "cost": 120},
        ),
        (Baseline(), {"completion": 80 / 3, "errors": 80}),
    ],
)
def test_the_risk_is_split_over_the_active_guards(baseline, expected):
    """Half to completion when all are active; an inactive guard's share goes to the others."""
    tests = open_evidence(DEFAULT_PLAN, baseline, active(baseline))
    limits = thresholds(DEFAULT_PLAN, tests)
    worse = {metric: limit for (metric, what), limit in limits.items() if what is Question.WORSE}
    assert worse == pytest.approx(expected)
    assert sum(1 / limit for limit in worse.values()) == pytest.approx(DEFAULT_PLAN.risk)
    assert limits["completion", Question.NOT_WORSE] == pytest.approx(20)


def test_a_bad_candidate_is_found_and_a_good_one_proven():
    """0.92 → 0.60 is worse within 1,000 sessions; 0.92 → 0.92 is proven within 10,000."""
    plan = Plan(guards=ONE_GUARD.guards, goal=Goal())
    rng = random.Random(5)
    bad = [
        fold(test, list(stream(rng, 1000, weight=0.1, stable=0.92, candidate=0.6)))
        for test in open_evidence(plan, Baseline())
    ]
    assert verdict(plan, bad).worse is bad[0]
    sessions = list(stream(rng, 10_000, weight=0.5, stable=0.92, candidate=0.92))
    good = [fold(test, sessions) for test in open_evidence(plan, Baseline())]
    assert verdict(plan, good).proven is good[1]
    assert verdict(plan, good).worse is None


def test_the_effect_covers_the_truth():
    """0.92 against 0.80 under changing weights: -12 points lie in the interval."""
    rng = random.Random(6)
    test = opened(Question.WORSE)
    for weight in (0.1, 0.25, 0.5):
        test = fold(test, list(stream(rng, 2000, weight=weight, stable=0.92, candidate=0.80)))
    seen = effect(test)
    assert seen.low < -0.12 < seen.high < 0
    assert seen.high - seen.low < 0.12
    assert seen.candidate_mean == pytest.approx(0.80, abs=0.03)


def test_the_effect_of_nothing_is_wide_open():
    """Without sessions there is no mean and no bound."""
    seen = effect(opened(Question.WORSE))
    assert (seen.candidate_mean, seen.stable_mean) == (None, None)
    assert (seen.difference, seen.low, seen.high) == (0.0, -1.0, 1.0)


def splits(rng: random.Random, n: int, weight: float, share: float):
    """Sessions assigned at ``weight`` of which ``share`` met the candidate."""
    arms = (Arm.CANDIDATE if rng.random() < share else Arm.STABLE for _ in range(n))
    return [outcome(arm, 1.0, weight) for arm in arms]


def test_the_split_martingale_is_the_beta_mixture():
    """The product of factors equals the closed form with Beta functions."""

    def ln_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    after = fold_split(SplitEvidence(), splits(random.Random(8), 500, 0.1, 0.1))
    k, n = after.candidates, after.seen
    closed = ln_beta(10 + k, 90 + n - k) - ln_beta(10, 90)
    closed -= k * math.log(0.1) + (n - k) * math.log(0.9)
    assert math.log(after.capital) == pytest.approx(closed)


def test_a_broken_split_is_found_and_a_right_one_is_left_alone():
    """0.05 for 0.10 is found within 2,000 sessions; the right split is not, over two weights."""
    broken = fold_split(SplitEvidence(), splits(random.Random(9), 2000, 0.1, 0.05))
    assert mismatched(broken)
    rng = random.Random(10)
    right = fold_split(SplitEvidence(), splits(rng, 3000, 0.1, 0.1) + splits(rng, 3000, 0.5, 0.5))
    assert not mismatched(right)
    assert right.seen == 3000
    assert right.total_seen == 6000
    assert right.expected_candidates == pytest.approx(1800)


def test_measures_follow_the_baseline():
    """What is active, and what each measure says of an unresolved session and of a good one."""
    baseline = freeze(
        latencies_us=list(range(1, 101)),
        costs_nanos=[10.0] * 100,
        completions=[1.0] * 90 + [0.0] * 10,
        errors=5,
        cost_limit_nanos=40,
    )
    assert baseline.latency_us_p95 == 95
    assert baseline.means == pytest.approx({"completion": 0.9, "errors": 0.95, "cost_mean": 0.75})
    unresolved = measure(
        baseline, completion=0.0, errored=False, latency_us=None, cost_nanos=50, thumb=-1
    )
    assert unresolved == {
        "completion": 0.0,
        "errors": 1.0,
        "thumbs": 0.0,
        "latency": 0.0,
        "cost_exceedance": 0.0,
        "cost_mean": 0.0,
    }
    fine = measure(baseline, completion=1.0, errored=False, latency_us=118.75, cost_nanos=10)
    assert fine.keys() == active(baseline)
    assert fine["latency"] == fine["cost_exceedance"] == 1.0
    assert fine["cost_mean"] == 0.75


def test_a_baseline_of_few_sessions_has_no_quantiles():
    """Nineteen sessions say nothing about a 95th percentile, so those measures are inactive."""
    few = freeze(
        latencies_us=[1.0] * 19,
        costs_nanos=[1.0] * 19,
        completions=[1.0] * 19,
        errors=0,
        cost_limit_nanos=None,
    )
    assert active(few) == {"completion", "errors", "thumbs"}
