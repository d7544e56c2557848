"""The rollout controller, tick by tick and as a loop, on sessions whose outcomes are known."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from penstock.actions.rollouts import RolloutActions
from penstock.control.rollouts import Controller
from penstock.domain.errors import Conflict
from penstock.domain.rollouts import Arm, Facts, Hold, Phase, SplitEvidence
from penstock.rules import measures
from penstock.rules.evidence import fold, open_evidence
from penstock.rules.outcomes import outcome
from penstock.rules.rollouts import advance, apply, begin
from penstock.rules.splits import fold_split
from penstock.store import deployments, evidence, sessions
from rollout_world import (
    ADA,
    AGENT,
    ENVIRONMENT,
    release,
    results,
    rollout,
    serve,
    story,
)

QUICK = {
    "steps": [{"weight": 0.5, "candidate_sessions": 20}, 1.0],
    "goal": {"metric": "completion", "margin": 0.2},
}


@pytest.fixture(autouse=True)
def the_same_draws(monkeypatch):
    """Every run of a test meets the same arms."""
    monkeypatch.setattr("penstock.actions.beginnings.secrets.token_hex", lambda _: "salt")
    monkeypatch.setattr("rollout_world._numbers", count(1))


async def canary(store, plan=None, *, agent=AGENT):
    """A stable release and a canary beside it."""
    actions = RolloutActions(store)
    await release(store, f"{agent} one", agent=agent)
    await actions.deploy(ADA, agent=agent)
    await release(store, f"{agent} two", agent=agent)
    return (await actions.deploy(ADA, agent=agent, plan=plan)).rollout


async def settle(controller, rollout_id):
    """Tick until there is nothing to do at once."""
    while await controller.tick(rollout_id):
        pass


async def serving(store, environment=ENVIRONMENT):
    found = await store.read(partial(deployments.get, agent=AGENT, environment=environment))
    return found.stable, found.rollout_id


def rates(*, stable: float, candidate: float, seed: int = 1):
    """Sessions that fail with these chances."""
    rng = random.Random(seed)

    def ending(arm, _):
        return "error" if rng.random() < (candidate if arm == "candidate" else stable) else "ok"

    return ending


async def eventually(store, rollout_id, wanted, *, seconds=10.0):
    """The rollout, once it is as wanted."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found = await rollout(store, rollout_id)
        if wanted(found) or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(0.05)


# ---------------------------------------------------------------- verdicts


async def test_a_worse_candidate_is_rolled_back(store):
    under_way = await canary(store, {"steps": [0.5, 1.0]})
    controller = Controller(store)
    ending = rates(stable=0.08, candidate=0.5)
    for _ in range(40):
        await serve(store, ending, 10)
        await settle(controller, under_way.id)
        if (await rollout(store, under_way.id)).ended_us is not None:
            break
    ended = await rollout(store, under_way.id)
    assert (ended.phase, ended.weight) == (Phase.ROLLED_BACK, 0.0)
    assert await serving(store) == (under_way.stable, None)
    decisive = [e for e in await story(store, under_way.id) if e.action == "rollout.rolling_back"]
    numbers = decisive[0].detail["numbers"]
    assert decisive[0].actor == "penstock"
    assert numbers["cause"] == "guard"
    assert numbers["peak"] >= numbers["threshold"]
    assert numbers["folded"] == ended.folded
    assert "The candidate is worse in" in decisive[0].detail["explanation"]
    assert {arm for _, arm in await serve(store, "ok", 10)} == {None}


async def test_an_equal_candidate_climbs_the_shipped_ramp_and_is_promoted_by_proof(store):
    under_way = await canary(store)
    controller = Controller(store)
    ending = rates(stable=0.08, candidate=0.08, seed=3)
    for _ in range(60):
        await serve(store, ending, 60)
        await settle(controller, under_way.id)
        if (await rollout(store, under_way.id)).ended_us is not None:
            break
    ended = await rollout(store, under_way.id)
    assert (ended.phase, ended.weight) == (Phase.LIVE, 1.0)
    assert await serving(store) == (under_way.candidate, None)
    entries = await story(store, under_way.id)
    weights = [e.detail["weight"] for e in entries if e.detail["to"] == "ramping"]
    assert weights == sorted(weights)
    assert set(weights) <= {0.10, 0.25, 0.50}
    assert [e.detail["to"] for e in entries[-3:]] == ["proven", "promoting", "live"]
    numbers = entries[-2].detail["numbers"]
    assert numbers["proven"] is True
    assert numbers["peak"] >= numbers["threshold"]
    for entry in entries:
        if entry.detail["numbers"].get("cause") == "step":
            least = 100 if entry.detail["step"] == 1 else 200
            assert entry.detail["numbers"]["candidate_in_step"] >= least


