"""Do sessions reach the arms in the planned proportion? A sequential test of the split.

A Beta-mixture martingale on exposures: with the design share p, a prior worth 100 sessions centred
on it, and k candidates among the first n sessions of a segment, the next session multiplies the
capital by ``(100·p + k) / (100 + n) / p`` if it meets the candidate and by
``(100·(1-p) + n - k) / (100 + n) / (1-p)`` if it meets stable. The product telescopes to
``B(a0 + k, b0 + n - k) / B(a0, b0) / (p^k (1-p)^(n-k))``. When the weight changes a new segment
begins; martingales in sequence multiply. (The construction of Lindon and Malek, "Anytime-valid
inference for multinomial count data", for two arms.)

A mismatch says that the experiment is broken, not that the candidate is bad: it holds a rollout
and blocks its proof; it never rolls back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from penstock.domain.rollouts import Arm, Outcome, SplitEvidence

SPLIT_RISK = 0.001  # chance of ever holding a rollout whose split is right
_PRIOR_SESSIONS = 100.0
_SETTLED = 1e100  # beyond any threshold; betting stops, so the product cannot overflow


def fold_split(split: SplitEvidence, outcomes: Iterable[Outcome]) -> SplitEvidence:
    """The evidence after more sessions, in the order of their assignment.

    Sessions assigned at weight 0 or 1 say nothing about a split and are passed over.
    """
    weight, candidates, seen = split.weight, split.candidates, split.seen
    capital, peak = split.capital, split.peak
    expected, total_candidates, total_seen = 0.0, 0, 0
    for outcome in outcomes:
        p = outcome.weight
        if not 0.0 < p < 1.0:
            continue
        if p != weight:
            weight, candidates, seen = p, 0, 0
        met = outcome.arm is Arm.CANDIDATE
        if capital < _SETTLED:
            mass = _PRIOR_SESSIONS + seen
            if met:
                capital *= (_PRIOR_SESSIONS * p + candidates) / (mass * p)
            else:
                q = 1.0 - p
                capital *= (_PRIOR_SESSIONS * q + seen - candidates) / (mass * q)
            peak = max(peak, capital)
        candidates += met
        seen += 1
        expected += p
        total_candidates += met
        total_seen += 1
    return replace(
        split,
        weight=weight,
        candidates=candidates,
        seen=seen,
        capital=capital,
        peak=peak,
        expected_candidates=split.expected_candidates + expected,
        total_candidates=split.total_candidates + total_candidates,
        total_seen=split.total_seen + total_seen,
    )


def mismatched(split: SplitEvidence) -> bool:
    """Whether the split is shown to be wrong; latched, because its cause stays in the data."""
    return split.peak >= 1.0 / SPLIT_RISK
