"""A rollout's state machine: what happens next, given the facts.

::

    begin ──► RAMPING(i) ──────────────► RAMPING(i+1)      the step's candidate sessions are known
                 │  ▲                                      and no guard is near its threshold
                 ▼  │ the cause is gone
              HOLDING(why)                                 the split stays; nothing moves forward
                 │
    RAMPING, HOLDING ──► PROVEN ──► PROMOTING ──► LIVE     the goal's e-process has crossed
                           │            │
    any of these ──────────┴────────────┴──► ROLLING_BACK ──► ROLLED_BACK

What is looked at, in this order:

1. A guard has shown the candidate to be worse, or a hard stop fired that stable is clearly free
   of: ROLLING_BACK. (Not in PROMOTING, where only a person may turn back.)
2. A person paused it: it waits for that person.
3. The goal is proven: PROVEN, and from there PROMOTING when the last step is 100 % and is
   approved. Neither while the split is broken (``srm``) or a hard stop is unresolved (``signal``).
4. ``max_duration`` has passed: ``on_inconclusive``.
5. HOLDING for ``srm``, ``signal``, ``approval`` or ``no_data``; back to RAMPING when it is over.
   ``srm`` is never over by itself.
6. The next step.

A step at 100 % is reached by proof, by a person (recorded as unproven) or by
``on_inconclusive: promote``; never by time alone, and never for lack of evidence. ``DRAFT``,
``GATING`` and ``SHADOWING`` come before this machine, ``DRAINING`` and ``RETIRED`` after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from penstock.domain.errors import Conflict
from penstock.domain.rollouts import (
    ACTIVE_PHASES,
    Decision,
    Evidence,
    Facts,
    Hold,
    OnInconclusive,
    Phase,
    Plan,
    Rollout,
    Strategy,
    Verb,
)
from penstock.rules.evidence import Verdicts, effect, verdict
from penstock.rules.hard_stops import Fired, Stop, fired
from penstock.rules.splits import SPLIT_RISK, mismatched

_WEIGHED = frozenset({Phase.RAMPING, Phase.HOLDING, Phase.PROVEN})
_STOP_WORDS = {
    Stop.CRASHES: "did not complete",
    Stop.COST_CAP: "were stopped by their cost limit",
}


def begin(plan: Plan) -> Decision:
    """The state a rollout starts in once its gates are passed."""
    first = plan.steps[0]
    if plan.strategy is Strategy.ALL_AT_ONCE:
        return Decision(
            to_phase=Phase.PROMOTING,
            step=0,
            weight=1.0,
            reason="All new sessions go to the candidate at once; nothing is proven.",
            numbers={"cause": "all_at_once", "proven": False},
        )
    return Decision(
        to_phase=Phase.RAMPING,
        step=0,
        weight=first.weight,
        reason=f"The first step: {first.weight:.0%} of new sessions.",
        numbers={"cause": "begin"},
    )


def advance(rollout: Rollout, facts: Facts, now_us: int) -> Decision | None:
    """The rollout's next transition, or ``None`` if it stays as it is."""
    if rollout.phase is Phase.ROLLING_BACK:
        return _move(rollout, Phase.ROLLED_BACK, "Stable has all new sessions.", {}, weight=0.0)
    if rollout.phase is Phase.PROMOTING:
        return _move(rollout, Phase.LIVE, "The candidate is the stable release.", {}, weight=1.0)
    if rollout.phase not in _WEIGHED:
        return None
    verdicts = verdict(rollout.plan, facts.evidence)
    stop = fired(facts.hard_stops)
    back = _back(rollout, facts, verdicts, stop)
    if back is not None or rollout.hold is Hold.USER:
        return back
    return _forward(rollout, facts, verdicts, stop, now_us)


def _back(
    rollout: Rollout, facts: Facts, verdicts: Verdicts, stop: Fired | None
) -> Decision | None:
    if verdicts.worse is not None:
        return _worse(rollout, facts, verdicts, verdicts.worse)
    if stop is not None and stop.roll_back:
        return _stopped(rollout, facts, stop)
    return None


def _forward(
    rollout: Rollout, facts: Facts, verdicts: Verdicts, stop: Fired | None, now_us: int
) -> Decision | None:
    broken = mismatched(facts.split)
    blocked = broken or stop is not None
    if verdicts.proven is not None and not blocked:
        return _proven(rollout, facts, verdicts, verdicts.proven)
    over = now_us - rollout.started_us >= rollout.plan.max_duration_seconds * 1e6
    # What blocks a proof also blocks a promotion, and is the better reason for holding.
    if over and (not blocked or rollout.plan.on_inconclusive is OnInconclusive.ROLLBACK):
        return _overdue(rollout, facts)
    if broken:
        return _hold_split(rollout, facts)
    if stop is not None:
        return _hold_signal(rollout, stop)
    if rollout.phase is Phase.PROVEN:
        return None  # what was proven does not begin to ramp again
    return _ramp(rollout, facts, verdicts, now_us)


