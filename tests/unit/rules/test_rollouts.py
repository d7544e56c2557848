"""The state machine as tables: phase and facts, then the decision."""

from dataclasses import replace

import pytest

from penstock.domain.errors import Conflict, Invalid
from penstock.domain.rollouts import (
    DEFAULT_PLAN,
    Baseline,
    Evidence,
    Facts,
    FinishedTask,
    HardStopFacts,
    Hold,
    OnInconclusive,
    Phase,
    Plan,
    Question,
    Rollout,
    SplitEvidence,
    Step,
    Strategy,
    Verb,
    plan_from_json,
    plan_to_json,
)
from penstock.rules.explanations import explain
from penstock.rules.hard_stops import Stop, fired
from penstock.rules.rollouts import advance, apply, begin, request

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE


def rollout(**changes) -> Rollout:
    """One that ramps at its first step."""
    start = Rollout(
        id="rol_1",
        agent="support",
        environment="production",
        stable="sha256:a",
        candidate="sha256:b",
        plan=DEFAULT_PLAN,
        salt="salt",
        baseline=Baseline(),
        phase=Phase.RAMPING,
        hold=None,
        step=0,
        weight=0.1,
        step_since=0,
        revision=3,
        assigned=1200,
        folded=1150,
        reason="",
        started_us=0,
        phase_since_us=0,
        ended_us=None,
    )
    return replace(start, **changes)


def evidence_of(
    question: Question, *, e: float = 1.0, peak: float | None = None, metric="completion"
) -> Evidence:
    """A test that stands at ``e``, with the counts of a day."""
    return Evidence(
        metric=metric,
        question=question,
        margin=0.0 if question is Question.WORSE else 0.05,
        views=(metric,),
        means=(0.9,),
        capitals=((e,) * 6,),
        seen=1150,
        e=e,
        peak=max(e, 1.0) if peak is None else peak,
        candidate_seen=115,
        candidate_sum=75.0,
        stable_seen=1035,
        stable_sum=950.0,
        difference_sum=-300.0,
        difference_squares=9000.0,
    )


CALM = (evidence_of(Question.WORSE), evidence_of(Question.NOT_WORSE))
WORSE = (evidence_of(Question.WORSE, e=25.0), evidence_of(Question.NOT_WORSE))
PROVEN = (evidence_of(Question.WORSE), evidence_of(Question.NOT_WORSE, e=25.0))
BOTH = (evidence_of(Question.WORSE, e=25.0), evidence_of(Question.NOT_WORSE, e=25.0))
ALARM = (evidence_of(Question.WORSE, e=8.0), evidence_of(Question.NOT_WORSE))
BROKEN = SplitEvidence(weight=0.1, peak=2000.0, total_seen=100, total_candidates=2)


def tasks(pattern: str, *, start: int = 0, every: int = 10) -> tuple[FinishedTask, ...]:
    """``.`` completed, ``x`` failed, ``$`` stopped by its cost limit."""
    return tuple(
        FinishedTask(finished_us=start + n * every, failed=c != ".", cost_capped=c == "$")
        for n, c in enumerate(pattern)
    )


def facts(evidence=CALM, **changes) -> Facts:
    """Facts in which nothing but the given is remarkable."""
    return replace(Facts(evidence=evidence, last_fold_us=0), **changes)


CRASHED = HardStopFacts(candidate=tasks("." + "x" * 10), stable=tasks("." * 100, every=1))
CRASHED_BOTH = HardStopFacts(candidate=tasks("x" * 10), stable=tasks(".x.x." * 20, every=1))


