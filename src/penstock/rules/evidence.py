"""Is the candidate worse, or not worse? A betting e-process on a weighted difference.

Sessions are folded in the order of their assignment. For a session with outcome ``y`` in [0, 1]
(higher is better), assigned to the candidate with the stored probability ``w``, and a mean ``m``
that was computed from earlier sessions only, the weighted difference ::

    D = (y - m) / w           if it met the candidate
    D = (m - y) / (1 - w)     if it met stable

has the expectation θ_candidate - θ_stable whatever ``m`` is, also while both arms drift. Against
each null hypothesis several bets λ multiply a capital that starts at 1 by ``1 + λ·r``, where r is
scaled so that it is never below -1 and its expectation is never above 0 under the null::

    worse       null θ_c ≥ θ_s - margin    r = -(margin + D) / (margin + max((1-m)/w, m/(1-w)))
    not worse   null θ_c ≤ θ_s - margin    r =  (margin + D) / (max(m/w, (1-m)/(1-w)) - margin)

The mean of the capitals, the *e-value*, is then a non-negative supermartingale that starts at 1:
the chance that it EVER reaches 1/risk is at most risk (Ville), however often one looks. Hence the
latched ``peak`` is what a verdict looks at. (Waudby-Smith and Ramdas 2024, "Estimating means of
bounded random variables by betting"; Waudby-Smith et al., "Anytime-valid off-policy inference".)

Capitals are plain products. One that underflows to 0 errs on the safe side; one whose e-value has
passed ``SETTLED`` stops betting, which any martingale may, so none overflows.

What is not folded: a session whose weight is 0 or 1 (it has no counterpart), and a session that
lacks the measure. The first is known before the outcome is. The second is valid only if the lack
has nothing to do with the arm, so a measure is active for a whole rollout or not at all
(``rules.measures``), and an active one always has a value: what is unresolved at the horizon
counts as the worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from operator import add
from typing import NamedTuple

from penstock.domain.rollouts import Arm, Baseline, Evidence, Outcome, Plan, Question

BETS: Mapping[Question, tuple[float, float, float, float, float, float]] = {
    Question.WORSE: (0.02, 0.05, 0.1, 0.2, 0.4, 0.7),
    Question.NOT_WORSE: (0.1, 0.2, 0.3, 0.45, 0.65, 0.9),
}
"""The λ of each question: small ones find small differences, large ones find large ones soon."""

SETTLED = 1e100  # an e-value beyond any threshold; betting stops
PRIOR_SESSIONS = 10  # sessions that the starting mean is worth
START_MEAN = 0.9  # of a measure the baseline does not know
_LEAST_MEAN, _GREATEST_MEAN = 0.02, 0.98
_TIGHTEST_SESSIONS = 1000  # where the interval of a report is narrowest


def open_evidence(
    plan: Plan, baseline: Baseline, active: Iterable[str] | None = None
) -> tuple[Evidence, ...]:
    """The tests a rollout runs, before its first session.

    Args:
        plan: The guards ask "worse", the goal asks "not worse".
        baseline: Its means are where the predictable means start.
        active: The measures every session of this rollout will have (``rules.measures.active``);
            ``None`` means all. A guard without an active view has no test.
    """
    present = None if active is None else set(active)

    def opened(
        question: Question, metric: str, margin: float, views: Sequence[str]
    ) -> list[Evidence]:
        kept = tuple(view for view in views if present is None or view in present)
        if not kept:
            return []
        return [
            Evidence(
                metric=metric,
                question=question,
                margin=margin,
                views=kept,
                means=tuple(baseline.means.get(view, START_MEAN) for view in kept),
                capitals=tuple((1.0,) * len(BETS[question]) for _ in kept),
            )
        ]

    tests = [
        test
        for guard in plan.guards
        for test in opened(Question.WORSE, guard.metric, guard.margin, guard.views)
    ]
    if plan.goal is not None:
        goal = plan.goal
        tests += opened(Question.NOT_WORSE, goal.metric, goal.margin, goal.views)
    return tuple(tests)


def observe(evidence: Evidence, outcome: Outcome) -> Evidence:
    """The evidence after one more session."""
    return fold(evidence, (outcome,))


def fold(evidence: Evidence, outcomes: Sequence[Outcome]) -> Evidence:
    """The evidence after more sessions, in the order of their assignment.

    The same as observing one by one: the peak sees every session, however they are batched.
    """
    if not outcomes:
        return evidence
    means: list[float] = []
    capitals: list[tuple[float, ...]] = []
    paths: list[list[float]] = []
    tally = _Tally(0, 0.0, 0, 0.0, 0.0, 0.0)
    for index, view in enumerate(evidence.views):
        steps = _steps(evidence, view, evidence.means[index], outcomes)
        capital, path = _grow(evidence.capitals[index], BETS[evidence.question], steps.ratios)
        means.append(steps.mean)
        capitals.append(capital)
        paths.append(path)
        if index == 0:
            tally = steps.tally
    total = paths[0]
    for path in paths[1:]:
        total = list(map(add, total, path))
    return replace(
        evidence,
        means=tuple(means),
        capitals=tuple(capitals),
        seen=evidence.seen + len(outcomes),
        e=total[-1] / len(paths),
        peak=max(evidence.peak, max(total) / len(paths)),
        candidate_seen=evidence.candidate_seen + tally.candidate_seen,
        candidate_sum=evidence.candidate_sum + tally.candidate_sum,
        stable_seen=evidence.stable_seen + tally.stable_seen,
        stable_sum=evidence.stable_sum + tally.stable_sum,
        difference_sum=evidence.difference_sum + tally.difference_sum,
        difference_squares=evidence.difference_squares + tally.difference_squares,
    )


class _Tally(NamedTuple):
    candidate_seen: int
    candidate_sum: float
    stable_seen: int
    stable_sum: float
    difference_sum: float
    difference_squares: float


class _Steps(NamedTuple):
    ratios: list[float]  # r of each session; 0, which moves nothing, for one that is not folded
    mean: float
    tally: _Tally


def _steps(evidence: Evidence, view: str, mean: float, outcomes: Sequence[Outcome]) -> _Steps:
    """What each session is worth to a bet of 1, by the formulas of the module's docstring."""
    worse = evidence.question is Question.WORSE
    margin = evidence.margin
    candidate = Arm.CANDIDATE
    known = evidence.candidate_seen + evidence.stable_seen + PRIOR_SESSIONS
    candidate_seen = stable_seen = 0
    candidate_sum = stable_sum = difference_sum = difference_squares = 0.0
    ratios: list[float] = []
    for outcome in outcomes:
        y = outcome.metrics.get(view)
        w = outcome.weight
        if y is None or not 0.0 < w < 1.0:
            ratios.append(0.0)
            continue
        # Comparisons instead of min() and max(): a call costs more than the arithmetic here.
        m = mean if mean > _LEAST_MEAN else _LEAST_MEAN  # noqa: FURB136 - see above
        m = m if m < _GREATEST_MEAN else _GREATEST_MEAN  # noqa: FURB136 - see above
        v = 1.0 - w
        if outcome.arm is candidate:
            difference = (y - m) / w
            candidate_seen += 1
            candidate_sum += y
        else:
            difference = (m - y) / v
            stable_seen += 1
            stable_sum += y
        difference_sum += difference
        difference_squares += difference * difference
        if worse:
            up, down = (1.0 - m) / w, m / v
            bound = up if up > down else down  # noqa: FURB136 - see above
            ratios.append(-(margin + difference) / (margin + bound))
        else:
            up, down = m / w, (1.0 - m) / v
            bound = up if up > down else down  # noqa: FURB136 - see above
            ratios.append((margin + difference) / (bound - margin))
        mean += (y - mean) / (known + 1)  # after its use
        known += 1
    tally = _Tally(
        candidate_seen, candidate_sum, stable_seen, stable_sum, difference_sum, difference_squares
    )
    return _Steps(ratios, mean, tally)