async def test_no_sessions_prove_nothing(store):
    under_way = await canary(store, QUICK)
    controller = Controller(store)
    for _ in range(3):
        assert not await controller.tick(under_way.id)
    assert await rollout(store, under_way.id) == under_way


async def test_a_step_counts_only_the_candidates_assigned_in_it(store):
    """Sessions that began before the step are folded, and do not shorten it."""
    steps = [{"weight": 0.5, "candidate_sessions": 10}, {"weight": 0.6, "candidate_sessions": 10}]
    under_way = await canary(store, {"steps": [*steps, 0.7]})
    controller = Controller(store)
    await serve(store, "ok", 100)  # enough for both steps, if they counted
    await settle(controller, under_way.id)
    stepped = await rollout(store, under_way.id)
    assert (stepped.step, stepped.step_since) == (1, 100)
    await serve(store, "ok", 8)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).step == 1
    await serve(store, "ok", 40)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).step == 2
    entry = (await story(store, under_way.id))[-1]
    found = await results(store, under_way.id)
    met = sum(r.arm is Arm.CANDIDATE and 100 < r.position <= 148 for r in found)
    assert entry.detail["numbers"]["candidate_in_step"] == met


async def test_a_paused_rollout_stays_and_is_still_rolled_back(store):
    under_way = await canary(store, QUICK)
    await RolloutActions(store).pause(ADA, AGENT)
    controller = Controller(store)
    await serve(store, "ok", 150)
    await settle(controller, under_way.id)
    held = await rollout(store, under_way.id)
    assert (held.phase, held.hold, held.folded) == (Phase.HOLDING, Hold.USER, 150)
    await serve(store, rates(stable=0.0, candidate=0.9), 60)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).phase is Phase.ROLLED_BACK


async def test_an_approval_is_waited_for_and_then_taken(store):
    steps = [
        {"weight": 0.5, "candidate_sessions": 10},
        {"weight": 0.6, "candidate_sessions": 0, "approval": True},
    ]
    under_way = await canary(store, {"steps": steps})
    controller = Controller(store)
    await serve(store, "ok", 60)
    await settle(controller, under_way.id)
    held = await rollout(store, under_way.id)
    assert (held.hold, held.weight) == (Hold.APPROVAL, 0.5)
    await RolloutActions(store).resume(ADA, AGENT)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).weight == 0.6


# ---------------------------------------------------------------- hard stops


async def test_a_crashing_candidate_is_stopped_within_seconds(store):
    """Long before the statistics know: nothing is folded, for no session has been closed."""
    under_way = await canary(store, QUICK)
    controller = Controller(store)
    served = partial(serve, store, close=False)
    await served(lambda arm, _: "crash" if arm == "candidate" else "ok", 80)
    await settle(controller, under_way.id)
    ended = await rollout(store, under_way.id)
    assert (ended.phase, ended.folded) == (Phase.ROLLED_BACK, 0)
    entry = (await story(store, under_way.id))[1]
    assert entry.detail["numbers"]["stop"] == "crashes"


async def test_a_trouble_of_both_arms_only_holds(store):
    under_way = await canary(store, QUICK)
    controller = Controller(store)
    served = partial(serve, store, close=False)
    await served("crash", 80)
    await settle(controller, under_way.id)
    held = await rollout(store, under_way.id)
    assert (held.phase, held.hold) == (Phase.HOLDING, Hold.SIGNAL)
    await served("ok", 20)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).phase is Phase.RAMPING


async def test_the_cost_cap_is_a_stop_of_its_own(store):
    under_way = await canary(store, QUICK)
    served = partial(serve, store, close=False)
    await served(lambda arm, _: "budget" if arm == "candidate" else "ok", 70)
    await settle(Controller(store), under_way.id)
    assert (await rollout(store, under_way.id)).phase is Phase.ROLLED_BACK


# ---------------------------------------------------------------- outcomes


async def test_outcomes_are_folded_in_the_order_of_assignment(store):
    """An open session keeps those behind it waiting until the horizon; then it has failed."""
    under_way = await canary(store, {**QUICK, "horizon_seconds": 0.6, "quiet_seconds": 60})
    controller = Controller(store)
    await serve(store, "ok", 3)
    await serve(store, "open", 1)
    await serve(store, "ok", 3)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).folded == 3
    await asyncio.sleep(0.7)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).folded == 7
    tests, _ = await store.read(lambda tx: evidence.of_rollout(tx, under_way.id))
    proof = next(test for test in tests if test.question == "not_worse")
    assert proof.candidate_sum + proof.stable_sum == 6