@pytest.mark.parametrize(
    ("before", "seen", "phase", "hold", "weight"),
    [
        pytest.param(rollout(), facts(), None, None, None, id="nothing happens"),
        pytest.param(rollout(), facts(WORSE), "rolling_back", None, 0.0, id="worse"),
        pytest.param(rollout(), facts(BOTH), "rolling_back", None, 0.0, id="worse beats proven"),
        pytest.param(rollout(), facts(PROVEN), "proven", None, 0.1, id="proven at the first step"),
        pytest.param(
            rollout(), facts(candidate_in_step=99), None, None, None, id="too few for a step"
        ),
        pytest.param(
            rollout(), facts(candidate_in_step=100), "ramping", None, 0.25, id="next step"
        ),
        pytest.param(
            rollout(), facts(ALARM, candidate_in_step=100), None, None, None, id="alarm keeps step"
        ),
        pytest.param(
            rollout(step=2, weight=0.5),
            facts(candidate_in_step=10_000),
            None,
            None,
            None,
            id="100% only by proof",
        ),
        pytest.param(rollout(), facts(split=BROKEN), "holding", "srm", 0.1, id="broken split"),
        pytest.param(
            rollout(), facts(PROVEN, split=BROKEN), "holding", "srm", 0.1, id="srm blocks proof"
        ),
        pytest.param(
            rollout(),
            facts(WORSE, split=BROKEN),
            "rolling_back",
            None,
            0.0,
            id="srm blocks no rollback",
        ),
        pytest.param(
            rollout(), facts(hard_stops=CRASHED), "rolling_back", None, 0.0, id="crash streak"
        ),
        pytest.param(
            rollout(), facts(hard_stops=CRASHED_BOTH), "holding", "signal", 0.1, id="both arms"
        ),
        pytest.param(
            rollout(phase=Phase.HOLDING, hold=Hold.SIGNAL),
            facts(hard_stops=CRASHED_BOTH),
            None,
            None,
            None,
            id="signal persists",
        ),
        pytest.param(
            rollout(phase=Phase.HOLDING, hold=Hold.SIGNAL),
            facts(),
            "ramping",
            None,
            0.1,
            id="signal over",
        ),
        pytest.param(
            rollout(phase=Phase.HOLDING, hold=Hold.SIGNAL),
            facts(hard_stops=CRASHED),
            "rolling_back",
            None,
            0.0,
            id="stable has recovered",
        ),
        pytest.param(
            rollout(phase=Phase.HOLDING, hold=Hold.USER),
            facts(PROVEN, candidate_in_step=1000),
            None,
            None,
            None,
            id="a pause holds a proof",
        ),
        pytest.param(
            rollout(phase=Phase.HOLDING, hold=Hold.USER),
            facts(WORSE),
            "rolling_back",
            None,
            0.0,
            id="a pause holds no rollback",
        ),
        pytest.param(
            rollout(phase=Phase.PROVEN), facts(PROVEN), "promoting", None, 1.0, id="promotes"
        ),
        pytest.param(
            rollout(phase=Phase.PROVEN), facts(BOTH), "rolling_back", None, 0.0, id="proven, worse"
        ),
        pytest.param(
            rollout(phase=Phase.PROMOTING, step=3, weight=1.0),
            facts(WORSE),
            "live",
            None,
            1.0,
            id="live",
        ),
        pytest.param(
            rollout(phase=Phase.ROLLING_BACK, weight=0.0),
            facts(),
            "rolled_back",
            None,
            0.0,
            id="back",
        ),
        *(
            pytest.param(rollout(phase=phase), facts(WORSE), None, None, None, id=f"{phase} rests")
            for phase in (Phase.LIVE, Phase.ROLLED_BACK, Phase.DRAFT, Phase.RETIRED)
        ),
    ],
)
def test_advance(before, seen, phase, hold, weight):
    """What follows from a phase and the facts, one minute after the start."""
    decision = advance(before, seen, MINUTE)
    if phase is None:
        assert decision is None
        return
    assert decision is not None
    assert (decision.to_phase, decision.hold, decision.weight) == (phase, hold, weight)
    assert decision.reason.endswith(".")