def _grow(
    capitals: tuple[float, ...],
    bets: tuple[float, float, float, float, float, float],
    ratios: list[float],
) -> tuple[tuple[float, ...], list[float]]:
    """The capitals after these ratios, and their mean after each; unrolled because it is hot."""
    k1, k2, k3, k4, k5, k6 = capitals
    b1, b2, b3, b4, b5, b6 = bets
    e = (k1 + k2 + k3 + k4 + k5 + k6) / 6.0
    path: list[float] = []
    for r in ratios:
        if e < SETTLED:
            k1 *= 1.0 + b1 * r
            k2 *= 1.0 + b2 * r
            k3 *= 1.0 + b3 * r
            k4 *= 1.0 + b4 * r
            k5 *= 1.0 + b5 * r
            k6 *= 1.0 + b6 * r
            e = (k1 + k2 + k3 + k4 + k5 + k6) / 6.0
        path.append(e)
    return (k1, k2, k3, k4, k5, k6), path


def thresholds(plan: Plan, evidence: Iterable[Evidence]) -> dict[tuple[str, Question], float]:
    """The e-value at which each test has its answer.

    The plan's risk is split over the guards that are active, in proportion to their shares
    (e-Bonferroni with unequal shares: the sum over guards of 1/threshold is the risk). The goal's
    proof has the whole risk, of its own kind: promoting a release that is worse by the margin.
    """
    tests = tuple(evidence)
    shares = {guard.metric: guard.risk_share for guard in plan.guards}
    active = [test.metric for test in tests if test.question is Question.WORSE]
    whole = sum(shares[metric] for metric in active)
    found = {(metric, Question.WORSE): whole / (plan.risk * shares[metric]) for metric in active}
    for test in tests:
        if test.question is Question.NOT_WORSE:
            found[test.metric, Question.NOT_WORSE] = 1.0 / plan.risk
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """What the evidence says now."""

    worse: Evidence | None  # the guard furthest past its threshold
    proven: Evidence | None  # the goal, once it is
    alarms: tuple[Evidence, ...]  # guards that stand at a quarter of their threshold or more
    thresholds: Mapping[tuple[str, Question], float]


