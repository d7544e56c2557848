"""What a session counts for in the evidence, and from when on.

A session's outcome is what is known when it has ended (and its evaluator has answered), or when the
horizon has passed since its assignment, whichever is first. Without an evaluator, or when it could
not answer, completion is: it ended, and no task of it failed.
"""

from __future__ import annotations

from penstock.domain.rollouts import Baseline, Outcome
from penstock.domain.sessions import SessionResult
from penstock.rules.measures import measure


def outcome(
    result: SessionResult, baseline: Baseline, *, horizon_seconds: float, now_us: int
) -> Outcome | None:
    """The outcome of a session, or nothing while it is not known yet."""
    resolved = result.closed and not result.waits_for_judge
    if not resolved and now_us < result.assigned_us + int(horizon_seconds * 1_000_000):
        return None
    return Outcome(
        arm=result.arm,
        weight=result.weight,
        position=result.position,
        metrics=measure(
            baseline,
            completion=_completion(result) if resolved else 0.0,
            errored=result.failures > 0,
            latency_us=float(result.busy_us) if result.closed else None,
            cost_nanos=float(result.cost_nanos),
            thumb=result.thumb,
        ),
    )


def _completion(result: SessionResult) -> float:
    if result.score is not None:
        return result.score
    return 1.0 if result.tasks > 0 and result.failures == 0 else 0.0
