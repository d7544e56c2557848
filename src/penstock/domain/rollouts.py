"""Rollouts: the plan of a move from stable to candidate, its state, and what it is decided on.

What follows from these records is decided in ``rules.rollouts`` (the state machine),
``rules.evidence`` (the statistics) and ``rules.assignments`` (who meets which arm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from penstock.domain.errors import Invalid

LEAST_CANDIDATE_SESSIONS = 100  # of a step that does not say


class Phase(StrEnum):
    """Where a rollout stands; drawn in ``rules.rollouts``."""

    DRAFT = "draft"  # written down, nothing asked for yet
    GATING = "gating"  # approvals, deep health, replay: before any traffic
    SHADOWING = "shadowing"  # copies of live inputs, answers discarded
    RAMPING = "ramping"  # the step's share of new sessions meets the candidate
    HOLDING = "holding"  # the same share, and no step forward, for the reason in ``hold``
    PROVEN = "proven"  # shown to be not worse; waits for nothing but an approval
    PROMOTING = "promoting"  # all new sessions go to the candidate; it is becoming stable
    LIVE = "live"  # the candidate is the stable release now
    ROLLING_BACK = "rolling_back"  # no new session meets the candidate
    ROLLED_BACK = "rolled_back"  # stable has everything again
    DRAINING = "draining"  # of no more use, sessions still pinned to it
    RETIRED = "retired"  # no session is pinned to it


ACTIVE_PHASES = frozenset(
    {
        Phase.DRAFT,
        Phase.GATING,
        Phase.SHADOWING,
        Phase.RAMPING,
        Phase.HOLDING,
        Phase.PROVEN,
        Phase.PROMOTING,
        Phase.ROLLING_BACK,
    }
)
"""The phases in which a rollout occupies its agent and environment."""


class Hold(StrEnum):
    """Why a rollout is holding."""

    SRM = "srm"  # sessions do not reach the arms in the planned proportion
    NO_DATA = "no_data"  # no session's outcome has become known for too long
    SIGNAL = "signal"  # a hard stop fired, and stable is not clearly free of the same trouble
    USER = "user"  # a person paused it
    APPROVAL = "approval"  # the next step needs a person's approval
    INCONCLUSIVE = "inconclusive"  # ``max_duration`` has passed without proof


class Verb(StrEnum):
    """What a person may ask of a rollout."""

    PROMOTE = "promote"  # now, without proof
    ABORT = "abort"  # roll back now
    PAUSE = "pause"
    RESUME = "resume"


class Strategy(StrEnum):
    """How the candidate gets its traffic."""

    CANARY = "canary"  # in rising shares, beside stable
    ALL_AT_ONCE = "all_at_once"  # everything, at once: nothing to compare with, so unproven


class Arm(StrEnum):
    """The two sides of a rollout."""

    STABLE = "stable"
    CANDIDATE = "candidate"


class Question(StrEnum):
    """What a running test tries to show."""

    WORSE = "worse"  # the candidate is worse by more than the margin: roll back
    NOT_WORSE = "not_worse"  # it is not worse by as much as the margin: promote


class OnInconclusive(StrEnum):
    """What happens when ``max_duration`` has passed without proof."""

    HOLD = "hold"
    ROLLBACK = "rollback"
    PROMOTE = "promote"


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A release that was stable, until when."""

    release: str  # digest
    until_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """A metric that must not get worse."""

    metric: str
    views: tuple[str, ...]  # measures (``rules.measures``) whose e-processes are averaged
    margin: float = 0.0  # worse by no more than this is let pass; absolute, of a value in [0, 1]
    risk_share: float = 1.0  # of the plan's risk, in proportion to the other active guards


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What has to be proven before all traffic moves."""

    metric: str = "completion"
    views: tuple[str, ...] = ("completion",)
    margin: float = 0.05  # "not worse by 5 points or more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A share of the new sessions, and how long it lasts at least."""

    weight: float  # share of new units that meet the candidate, in (0, 1]; 1 means promotion
    candidate_sessions: int = LEAST_CANDIDATE_SESSIONS  # known outcomes before it may be left
    approval: bool = False  # a person must approve before it begins