ALARM = 0.25  # of the threshold: from here a guard keeps the rollout on its step
LEAST_PROOF_SESSIONS = 20  # of each arm: a proof about sessions nobody has seen is none


def verdict(plan: Plan, evidence: Iterable[Evidence]) -> Verdicts:
    """Which guard has found the candidate worse, whether the goal is proven, what is near."""
    tests = tuple(evidence)
    limits = thresholds(plan, tests)
    worse: Evidence | None = None
    proven: Evidence | None = None
    alarms: list[Evidence] = []
    furthest = 1.0
    for test in tests:
        limit = limits[test.metric, test.question]
        if test.question is Question.NOT_WORSE:
            seen = min(test.candidate_seen, test.stable_seen)
            if test.peak >= limit and seen >= LEAST_PROOF_SESSIONS:
                proven = test
            continue
        if test.peak >= limit * furthest:
            worse, furthest = test, test.peak / limit
        if test.e >= limit * ALARM:
            alarms.append(test)
    return Verdicts(worse=worse, proven=proven, alarms=tuple(alarms), thresholds=limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """How far the arms are apart in one measure, for a report; no verdict looks at it."""

    candidate_sessions: int
    candidate_mean: float | None  # None without sessions
    stable_sessions: int
    stable_mean: float | None
    difference: float  # candidate - stable, weighted by the assignment; 0 without sessions
    low: float  # of the confidence sequence
    high: float


def effect(evidence: Evidence, risk: float = 0.05) -> Effect:
    """The weighted difference of the first view, with a confidence sequence at ``1 - risk``.

    The estimate is the mean of the weighted differences, unbiased under drift and changing
    weights. The sequence is the asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
    ("Time-uniform central limit theory and asymptotic confidence sequences", eq. for the
    boundary), tuned to be narrowest near 1,000 sessions and cut to [-1, 1]: it may be read at any
    time, but it is an approximation, which is why verdicts use the e-process instead.
    """
    n = evidence.candidate_seen + evidence.stable_seen
    mean = evidence.difference_sum / n if n else 0.0
    width = 1.0
    if n > 1:
        variance = max(evidence.difference_squares / n - mean * mean, 1e-12)
        rho = (-2 * log(risk) + log(-2 * log(risk)) + 1) / _TIGHTEST_SESSIONS
        inner = n * rho + 1
        width = sqrt(variance * 2 * inner / (n * n * rho) * log(sqrt(inner) / risk))
    return Effect(
        candidate_sessions=evidence.candidate_seen,
        candidate_mean=_mean(evidence.candidate_sum, evidence.candidate_seen),
        stable_sessions=evidence.stable_seen,
        stable_mean=_mean(evidence.stable_sum, evidence.stable_seen),
        difference=mean,
        low=max(-1.0, mean - width),
        high=min(1.0, mean + width),
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