@pytest.mark.parametrize(
    ("choice", "evidence", "split", "phase", "hold"),
    [
        ("hold", CALM, SplitEvidence(), "holding", "inconclusive"),
        ("rollback", CALM, SplitEvidence(), "rolling_back", None),
        ("promote", CALM, SplitEvidence(), "promoting", None),
        ("hold", (), SplitEvidence(), "holding", "inconclusive"),
        ("promote", CALM, BROKEN, "holding", "srm"),
        ("rollback", CALM, BROKEN, "rolling_back", None),
        ("rollback", PROVEN, SplitEvidence(), "proven", None),
    ],
)
def test_after_max_duration(choice, evidence, split, phase, hold):
    """The plan's choice is taken, a proof comes before it, and a broken split is not promoted."""
    plan = replace(DEFAULT_PLAN, on_inconclusive=OnInconclusive(choice))
    decision = advance(rollout(plan=plan), facts(evidence, split=split), 7 * DAY)
    assert decision is not None
    assert (decision.to_phase, decision.hold) == (phase, hold)
    if phase == "promoting":
        assert decision.numbers["proven"] is False
        assert decision.weight == 1.0


def test_no_data_holds_and_the_next_outcome_resumes():
    """An hour without a known outcome holds; one outcome later it ramps on."""
    held = advance(rollout(), facts(last_fold_us=None), 60 * MINUTE)
    assert held is not None
    assert (held.to_phase, held.hold) == (Phase.HOLDING, Hold.NO_DATA)
    waiting = apply(rollout(), held, 60 * MINUTE)
    assert advance(waiting, facts(last_fold_us=None), 90 * MINUTE) is None
    resumed = advance(waiting, facts(last_fold_us=91 * MINUTE), 91 * MINUTE)
    assert resumed is not None
    assert resumed.to_phase is Phase.RAMPING


def test_an_approval_is_waited_for_and_then_taken():
    """A step that needs a person holds until that step is approved, and then begins."""
    steps = (Step(weight=0.1), Step(weight=0.5, approval=True), Step(weight=1.0, approval=True))
    plan = replace(DEFAULT_PLAN, steps=steps)
    seen = facts(candidate_in_step=100)
    held = advance(rollout(plan=plan), seen, MINUTE)
    assert held is not None
    assert held.hold is Hold.APPROVAL
    waiting = apply(rollout(plan=plan), held, MINUTE)
    assert advance(waiting, seen, 2 * MINUTE) is None
    taken = advance(waiting, replace(seen, approved=frozenset({1})), 3 * MINUTE)
    assert taken is not None
    assert (taken.to_phase, taken.step, taken.weight) == (Phase.RAMPING, 1, 0.5)
    proven = rollout(plan=plan, phase=Phase.PROVEN)
    assert advance(proven, facts(PROVEN), MINUTE) is None
    last = advance(proven, facts(PROVEN, approved=frozenset({2})), MINUTE)
    assert last is not None
    assert (last.to_phase, last.step, last.weight) == (Phase.PROMOTING, 2, 1.0)


def test_a_plan_without_a_last_step_is_promoted_by_people_only():
    """Proven, it stays where it is."""
    plan = replace(DEFAULT_PLAN, steps=(Step(weight=0.5),))
    assert advance(rollout(plan=plan, phase=Phase.PROVEN), facts(PROVEN), 30 * DAY) is None