def request(rollout: Rollout, verb: Verb) -> Decision:
    """What a person's wish does to a rollout.

    Raises:
        Conflict: The rollout is in a phase that does not allow it.
    """
    phase = rollout.phase
    if phase not in ACTIVE_PHASES:
        raise Conflict(
            f"rollout {rollout.id} has ended ({phase})",
            hint="start a new rollout, which may well lead back to an earlier release",
        )
    if verb is Verb.ABORT and phase is not Phase.ROLLING_BACK:
        return _move(
            rollout, Phase.ROLLING_BACK, "A person asked for it.", {"cause": "user"}, weight=0.0
        )
    if verb is Verb.PROMOTE and phase in _WEIGHED:
        proven = phase is Phase.PROVEN
        return _move(
            rollout,
            Phase.PROMOTING,
            "A person promoted it."
            if proven
            else "A person promoted it without waiting for proof.",
            {"cause": "user", "proven": proven},
            weight=1.0,
            step=len(rollout.plan.steps) - 1,
        )
    if verb is Verb.PAUSE and phase in _WEIGHED and rollout.hold is not Hold.USER:
        return _move(
            rollout, Phase.HOLDING, "A person paused it.", {"cause": "user"}, hold=Hold.USER
        )
    if verb is Verb.RESUME and rollout.hold is Hold.USER:
        return _move(rollout, Phase.RAMPING, "A person resumed it.", {"cause": "user"})
    state = phase if rollout.hold is None else f"{phase}: {rollout.hold}"
    raise Conflict(f"cannot {verb} rollout {rollout.id} ({state})", hint=_hint(rollout, verb))


def apply(rollout: Rollout, decision: Decision, now_us: int) -> Rollout:
    """The rollout after the decision; a new step begins after the last position given out."""
    stepped = decision.step != rollout.step or decision.weight != rollout.weight
    return replace(
        rollout,
        phase=decision.to_phase,
        hold=decision.hold,
        step=decision.step,
        weight=decision.weight,
        step_since=rollout.assigned if stepped else rollout.step_since,
        revision=rollout.revision + 1,
        reason=decision.reason,
        phase_since_us=now_us,
        ended_us=rollout.ended_us if decision.to_phase in ACTIVE_PHASES else now_us,
    )


def _hint(rollout: Rollout, verb: Verb) -> str | None:
    if verb is Verb.RESUME and rollout.hold is Hold.SRM:
        return "the split is broken and its evidence with it: abort, or promote it unproven"
    if verb is Verb.RESUME and rollout.hold is Hold.INCONCLUSIVE:
        return "its time is over: promote it unproven, or abort"
    if verb is Verb.RESUME and rollout.hold is not None:
        return "it goes on by itself when the reason is gone"
    if rollout.phase is Phase.PROMOTING:
        return "it is being promoted; only abort is possible"
    return None


def _worse(rollout: Rollout, facts: Facts, verdicts: Verdicts, test: Evidence) -> Decision:
    numbers = _test_numbers(test, verdicts) | _common(rollout, facts)
    return _move(
        rollout,
        Phase.ROLLING_BACK,
        f"The candidate is worse in {test.metric}: e-value {test.peak:.3g},"
        f" {numbers['threshold']:.3g} is enough.",
        {"cause": "guard", **numbers},
        weight=0.0,
    )


def _stopped(rollout: Rollout, facts: Facts, stop: Fired) -> Decision:
    return _move(
        rollout,
        Phase.ROLLING_BACK,
        f"The candidate's last {stop.run} tasks {_STOP_WORDS[stop.stop]};"
        f" on stable {stop.stable_bad} of {stop.stable_finished} in the same time.",
        {"cause": "hard_stop", **_stop_numbers(stop), **_common(rollout, facts)},
        weight=0.0,
    )


def _proven(rollout: Rollout, facts: Facts, verdicts: Verdicts, test: Evidence) -> Decision | None:
    numbers = _test_numbers(test, verdicts) | _common(rollout, facts) | {"proven": True}
    if rollout.phase is not Phase.PROVEN:
        return _move(
            rollout,
            Phase.PROVEN,
            f"The candidate is not worse in {test.metric} by {test.margin:.0%} or more:"
            f" e-value {test.peak:.3g}, {numbers['threshold']:.3g} is enough.",
            {"cause": "goal", **numbers},
        )
    last = len(rollout.plan.steps) - 1
    step = rollout.plan.steps[last]
    if step.weight < 1.0 or (step.approval and last not in facts.approved):
        return None
    return _move(
        rollout,
        Phase.PROMOTING,
        "All new sessions go to the candidate: it is proven.",
        {"cause": "goal", **numbers},
        weight=1.0,
        step=last,
    )


def _overdue(rollout: Rollout, facts: Facts) -> Decision | None:
    """What ``max_duration`` leads to."""
    choice = rollout.plan.on_inconclusive
    numbers = {"cause": "max_duration", "proven": False, **_common(rollout, facts)}
    if choice is OnInconclusive.ROLLBACK:
        return _move(
            rollout,
            Phase.ROLLING_BACK,
            "Not proven within max_duration; the plan says to roll back.",
            numbers,
            weight=0.0,
        )
    if choice is OnInconclusive.PROMOTE:
        return _move(
            rollout,
            Phase.PROMOTING,
            "Not proven within max_duration; the plan says to promote. Nothing is proven.",
            numbers,
            weight=1.0,
            step=len(rollout.plan.steps) - 1,
        )
    return _hold(rollout, Hold.INCONCLUSIVE, "Not proven within max_duration.", numbers)