_SHIPPED_GUARDS = (
    Guard(metric="completion", views=("completion",), risk_share=0.5),
    Guard(metric="errors", views=("errors",), risk_share=0.5 / 3),
    Guard(metric="latency", views=("latency",), risk_share=0.5 / 3),
    Guard(metric="cost", views=("cost_exceedance", "cost_mean"), risk_share=0.5 / 3),
)
_SHIPPED_STEPS = (
    Step(weight=0.10, candidate_sessions=100),
    Step(weight=0.25, candidate_sessions=200),
    Step(weight=0.50, candidate_sessions=0),  # left by proof alone
    Step(weight=1.00, candidate_sessions=0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a rollout goes, fixed when it starts."""

    strategy: Strategy = Strategy.CANARY
    steps: tuple[Step, ...] = _SHIPPED_STEPS  # weights rise; without a step at 1, people promote
    guards: tuple[Guard, ...] = _SHIPPED_GUARDS
    goal: Goal | None = field(default_factory=Goal)  # none: only a person can promote
    risk: float = 0.05  # chance of ever rolling back a good release; of a wrong proof, too
    unit: str = "session"  # session | user: what is assigned, once
    horizon_seconds: float = 1800.0  # a session's outcome is what is known this long after
    quiet_seconds: float = 3600.0  # holds (no_data) when no outcome has come in for this long
    max_duration_seconds: float = 7 * 86400.0  # then ``on_inconclusive``
    on_inconclusive: OnInconclusive = OnInconclusive.HOLD


DEFAULT_PLAN = Plan()
"""What is shipped; the figures it earns are printed by ``make proof-statistics``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What was known of the stable release when the rollout started; frozen with it.

    A quantile that is ``None`` makes its measure inactive for the whole rollout.
    """

    sessions: int = 0  # sessions it was taken from
    latency_us_p95: float | None = None  # busy time of a session
    cost_nanos_p95: float | None = None  # cost of a session
    cost_limit_nanos: int | None = None  # what a session may cost at most; bounds the mean
    means: Mapping[str, float] = field(default_factory=dict)  # measure → mean, in [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One session's result as the analysis sees it."""

    arm: Arm
    weight: float  # as stored when the unit was assigned, never the present one
    position: int  # order of assignment
    metrics: Mapping[str, float]  # measure → value in [0, 1], higher is better


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A running test of one question about one metric: the state of a fold over sessions."""

    metric: str
    question: Question
    margin: float
    views: tuple[str, ...]  # measures that are averaged
    means: tuple[float, ...]  # predictable mean of each view, from earlier sessions only
    capitals: tuple[tuple[float, ...], ...]  # for each view, what each bet has grown to from 1
    seen: int = 0  # sessions folded in
    e: float = 1.0  # the e-value now: mean of all capitals
    peak: float = 1.0  # the greatest e-value so far: what the verdict looks at
    candidate_seen: int = 0
    candidate_sum: float = 0.0  # of the first view's values
    stable_seen: int = 0
    stable_sum: float = 0.0
    difference_sum: float = 0.0  # of the weighted differences (candidate - stable), first view
    difference_squares: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEvidence:
    """A running test of the split itself: do sessions reach the arms in proportion?"""

    weight: float = 0.0  # design share of the present segment
    candidates: int = 0  # of the present segment
    seen: int = 0  # of the present segment
    capital: float = 1.0  # the martingale now, over all segments
    peak: float = 1.0  # its greatest value
    expected_candidates: float = 0.0  # over all segments
    total_candidates: int = 0
    total_seen: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedTask:
    """A task of the rollout that reached a terminal state."""

    finished_us: int
    failed: bool  # did not complete
    cost_capped: bool = False  # was stopped by its cost limit


@dataclass(frozen=True, kw_only=True, slots=True)
class HardStopFacts:
    """The latest finished tasks of each arm, oldest first, whatever is folded."""

    candidate: tuple[FinishedTask, ...] = ()  # 50 are plenty
    stable: tuple[FinishedTask, ...] = ()  # as far back as the candidate's, or the last 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything ``rules.rollouts.advance`` looks at beside the rollout itself."""

    evidence: tuple[Evidence, ...] = ()  # one for each active guard, one for the goal
    split: SplitEvidence = field(default_factory=SplitEvidence)
    candidate_in_step: int = 0  # candidate sessions folded whose position is past step_since
    last_fold_us: int | None = None  # when the evidence last grew
    hard_stops: HardStopFacts = field(default_factory=HardStopFacts)
    approved: frozenset[int] = frozenset()  # indexes of steps that a person has approved


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A move from one release to another in one environment."""

    id: str
    agent: str
    environment: str
    stable: str  # release digest
    candidate: str  # release digest
    plan: Plan
    salt: str  # of its assignments; a new one for every rollout
    baseline: Baseline
    phase: Phase
    hold: Hold | None  # while it is holding
    step: int  # index in the plan's steps
    weight: float  # share of new units that meet the candidate
    step_since: int  # position at which the step began
    revision: int  # raised by every transition: what a compare-and-set compares
    assigned: int  # units assigned so far; the last position given out
    folded: int  # positions the evidence has seen
    reason: str  # the sentence of the last transition
    started_us: int
    phase_since_us: int
    ended_us: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One transition of a rollout, with the reason and the numbers behind it."""

    to_phase: Phase
    hold: Hold | None = None
    step: int
    weight: float  # share of new units from now on
    reason: str  # a sentence for a person
    numbers: Mapping[str, Any] = field(default_factory=dict)  # for the audit entry; JSON


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, every field written out."""
    goal = plan.goal
    return {
        "strategy": plan.strategy.value,
        "steps": [
            {
                "weight": step.weight,
                "candidate_sessions": step.candidate_sessions,
                "approval": step.approval,
            }
            for step in plan.steps
        ],
        "guards": [
            {
                "metric": guard.metric,
                "views": list(guard.views),
                "margin": guard.margin,
                "risk_share": guard.risk_share,
            }
            for guard in plan.guards
        ],
        "goal": None
        if goal is None
        else {"metric": goal.metric, "views": list(goal.views), "margin": goal.margin},
        "risk": plan.risk,
        "unit": plan.unit,
        "horizon_seconds": plan.horizon_seconds,
        "quiet_seconds": plan.quiet_seconds,
        "max_duration_seconds": plan.max_duration_seconds,
        "on_inconclusive": plan.on_inconclusive.value,
    }


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan a JSON object means; keys that are absent have the shipped value.

    A step may be a bare number (its weight); a guard or goal without ``views`` has its metric as
    its only view. ``all_at_once`` without steps is one step at 1.

    Raises:
        Invalid: A key is unknown, a value has the wrong type or is out of range, or the steps do
            not rise.
    """
    keys = plan_to_json(DEFAULT_PLAN).keys()
    if unknown := sorted(data.keys() - keys):
        raise Invalid(
            f"a rollout plan has no {', '.join(unknown)}", hint=f"it has {', '.join(sorted(keys))}"
        )
    parsed: dict[str, Any] = dict(data)
    try:
        if "strategy" in parsed:
            parsed["strategy"] = Strategy(parsed["strategy"])
        if parsed.get("strategy") is Strategy.ALL_AT_ONCE:
            parsed.setdefault("steps", [{"weight": 1.0, "candidate_sessions": 0}])
        if "on_inconclusive" in parsed:
            parsed["on_inconclusive"] = OnInconclusive(parsed["on_inconclusive"])
        if "steps" in parsed:
            parsed["steps"] = tuple(_step(step) for step in parsed["steps"])
        if "guards" in parsed:
            parsed["guards"] = tuple(Guard(**_with_views(guard)) for guard in parsed["guards"])
        if parsed.get("goal") is not None:
            parsed["goal"] = Goal(**_with_views(parsed["goal"]))
        plan = Plan(**parsed)
        _check(plan)
    except (TypeError, ValueError, KeyError) as error:
        raise Invalid(f"the rollout plan cannot be read: {error}") from error
    return plan


def _step(data: Any) -> Step:
    return Step(**data) if isinstance(data, Mapping) else Step(weight=float(data))


def _with_views(data: Mapping[str, Any]) -> dict[str, Any]:
    shipped = {guard.metric: guard.views for guard in _SHIPPED_GUARDS}
    metric = data["metric"]
    views = data.get("views", shipped.get(metric, (metric,)))
    return {**data, "views": tuple(views)}


def _check(plan: Plan) -> None:
    """Refuses a plan that cannot be followed."""
    weights = [step.weight for step in plan.steps]
    rising = all(low < high for low, high in pairwise(weights))
    metrics = [guard.metric for guard in plan.guards]
    margins = [guard.margin for guard in plan.guards] + ([plan.goal.margin] if plan.goal else [])
    canary = plan.strategy is Strategy.CANARY
    problems = {
        "there is no step": not weights,
        "a step's weight is not in (0, 1]": not all(0.0 < weight <= 1.0 for weight in weights),
        "the weights do not rise from step to step": not rising,
        "a canary's first step leaves stable no traffic": canary and weights[:1] == [1.0],
        "all_at_once has the one step 100%": not canary and weights != [1.0],
        "candidate_sessions is negative": any(step.candidate_sessions < 0 for step in plan.steps),
        "two guards watch the same metric": len(set(metrics)) < len(metrics),
        "a guard or goal has no views": not all(guard.views for guard in plan.guards)
        or (plan.goal is not None and not plan.goal.views),
        "a risk_share is not positive": any(guard.risk_share <= 0 for guard in plan.guards),
        "a margin is not in [0, 1)": not all(0.0 <= margin < 1.0 for margin in margins),
        "the goal's margin is 0, which nothing can prove": plan.goal is not None
        and plan.goal.margin == 0.0,
        "risk is not in (0, 0.5]": not 0.0 < plan.risk <= 0.5,  # noqa: PLR2004 - a coin's
        "unit is neither session nor user": plan.unit not in {"session", "user"},
        "quiet_seconds is shorter than the horizon": plan.quiet_seconds < plan.horizon_seconds,
        "horizon_seconds is not positive": plan.horizon_seconds <= 0,
        "max_duration_seconds is not positive": plan.max_duration_seconds <= 0,
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(problem)