@pytest.mark.parametrize(
    ("before", "verb", "phase"),
    [
        (rollout(), Verb.PROMOTE, Phase.PROMOTING),
        (rollout(phase=Phase.HOLDING, hold=Hold.SRM), Verb.PROMOTE, Phase.PROMOTING),
        (rollout(phase=Phase.PROVEN), Verb.PROMOTE, Phase.PROMOTING),
        (rollout(), Verb.PAUSE, Phase.HOLDING),
        (rollout(phase=Phase.HOLDING, hold=Hold.USER), Verb.RESUME, Phase.RAMPING),
        (rollout(phase=Phase.GATING), Verb.ABORT, Phase.ROLLING_BACK),
        (rollout(phase=Phase.PROMOTING), Verb.ABORT, Phase.ROLLING_BACK),
        (rollout(phase=Phase.GATING), Verb.PROMOTE, None),
        (rollout(phase=Phase.PROMOTING), Verb.PROMOTE, None),
        (rollout(phase=Phase.PROMOTING), Verb.PAUSE, None),
        (rollout(), Verb.RESUME, None),
        (rollout(phase=Phase.HOLDING, hold=Hold.SRM), Verb.RESUME, None),
        (rollout(phase=Phase.HOLDING, hold=Hold.INCONCLUSIVE), Verb.RESUME, None),
        (rollout(phase=Phase.HOLDING, hold=Hold.USER), Verb.PAUSE, None),
        (rollout(phase=Phase.ROLLING_BACK), Verb.ABORT, None),
        (rollout(phase=Phase.LIVE), Verb.ABORT, None),
        (rollout(phase=Phase.ROLLED_BACK), Verb.PROMOTE, None),
    ],
)
def test_request(before, verb, phase):
    """What a person may ask in which phase; anything else is a conflict that says so."""
    if phase is None:
        with pytest.raises(Conflict, match=r"rollout rol_1"):
            request(before, verb)
        return
    assert request(before, verb).to_phase is phase


def test_a_promotion_by_hand_is_recorded_as_unproven():
    """Unless it was proven."""
    assert request(rollout(), Verb.PROMOTE).numbers["proven"] is False
    assert request(rollout(phase=Phase.PROVEN), Verb.PROMOTE).numbers["proven"] is True


def test_begin():
    """A canary starts at its first share, all_at_once at once and unproven."""
    first = begin(DEFAULT_PLAN)
    assert (first.to_phase, first.step, first.weight) == (Phase.RAMPING, 0, 0.1)
    at_once = begin(plan_from_json({"strategy": "all_at_once"}))
    assert (at_once.to_phase, at_once.weight) == (Phase.PROMOTING, 1.0)
    assert at_once.numbers["proven"] is False


def test_apply_starts_a_step_after_the_last_position_and_ends_what_ends():
    """Positions up to ``assigned`` belong to the earlier weight."""
    stepped = advance(rollout(), facts(candidate_in_step=100), MINUTE)
    assert stepped is not None
    after = apply(rollout(), stepped, MINUTE)
    assert (after.step_since, after.revision, after.phase_since_us) == (1200, 4, MINUTE)
    assert after.ended_us is None
    promoting = rollout(phase=Phase.PROMOTING, step=3, weight=1.0)
    live = advance(promoting, facts(), 5)
    assert live is not None
    assert apply(promoting, live, 5).ended_us == 5
    paused = apply(rollout(step_since=7), request(rollout(), Verb.PAUSE), 1)
    assert paused.step_since == 7


@pytest.mark.parametrize(
    ("candidate", "stable", "stop", "roll_back"),
    [
        ("x" * 9, "." * 100, None, None),
        ("x" * 9 + ".", "." * 100, None, None),
        ("x" * 10, "." * 100, Stop.CRASHES, True),
        ("x" * 10, "." * 91 + "x" * 9, Stop.CRASHES, True),
        ("x" * 10, ".x.x." * 20, Stop.CRASHES, False),
        ("x" * 10, "", Stop.CRASHES, False),
        ("x" * 10, "." * 19, Stop.CRASHES, False),
        ("x" * 10, "." * 20, Stop.CRASHES, True),
        ("$" * 6, "." * 60, Stop.COST_CAP, True),
        ("$" * 5, "." * 60, None, None),
        ("$" * 6, "........$." * 6, Stop.COST_CAP, False),
        ("xxxx" + "$" * 6, ".x.x$." * 20, Stop.CRASHES, False),
    ],
)
def test_hard_stops(candidate, stable, stop, roll_back):
    """A run of the candidate's fires; stable in the same window decides what follows."""
    found = fired(HardStopFacts(candidate=tasks(candidate), stable=tasks(stable, every=1)))
    if stop is None:
        assert found is None
        return
    assert found is not None
    assert (found.stop, found.roll_back) == (stop, roll_back)