def _hold_split(rollout: Rollout, facts: Facts) -> Decision | None:
    split = facts.split
    return _hold(
        rollout,
        Hold.SRM,
        f"The split is broken: {split.total_candidates} of {split.total_seen} sessions met the"
        f" candidate, {split.expected_candidates:.0f} were to be expected.",
        {"cause": "srm", "threshold": 1 / SPLIT_RISK, **asdict(split)},
    )


def _hold_signal(rollout: Rollout, stop: Fired) -> Decision | None:
    return _hold(
        rollout,
        Hold.SIGNAL,
        f"The candidate's last {stop.run} tasks {_STOP_WORDS[stop.stop]}, but stable is not"
        f" clearly better: {stop.stable_bad} of {stop.stable_finished} in the same time.",
        {"cause": "hard_stop", **_stop_numbers(stop)},
    )


def _ramp(rollout: Rollout, facts: Facts, verdicts: Verdicts, now_us: int) -> Decision | None:
    """The next step, a hold that concerns it, or back from a hold that is over."""
    plan = rollout.plan
    step = plan.steps[rollout.step]
    after = rollout.step + 1
    partial = after < len(plan.steps) and plan.steps[after].weight < 1.0
    ready = partial and facts.candidate_in_step >= step.candidate_sessions and not verdicts.alarms
    if ready and plan.steps[after].approval and after not in facts.approved:
        return _hold(
            rollout,
            Hold.APPROVAL,
            f"The step to {plan.steps[after].weight:.0%} waits for a person's approval.",
            {"cause": "approval"},
        )
    if _is_quiet(rollout, facts, now_us):
        quiet = f"No session's outcome has become known for {plan.quiet_seconds / 60:.0f} minutes."
        return _hold(rollout, Hold.NO_DATA, quiet, {"cause": "no_data"})
    if ready:
        weight = plan.steps[after].weight
        return _move(
            rollout,
            Phase.RAMPING,
            f"{facts.candidate_in_step} candidate sessions at {step.weight:.0%} show nothing"
            f" against it; on to {weight:.0%}.",
            {
                "cause": "step",
                "candidate_in_step": facts.candidate_in_step,
                **_common(rollout, facts),
            },
            weight=weight,
            step=after,
        )
    if rollout.phase is Phase.HOLDING:
        was = f" ({rollout.hold})" if rollout.hold else ""
        return _move(
            rollout, Phase.RAMPING, f"The reason to hold is gone{was}.", {"cause": "hold_over"}
        )
    return None


def _is_quiet(rollout: Rollout, facts: Facts, now_us: int) -> bool:
    """Whether outcomes have stopped coming in; a hold for it ends with the next one."""
    last_us = max(rollout.started_us, facts.last_fold_us or 0)
    if rollout.hold is Hold.NO_DATA:
        return last_us <= rollout.phase_since_us
    if rollout.phase is Phase.RAMPING:
        last_us = max(last_us, rollout.phase_since_us)
    return now_us - last_us >= rollout.plan.quiet_seconds * 1e6


def _hold(rollout: Rollout, why: Hold, reason: str, numbers: Mapping[str, Any]) -> Decision | None:
    if rollout.hold is why:
        return None
    return _move(rollout, Phase.HOLDING, reason, numbers, hold=why)


def _move(
    rollout: Rollout,
    phase: Phase,
    reason: str,
    numbers: Mapping[str, Any],
    *,
    hold: Hold | None = None,
    weight: float | None = None,
    step: int | None = None,
) -> Decision:
    return Decision(
        to_phase=phase,
        hold=hold,
        step=rollout.step if step is None else step,
        weight=rollout.weight if weight is None else weight,
        reason=reason,
        numbers=numbers,
    )


def _common(rollout: Rollout, facts: Facts) -> dict[str, Any]:
    """What every weighty transition records: how far it got, and the effect in each metric."""
    return {
        "assigned": rollout.assigned,
        "folded": rollout.folded,
        "weight_before": rollout.weight,
        "effects": {
            f"{test.metric}/{test.question}": {"e": test.e, **asdict(effect(test))}
            for test in facts.evidence
        },
    }


def _test_numbers(test: Evidence, verdicts: Verdicts) -> dict[str, Any]:
    return {
        "metric": test.metric,
        "question": test.question.value,
        "margin": test.margin,
        "e": test.e,
        "peak": test.peak,
        "threshold": verdicts.thresholds[test.metric, test.question],
        **asdict(effect(test)),
    }


def _stop_numbers(stop: Fired) -> dict[str, Any]:
    return {
        "stop": stop.stop.value,
        "run": stop.run,
        "since_us": stop.since_us,
        "stable_bad": stop.stable_bad,
        "stable_finished": stop.stable_finished,
    }
