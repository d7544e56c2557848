"""What is measured of a session, as values in [0, 1] where higher is better.

========================  =========================================================  ==============
measure                   value                                                      active
========================  =========================================================  ==============
``completion``            the evaluator's answer; without one, 1 if the session's    always
                          tasks ended without error and within their limits
``errors``                0 if a task ended in an error                              always
``thumbs``                0 if the user put the thumb down; no thumb is no complaint  always
``latency``               0 if the session was busy for longer than 1.25 x the       with the
                          stable release's frozen p95                                quantile
``cost_exceedance``       0 if it cost more than 1.25 x the frozen p95               with the
                                                                                     quantile
``cost_mean``             1 - cost/limit, cut at 0: the limit bounds the mean        with the limit
========================  =========================================================  ==============

The frozen quantile says only where the cut lies; both arms are compared at it, live. So a bad
quantile costs power, never validity. Which measures are active is settled by the baseline when
the rollout starts, and an active measure has a value for every session of either arm: one whose
latency is not known at the horizon is still running and counts as too slow.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.domain.rollouts import Baseline

TOLERANCE = 1.25  # how far above the frozen quantile a session counts as slow or dear
LEAST_BASELINE_SESSIONS = 20  # fewer say nothing about a 95th percentile


def active(baseline: Baseline) -> frozenset[str]:
    """The measures that every session of a rollout with this baseline has."""
    found = {"completion", "errors", "thumbs"}
    if baseline.latency_us_p95 is not None:
        found.add("latency")
    if baseline.cost_nanos_p95 is not None:
        found.add("cost_exceedance")
    if baseline.cost_limit_nanos:
        found.add("cost_mean")
    return frozenset(found)


def measure(
    baseline: Baseline,
    *,
    completion: float,
    errored: bool,
    latency_us: float | None,
    cost_nanos: float,
    thumb: int = 0,
) -> dict[str, float]:
    """Every active measure of one session.

    Args:
        baseline: Of the session's rollout.
        completion: In [0, 1]; 0 if the session is unresolved at the horizon.
        errored: Whether a task of it failed.
        latency_us: How long it was busy; ``None`` if it still is at the horizon.
        cost_nanos: What it has cost so far.
        thumb: -1, 0 or 1.
    """
    found = {
        "completion": min(max(completion, 0.0), 1.0),
        "errors": 0.0 if errored else 1.0,
        "thumbs": 0.0 if thumb < 0 else 1.0,
    }
    if baseline.latency_us_p95 is not None:
        slow = latency_us is None or latency_us > baseline.latency_us_p95 * TOLERANCE
        found["latency"] = 0.0 if slow else 1.0
    if baseline.cost_nanos_p95 is not None:
        found["cost_exceedance"] = 0.0 if cost_nanos > baseline.cost_nanos_p95 * TOLERANCE else 1.0
    if baseline.cost_limit_nanos:
        found["cost_mean"] = 1.0 - min(max(cost_nanos / baseline.cost_limit_nanos, 0.0), 1.0)
    return found


def freeze(
    *,
    latencies_us: Sequence[float],
    costs_nanos: Sequence[float],
    completions: Sequence[float],
    errors: int,
    cost_limit_nanos: int | None,
) -> Baseline:
    """The baseline of a stable release from its recent sessions.

    Args:
        latencies_us: Busy time of each session.
        costs_nanos: Cost of each session.
        completions: Completion of each session, in [0, 1].
        errors: How many of them had a task that failed.
        cost_limit_nanos: What a session may cost at most, if there is a limit.
    """
    sessions = len(completions)
    enough = sessions >= LEAST_BASELINE_SESSIONS
    latency = _p95(latencies_us) if enough else None
    cost = _p95(costs_nanos) if enough else None
    means: dict[str, float] = {}
    if sessions:
        means = {"completion": sum(completions) / sessions, "errors": 1.0 - errors / sessions}
    if sessions and cost_limit_nanos:
        spent = sum(min(value / cost_limit_nanos, 1.0) for value in costs_nanos)
        means["cost_mean"] = 1.0 - spent / sessions
    return Baseline(
        sessions=sessions,
        latency_us_p95=latency,
        cost_nanos_p95=cost,
        cost_limit_nanos=cost_limit_nanos,
        means=means,
    )


def _p95(values: Sequence[float]) -> float | None:
    """The smallest value that at least 95 % are not above."""
    ordered = sorted(values)
    return float(ordered[-(-len(ordered) * 95 // 100) - 1]) if ordered else None