async def test_what_comes_after_the_horizon_comes_too_late_whenever_it_is_looked_at(store):
    """A controller that was away for an hour sees what one that never slept has seen."""
    under_way = await canary(store, {**QUICK, "horizon_seconds": 0.3, "quiet_seconds": 60})
    ((late, _),) = await serve(store, "open", 1)
    ((judged_late, _),) = await serve(store, "ok", 1, judge=under_way.stable)
    await asyncio.sleep(0.4)
    await store.transact(lambda tx: sessions.close(tx, late))
    await store.transact(lambda tx: sessions.judged(tx, judged_late, score=1.0, error=None))
    await settle(Controller(store), under_way.id)
    tests, _ = await store.read(lambda tx: evidence.of_rollout(tx, under_way.id))
    proof = next(test for test in tests if test.question == "not_worse")
    assert (proof.seen, proof.candidate_sum + proof.stable_sum) == (2, 0)


async def test_a_session_with_an_evaluator_waits_for_its_answer(store):
    under_way = await canary(store, QUICK)
    controller = Controller(store)
    judge = under_way.stable
    served = await serve(store, lambda _, index: "error" if index == 2 else "ok", 4, judge=judge)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).folded == 0
    answers = [(0.25, None), (None, "it raised"), (None, "it raised"), (1.0, None)]

    async def judge_all(tx):
        for (session_id, _), (score, error) in zip(served, answers, strict=True):
            await sessions.judged(tx, session_id, score=score, error=error)

    await store.transact(judge_all)
    await settle(controller, under_way.id)
    assert (await rollout(store, under_way.id)).folded == 4
    tests, _ = await store.read(lambda tx: evidence.of_rollout(tx, under_way.id))
    proof = next(test for test in tests if test.question == "not_worse")
    # The evaluator's answer; where it could not answer, whether the tasks completed.
    assert proof.candidate_sum + proof.stable_sum == 0.25 + 1 + 0 + 1


# ---------------------------------------------------------------- crashes and rivals


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """A store whose user is killed now and then: before the commit, or just after it."""

    def __init__(self, store, rng):
        self._store = store
        self._rng = rng
        self.kills = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def transact(self, work):
        fate = self._rng.random()
        self.kills += fate < 0.5

        async def killed(tx):
            await work(tx)
            raise RuntimeError("killed before the commit")

        if fate < 0.25:
            with pytest.raises(RuntimeError):
                await self._store.transact(killed)
            raise Killed
        result = await self._store.transact(work)
        if fate < 0.5:
            raise Killed
        return result


async def _tell(store, rollout_id):
    """A rollout's story without times and names."""
    return [
        (
            entry.action,
            *(entry.detail[key] for key in ("to", "step", "weight", "reason", "numbers")),
        )
        for entry in await story(store, rollout_id)
    ]


async def _drive(store, ticking, *, candidate):
    """A whole rollout on the sessions that the seed gives; ``ticking`` is called after each 25."""
    under_way = await canary(store, QUICK | {"steps": [0.1, 0.3, 0.5, 1.0]})
    ending = rates(stable=0.08, candidate=candidate, seed=5)
    for _ in range(60):
        await serve(store, ending, 25)
        await ticking(under_way.id)
        if (await rollout(store, under_way.id)).ended_us is not None:
            break
    return under_way.id


@pytest.mark.parametrize(("candidate", "end"), [(0.08, Phase.LIVE), (0.25, Phase.ROLLED_BACK)])
async def test_a_controller_that_is_killed_decides_as_one_that_lives(store, candidate, end):
    """Killed at every other commit, before it or after it: the same story to the last digit."""
    mortal = Mortal(store, random.Random(11))

    async def dying(rollout_id):
        more = True
        while more:
            try:
                more = await Controller(mortal).tick(rollout_id)
            except Killed:
                more = True

    rollout_id = await _drive(store, dying, candidate=candidate)
    assert mortal.kills > 0
    ended = await rollout(store, rollout_id)
    assert ended.phase is end
    expected = await _pure(store, rollout_id)
    told = await _tell(store, rollout_id)
    assert len(told) >= 3
    assert told == expected
    _, folded = await store.read(lambda tx: evidence.of_rollout(tx, rollout_id))
    assert folded.split.total_seen == ended.folded