def test_a_hard_stop_looks_at_stable_only_since_the_run_began():
    """Stable's failures before the run excuse nothing."""
    stable = tasks("x" * 200, every=1) + tasks("." * 40, start=1000, every=1)
    found = fired(HardStopFacts(candidate=tasks("x" * 10, start=1000), stable=stable))
    assert found is not None
    assert (found.roll_back, found.stable_bad, found.stable_finished) == (True, 0, 40)


def test_a_rollback_explains_itself():
    """Guard, e-value, threshold, counts, shares, effect, since when and what to do."""
    decision = advance(rollout(), facts(WORSE), DAY)
    assert decision is not None
    text = explain(rollout(), decision, DAY)
    for part in (
        "1970-01-02 00:00:00 UTC: rolling back.",
        "worse in completion: e-value 25, 20 is enough",
        "candidate 65.2% of 115 sessions, stable 91.8% of 1035",
        "difference -26.1 points",
        "at most 5.00% of rollouts",
        "1150 sessions are known, 50 are not yet",
        "`penstock rollout rol_1`",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("before", "seen", "part"),
    [
        (rollout(), facts(PROVEN), "worse by 5% gets this far in at most 5.00%"),
        (rollout(phase=Phase.PROVEN), facts(PROVEN), "it is proven"),
        (rollout(), facts(hard_stops=CRASHED), "last 10 tasks did not complete"),
        (rollout(), facts(hard_stops=CRASHED), "Completion: candidate 65.2%"),
        (rollout(), facts(hard_stops=CRASHED_BOTH), "look at the providers"),
        (rollout(), facts(split=BROKEN), "2 of 100 sessions met the candidate"),
    ],
)
def test_every_cause_is_told(before, seen, part):
    """Proof, promotion, hard stops and holds say why and what to do."""
    decision = advance(before, seen, MINUTE)
    assert decision is not None
    assert part in explain(before, decision, MINUTE)


def test_the_plan_of_nothing_is_the_shipped_one():
    """Everything has a default."""
    assert plan_from_json({}) == DEFAULT_PLAN
    assert plan_from_json(plan_to_json(DEFAULT_PLAN)) == DEFAULT_PLAN


def test_short_forms_of_a_plan():
    """A bare number is a step; a known guard knows its views."""
    plan = plan_from_json({"steps": [0.2, 1], "guards": [{"metric": "cost", "margin": 0.01}]})
    assert [step.weight for step in plan.steps] == [0.2, 1.0]
    assert plan.guards[0].views == ("cost_exceedance", "cost_mean")
    assert plan_from_json({"goal": {"metric": "quality"}}).goal.views == ("quality",)
    assert plan_from_json({"strategy": "all_at_once"}).strategy is Strategy.ALL_AT_ONCE


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"step": []}, "no step"),
        ({"steps": []}, "there is no step"),
        ({"steps": [0.5, 0.2]}, "do not rise"),
        ({"steps": [0.0, 0.2]}, "not in"),
        ({"steps": [1.0]}, "leaves stable no traffic"),
        ({"strategy": "all_at_once", "steps": [0.5, 1.0]}, "one step"),
        ({"strategy": "best"}, "best"),
        ({"steps": [{"weight": 0.5, "pause": 3}]}, "pause"),
        ({"guards": [{"metric": "a"}, {"metric": "a"}]}, "same metric"),
        ({"guards": [{"margin": 0}]}, "metric"),
        ({"goal": {"metric": "completion", "margin": 0.0}}, "nothing can prove"),
        ({"risk": 0}, "risk"),
        ({"risk": "high"}, "cannot be read"),
        ({"horizon_seconds": 7200}, "quiet_seconds"),
        ({"on_inconclusive": "shrug"}, "shrug"),
        ({"unit": "request"}, "unit"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(data, part):
    """With a sentence that names what is wrong."""
    with pytest.raises(Invalid, match=part):
        plan_from_json(data)


def test_plans_are_values():
    """Equal plans are equal, whatever way they were made."""
    assert Plan() == DEFAULT_PLAN
