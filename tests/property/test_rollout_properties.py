"""Invariants of the state machine (I1-I4 and I11 of the design), whatever the facts."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.domain.errors import Conflict
from penstock.domain.rollouts import (
    ACTIVE_PHASES,
    Arm,
    Baseline,
    Decision,
    Facts,
    FinishedTask,
    Goal,
    Guard,
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
from penstock.rules.assignments import assign, draw
from penstock.rules.evidence import open_evidence
from penstock.rules.rollouts import advance, apply, begin, request

HOUR = 3_600_000_000
FORWARD = {Phase.RAMPING, Phase.HOLDING, Phase.PROVEN}
EDGES = {
    Phase.RAMPING: {*FORWARD, Phase.ROLLING_BACK, Phase.PROMOTING},
    Phase.HOLDING: {*FORWARD, Phase.ROLLING_BACK, Phase.PROMOTING},
    Phase.PROVEN: {Phase.HOLDING, Phase.PROMOTING, Phase.ROLLING_BACK},
    Phase.PROMOTING: {Phase.LIVE, Phase.ROLLING_BACK},
    Phase.ROLLING_BACK: {Phase.ROLLED_BACK},
}


@st.composite
def plans(draw_):
    """Any plan that can be followed."""
    partial = draw_(st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True))
    weights = [n / 100 for n in sorted(partial)] + ([1.0] if draw_(st.booleans()) else [])
    steps = tuple(
        Step(
            weight=weight,
            candidate_sessions=draw_(st.integers(0, 200)),
            approval=draw_(st.booleans()),
        )
        for weight in weights
    )
    strategy = draw_(st.sampled_from(Strategy))
    metrics = draw_(st.lists(st.sampled_from(["completion", "errors", "x"]), unique=True))
    return Plan(
        strategy=strategy,
        steps=steps if strategy is Strategy.CANARY else (Step(weight=1.0),),
        guards=tuple(
            Guard(metric=m, views=(m,), margin=draw_(st.sampled_from([0.0, 0.02]))) for m in metrics
        ),
        goal=draw_(st.sampled_from([None, Goal(), Goal(metric="x", views=("x",), margin=0.1)])),
        risk=draw_(st.sampled_from([0.01, 0.05])),
        unit=draw_(st.sampled_from(["session", "user"])),
        max_duration_seconds=draw_(st.sampled_from([3600.0, 86400.0])),
        on_inconclusive=draw_(st.sampled_from(OnInconclusive)),
    )


E_VALUES = st.sampled_from([0.5, 1.0, 8.0, 30.0, 1e6])
TASKS = st.lists(
    st.builds(
        FinishedTask,
        finished_us=st.integers(0, 100),
        failed=st.sampled_from([True, True, True, True, False]),
        cost_capped=st.booleans(),
    ),
    max_size=40,
).map(lambda tasks: tuple(sorted(tasks, key=lambda task: task.finished_us)))


@st.composite
def facts(draw_, plan: Plan):
    """Any facts, probable or not."""
    evidence = tuple(
        replace(
            test,
            e=(e := draw_(E_VALUES)),
            peak=e * draw_(st.sampled_from([1.0, 2.0])),
            candidate_seen=draw_(st.sampled_from([0, 500])),
            stable_seen=500,
        )
        for test in open_evidence(plan, Baseline())
    )
    return Facts(
        evidence=evidence,
        split=SplitEvidence(peak=draw_(st.sampled_from([1.0, 1.0, 1.0, 5000.0]))),
        candidate_in_step=draw_(st.integers(0, 400)),
        last_fold_us=draw_(st.none() | st.integers(0, 48 * HOUR)),
        hard_stops=HardStopFacts(candidate=draw_(TASKS), stable=draw_(TASKS)),
        approved=draw_(st.frozensets(st.integers(0, 4))),
    )


def started(plan: Plan) -> Rollout:
    """A rollout of this plan that has just begun."""
    blank = Rollout(
        id="r", agent="a", environment="e", stable="s", candidate="c", plan=plan, salt="x",
        baseline=Baseline(), phase=Phase.DRAFT, hold=None, step=0, weight=0.0, step_since=0,
        revision=0, assigned=0, folded=0, reason="", started_us=0, phase_since_us=0, ended_us=None,
    )  # fmt: skip
    return apply(blank, begin(plan), 0)


def check(before: Rollout, decision: Decision) -> None:
    """What no transition may break."""
    assert decision.to_phase in EDGES[before.phase]
    assert (decision.to_phase is Phase.HOLDING) == (decision.hold is not None)
    assert decision.reason
    if decision.to_phase is Phase.RAMPING:
        assert decision.weight >= before.weight
        assert decision.step - before.step in {0, 1}
        assert decision.weight < 1.0
        assert decision.weight == before.plan.steps[decision.step].weight
    elif decision.to_phase in {Phase.HOLDING, Phase.PROVEN}:
        assert (decision.weight, decision.step) == (before.weight, before.step)
    elif decision.to_phase in {Phase.PROMOTING, Phase.LIVE}:
        assert decision.weight == 1.0
    else:
        assert decision.weight == 0.0


@given(data=st.data(), plan=plans())
@settings(max_examples=200, deadline=None)
def test_whatever_happens_the_machine_keeps_its_edges(data, plan):
    """I1, I2: only drawn edges; the weight only rises in ramping; a hold moves nothing."""
    rollout, now_us = started(plan), 0
    for _ in range(data.draw(st.integers(1, 12))):
        now_us += data.draw(st.sampled_from([1, HOUR // 2, 2 * HOUR]))
        if data.draw(st.integers(0, 4)) == 0:
            try:
                decision = request(rollout, data.draw(st.sampled_from(Verb)))
            except Conflict:
                continue
        else:
            decision = advance(rollout, data.draw(facts(plan)), now_us)
        if decision is None:
            continue
        check(rollout, decision)
        after = apply(rollout, decision, now_us)
        assert after.revision == rollout.revision + 1
        assert (after.ended_us is None) == (after.phase in ACTIVE_PHASES)
        rollout = after


@given(data=st.data(), plan=plans())
@settings(max_examples=200, deadline=None)
def test_no_evidence_is_never_proven(data, plan):
    """I3: without sessions on either arm nothing is proven, and nothing is promoted as proven."""
    seen = data.draw(facts(plan))
    blind = replace(seen, evidence=tuple(replace(test, candidate_seen=0) for test in seen.evidence))
    rollout = replace(started(plan), phase=Phase.RAMPING, weight=plan.steps[0].weight)
    for evidence in (blind, replace(seen, evidence=())):
        decision = advance(rollout, evidence, data.draw(st.integers(0, 48 * HOUR)))
        if decision is not None:
            assert decision.to_phase is not Phase.PROVEN
            if decision.to_phase is Phase.PROMOTING:
                assert decision.numbers["proven"] is False


@given(plan=plans(), phase=st.sampled_from(sorted(ACTIVE_PHASES - {Phase.ROLLING_BACK})))
@settings(max_examples=60, deadline=None)
def test_rollback_is_one_transition_from_anywhere(plan, phase):
    """I4: from every phase that is not over, without facts of any kind."""
    decision = request(replace(started(plan), phase=phase), Verb.ABORT)
    assert (decision.to_phase, decision.weight) == (Phase.ROLLING_BACK, 0.0)


@given(plan=plans(), hours=st.lists(st.integers(1, 20), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_on_empty_data_it_holds_until_its_time_is_over(plan, hours):
    """I11: no outcome ever comes in; it holds, and then does what the plan says, unproven."""
    plan = replace(
        plan,
        strategy=Strategy.CANARY,
        steps=(Step(weight=0.1, candidate_sessions=1), Step(weight=1.0)),
    )
    rollout, now_us = started(plan), 0
    empty = Facts(evidence=open_evidence(plan, Baseline()))
    for gap in hours:
        now_us += gap * HOUR
        if (decision := advance(rollout, empty, now_us)) is not None:
            rollout = apply(rollout, decision, now_us)
        if now_us < plan.max_duration_seconds * 1e6:
            assert (rollout.phase, rollout.hold) == (Phase.HOLDING, Hold.NO_DATA)
            assert rollout.weight == 0.1
        elif plan.on_inconclusive is OnInconclusive.HOLD:
            assert (rollout.phase, rollout.hold) == (Phase.HOLDING, Hold.INCONCLUSIVE)
        else:
            assert rollout.phase in {
                Phase.PROMOTING, Phase.LIVE, Phase.ROLLING_BACK, Phase.ROLLED_BACK,
            }  # fmt: skip


@given(data=st.data(), plan=plans())
@settings(max_examples=100, deadline=None)
def test_deciding_twice_on_the_same_facts_settles(data, plan):
    """A controller that crashes after recording and looks again reaches the same end."""
    seen = data.draw(facts(plan))
    rollout = started(plan)
    for _ in range(2 * len(plan.steps) + 6):
        decision = advance(rollout, seen, 24 * HOUR)
        assert decision == advance(rollout, seen, 24 * HOUR)
        if decision is None:
            break
        rollout = apply(rollout, decision, 24 * HOUR)
        # The loop counts a new step's sessions from nothing.
        seen = replace(seen, candidate_in_step=0)
    else:
        raise AssertionError(f"still moving: {rollout.phase} {rollout.hold}")


@given(plan=plans())
@settings(max_examples=200, deadline=None)
def test_a_plan_survives_json(plan):
    """Written out and read back it is the same plan."""
    assert plan_from_json(plan_to_json(plan)) == plan


@given(salt=st.text(max_size=20), unit=st.text(max_size=40), weights=st.lists(st.floats(0, 1)))
@settings(max_examples=200, deadline=None)
def test_assignment_is_sticky_and_monotone(salt, unit, weights):
    """The same unit draws the same number; once in the candidate, a higher weight keeps it."""
    place = draw(salt, unit)
    assert 0.0 <= place < 1.0
    assert place == draw(salt, unit)
    arms = [assign(salt, unit, weight) for weight in sorted(weights)]
    assert arms == sorted(arms, key=[Arm.STABLE, Arm.CANDIDATE].index)


def test_questions_are_two():
    """The store's key (rollout, metric, question) has these words."""
    assert [question.value for question in Question] == ["worse", "not_worse"]