async def _pure(store, rollout_id):
    """The same sessions through the rules alone, in the blocks in which they came."""
    rows = await results(store, rollout_id)
    ended = await rollout(store, rollout_id)
    start = begin(ended.plan)
    state = replace(
        ended,
        phase=start.to_phase,
        hold=None,
        step=start.step,
        weight=start.weight,
        step_since=0,
        revision=1,
        assigned=0,
        folded=0,
        ended_us=None,
    )
    tests = open_evidence(ended.plan, ended.baseline, measures.active(ended.baseline))
    tests = sorted(tests, key=lambda test: (test.metric, test.question))
    split = SplitEvidence()
    now_us = ended.started_us
    begun = {**start.numbers, "baseline_sessions": ended.baseline.sessions}
    told = [("rollout.begin", start.to_phase, start.step, start.weight, start.reason, begun)]
    for block in range(0, len(rows), 25):
        came = [
            outcome(row, ended.baseline, horizon_seconds=1800, now_us=now_us)
            for row in rows[block : block + 25]
        ]
        tests = [fold(test, came) for test in tests]
        split = fold_split(split, came)
        position = rows[min(block + 25, len(rows)) - 1].position
        state = replace(state, assigned=position, folded=position)
        while True:
            in_step = sum(
                row.arm is Arm.CANDIDATE and state.step_since < row.position <= position
                for row in rows
            )
            facts = Facts(
                evidence=tuple(tests),
                split=split,
                candidate_in_step=in_step,
                last_fold_us=now_us,
            )
            decision = advance(state, facts, now_us)
            if decision is None:
                break
            told.append(
                (
                    f"rollout.{decision.to_phase}",
                    decision.to_phase,
                    decision.step,
                    decision.weight,
                    decision.reason,
                    json.loads(json.dumps(decision.numbers)),
                )
            )
            state = apply(state, decision, now_us)
    return told


async def test_two_controllers_count_every_session_once(database):
    """Both read the same evidence at the same moment; the second to write is turned away."""
    store = await database.open()
    other = store if database.kind == "sqlite" else await database.open()
    under_way = await canary(store, {"steps": [0.5], "goal": None})
    turned_away = 0
    for _ in range(15):
        await serve(store, rates(stable=0.1, candidate=0.1), 20)
        found = await asyncio.gather(
            *(Controller(each).tick(under_way.id, batch=7) for each in (store, other, store)),
            return_exceptions=True,
        )
        turned_away += sum(isinstance(each, Conflict) for each in found)
        assert not [e for e in found if isinstance(e, Exception) and not isinstance(e, Conflict)]
    await settle(Controller(store), under_way.id)
    assert turned_away > 0
    tests, folded = await store.read(lambda tx: evidence.of_rollout(tx, under_way.id))
    assert (await rollout(store, under_way.id)).folded == 300
    assert folded.split.total_seen == 300
    rows = await results(store, under_way.id)
    came = [outcome(r, under_way.baseline, horizon_seconds=1800, now_us=0) for r in rows]
    active = measures.active(under_way.baseline)
    for test in open_evidence(under_way.plan, under_way.baseline, active):
        once = fold(test, came)
        kept = next(t for t in tests if (t.metric, t.question) == (test.metric, test.question))
        sums = {name: getattr(once, name) for name in ("difference_sum", "difference_squares")}
        assert {name: getattr(kept, name) for name in sums} == pytest.approx(sums)
        assert replace(kept, **sums) == once


async def test_a_rollout_that_cannot_be_read_does_not_stop_the_others(database, caplog):
    store = await database.open()
    broken = await canary(store, agent="broken")
    sound = await canary(store, {"steps": [0.5, 1.0]})
    await database.execute(f"update rollouts set plan = '{{}}x' where id = '{broken.id}'")
    await serve(store, rates(stable=0.0, candidate=0.9), 80)
    controller = Controller(store)
    controller.start()
    try:
        ended = await eventually(store, sound.id, lambda r: r.ended_us is not None)
        assert ended.phase is Phase.ROLLED_BACK
        await asyncio.sleep(1.2)
    finally:
        await controller.stop()
    complaints = [r for r in caplog.records if broken.id in r.getMessage()]
    assert len(complaints) == 1  # said once, not at every tick


async def test_one_controller_leads_and_another_takes_over_at_once(database):
    store = await database.open()
    other = store if database.kind == "sqlite" else await database.open()
    under_way = await canary(store, {"steps": [0.5, 1.0]})
    first, second = Controller(store), Controller(other)
    first.start()
    await serve(store, "ok", 30)
    assert (await eventually(store, under_way.id, lambda r: r.folded == 30)).folded == 30
    second.start()
    try:
        await asyncio.sleep(0.3)
        await first.stop()
        await serve(store, rates(stable=0.0, candidate=0.9), 80)
        ended = await eventually(store, under_way.id, lambda r: r.ended_us is not None, seconds=4)
        assert ended.phase is Phase.ROLLED_BACK
    finally:
        await second.stop()


async def test_a_backlog_is_folded_without_waiting_for_the_next_round(store):
    under_way = await canary(store, {"steps": [0.5], "goal": None, "guards": []})
    for _ in range(6):
        await serve(store, "ok", 250)
    controller = Controller(store)
    controller.start()
    try:
        found = await eventually(store, under_way.id, lambda r: r.folded == 1500, seconds=3)
        assert found.folded == 1500
    finally:
        await controller.stop()
