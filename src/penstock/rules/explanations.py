"""A decision told to a person, from the numbers that its audit entry keeps.

So a rollout can be explained at any later time, on any machine, from the record alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from penstock.domain.rollouts import Decision, Hold, Phase, Rollout

_SEE = "`penstock rollout {id}`"
_ADVICE = {
    Phase.ROLLING_BACK: "New sessions go to stable. Look at the candidate's failed sessions"
    f" ({_SEE}), mend it and start a new rollout; this one is over.",
    Phase.PROVEN: "Nothing is to be done, unless the last step waits for an approval.",
    Phase.PROMOTING: "New sessions go to the candidate; those that began on another release"
    " stay there.",
}
_HOLD_ADVICE = {
    Hold.SRM: "Find out why sessions do not reach the arms as planned (a client that retries, a"
    " cache, a bot); the comparison is not to be trusted. Abort, or promote by hand.",
    Hold.NO_DATA: "It goes on with the next session whose outcome is known.",
    Hold.SIGNAL: "Both arms have the same trouble, so it is likely not the candidate's: look at"
    " the providers and tools. It goes on when the run of failures is broken.",
    Hold.USER: "It goes on when it is resumed; a candidate that is shown to be worse is rolled"
    " back meanwhile.",
    Hold.APPROVAL: "Approve the step (`penstock resume`), or abort.",
    Hold.INCONCLUSIVE: "Promote it by hand (it is recorded as unproven), abort it, or let it run"
    " on: it is still promoted or rolled back when the evidence suffices.",
}


def explain(rollout: Rollout, decision: Decision, at_us: int) -> str:
    """A short paragraph: what was decided, when, on which evidence, and what to do.

    Args:
        rollout: As it was before the decision.
        decision: With its numbers, as recorded.
        at_us: When it was decided, in microseconds since 1970.
    """
    numbers = decision.numbers
    parts = [f"{_when(at_us)}: {decision.to_phase.replace('_', ' ')}. {decision.reason}"]
    if "question" in numbers:
        parts.append(_test(numbers))
    elif numbers.get("cause") == "hard_stop":
        parts.append(f"The run of bad tasks began at {_when(numbers['since_us'])}.")
    effects: Mapping[str, Mapping[str, Any]] = numbers.get("effects", {})
    completion = effects.get("completion/worse")
    if completion is not None and numbers.get("metric") != "completion":
        parts.append("Completion: " + _arms(completion))
    if "folded" in numbers:
        behind = numbers["assigned"] - numbers["folded"]
        parts.append(
            f"Running since {_when(rollout.started_us)}, at {rollout.weight:.0%} of new sessions;"
            f" {numbers['folded']} sessions are known, {behind} are not yet."
        )
    if numbers.get("proven") is False:
        parts.append("Recorded as unproven.")
    advice = _HOLD_ADVICE[decision.hold] if decision.hold else _ADVICE.get(decision.to_phase)
    if advice:
        parts.append(advice.replace("{id}", rollout.id))
    return " ".join(parts)


def _test(numbers: Mapping[str, Any]) -> str:
    odds = 1 / numbers["threshold"]
    claim = (
        f"a candidate that is no worse in {numbers['metric']} gets this far in at most {odds:.2%}"
        if numbers["question"] == "worse"
        else f"a candidate that is worse by {numbers['margin']:.0%} gets this far in at most"
        f" {odds:.2%}"
    )
    return (
        f"{numbers['metric'].capitalize()}: {_arms(numbers)} The e-value reached"
        f" {numbers['peak']:.3g} of the {numbers['threshold']:.3g} needed: {claim} of rollouts,"
        " however often one looks."
    )


def _arms(effect: Mapping[str, Any]) -> str:
    return (
        f"candidate {_share(effect['candidate_mean'])} of {effect['candidate_sessions']} sessions,"
        f" stable {_share(effect['stable_mean'])} of {effect['stable_sessions']};"
        f" difference {_points(effect['difference'])} points (about 95%:"
        f" {_points(effect['low'])} to {_points(effect['high'])})."
    )


def _share(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1%}"


def _points(difference: float) -> str:
    return f"{difference * 100:+.1f}"


def _when(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
