"""Deployments, rollouts, evidence, leases and the audit, on every database."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from penstock.actions.beginnings import roughly
from penstock.actions.placements import place
from penstock.actions.rollouts import RolloutActions, previous
from penstock.domain.errors import Conflict, Forbidden, Invalid, NotFound
from penstock.domain.rollouts import DEFAULT_PLAN, Hold, Phase, SplitEvidence, Verb
from penstock.rules.assignments import assign
from penstock.rules.evidence import open_evidence
from penstock.rules.rollouts import advance, request
from penstock.store import approvals, audit, deployments, evidence, leases, rollouts, transitions
from penstock.store.evidence import Fold
from rollout_world import ADA, AGENT, ENVIRONMENT, VIEWER, release, results, rollout, serve, story


async def canary(store, **plan):
    """A stable release and a canary beside it."""
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await release(store, "two")
    return (await actions.deploy(ADA, agent=AGENT, plan=plan or None)).rollout


async def deployed(store):
    return await store.read(partial(deployments.get, agent=AGENT, environment=ENVIRONMENT))


# ---------------------------------------------------------------- leases and audit


async def test_a_lease_has_one_holder_at_a_time(store):
    take = partial(leases.acquire, name="x", seconds=0.3)
    first = await store.transact(partial(take, holder="a"))
    assert await store.transact(partial(take, holder="b")) is None
    assert await store.transact(partial(take, holder="a")) == first  # renewed, the same epoch
    await asyncio.sleep(0.4)
    assert await store.transact(partial(take, holder="b")) == first + 1
    assert await store.transact(partial(take, holder="a")) is None
    await store.transact(partial(leases.release, name="x", holder="a"))  # not its own: nothing
    assert await store.transact(partial(take, holder="a")) is None
    await store.transact(partial(leases.release, name="x", holder="b"))
    assert await store.transact(partial(take, holder="a")) == first + 2  # epochs never fall


async def test_the_audit_is_listed_in_order_and_by_object(store):
    async def work(tx):
        for number in range(5):
            await audit.add(
                tx, ADA, "did", object_kind="thing", object_id=str(number % 2), detail={"n": number}
            )

    await store.transact(work)
    every = await store.read(partial(audit.listing))
    assert [entry.detail["n"] for entry in every] == [0, 1, 2, 3, 4]
    assert {entry.actor for entry in every} == {"ada"}
    odd = await store.read(partial(audit.listing, object_kind="thing", object_id="1"))
    assert [entry.detail["n"] for entry in odd] == [1, 3]
    rest = await store.read(partial(audit.listing, after=every[1].seq, limit=2))
    assert [entry.detail["n"] for entry in rest] == [2, 3]


async def test_evidence_comes_back_as_it_was_kept(store):
    """Every float, infinities apart, survives the way through the database exactly."""
    under_way = await canary(store)
    tests = tuple(
        replace(test, e=1 / 3, peak=1e99, capitals=((0.1 + 0.2,) * 6,) * len(test.views), seen=7)
        for test in open_evidence(DEFAULT_PLAN, under_way.baseline)
    )
    fold = Fold(
        split=SplitEvidence(weight=0.1, capital=1 / 7, peak=2.0, seen=3, total_seen=3),
        last_fold_us=5,
        step_since=2,
        candidate_in_step=1,
    )
    await store.transact(lambda tx: evidence.put(tx, under_way.id, tests, fold))
    found, found_fold = await store.read(lambda tx: evidence.of_rollout(tx, under_way.id))
    assert sorted(found, key=lambda t: (t.metric, t.question)) == sorted(
        tests, key=lambda t: (t.metric, t.question)
    )
    assert found_fold == fold


# ---------------------------------------------------------------- deploy


async def test_the_first_release_has_all_traffic_at_once(store):
    one = await release(store, "one")
    done = await RolloutActions(store).deploy(ADA, agent=AGENT)
    assert done.rollout is None
    assert done.deployment.stable == one.digest
    assert "first" in done.note


async def test_a_later_release_begins_as_a_canary(store):
    under_way = await canary(store)
    assert (under_way.phase, under_way.weight) == (Phase.RAMPING, 0.10)
    assert under_way.plan == DEFAULT_PLAN
    deployment = await deployed(store)
    assert deployment.rollout_id == under_way.id
    assert deployment.stable == under_way.stable
    (begun,) = await story(store, under_way.id)
    assert begun.action == "rollout.begin"
    assert begun.actor == "ada"
    assert "10%" in begun.detail["explanation"]


async def test_deploying_the_stable_release_changes_nothing(store):
    actions = RolloutActions(store)
    await release(store, "one")
    first = await actions.deploy(ADA, agent=AGENT)
    again = await actions.deploy(ADA, agent=AGENT, ref="v1")
    assert again.rollout is None
    assert again.deployment == first.deployment
    assert "already" in again.note


async def test_a_second_rollout_is_refused_by_name(store):
    under_way = await canary(store)
    await release(store, "three")
    with pytest.raises(Conflict, match="v2 of support") as refused:
        await RolloutActions(store).deploy(ADA, agent=AGENT)
    assert under_way.id in str(refused.value)
    assert "penstock abort support" in refused.value.hint


async def test_of_two_deploys_at_once_one_is_refused(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await release(store, "two")
    outcomes = await asyncio.gather(
        *(actions.deploy(ADA, agent=AGENT) for _ in range(4)), return_exceptions=True
    )
    assert sum(not isinstance(found, Exception) for found in outcomes) == 1
    refused = [found for found in outcomes if isinstance(found, Exception)]
    assert all(isinstance(found, Conflict) and "rolled out" in str(found) for found in refused)


async def test_all_at_once_makes_it_stable_unproven(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    two = await release(store, "two")
    done = await actions.deploy(ADA, agent=AGENT, strategy="all_at_once")
    assert done.rollout.phase is Phase.LIVE
    assert done.deployment.stable == two.digest
    assert done.deployment.rollout_id is None
    assert [entry.action for entry in await story(store, done.rollout.id)] == [
        "rollout.begin",
        "rollout.live",
    ]
    view = await actions.get(ADA, done.rollout.id)
    assert "unproven" in " ".join(view.explanation)


async def test_the_plan_is_the_asked_one_or_the_releases_own(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await release(store, "two", rollout={"steps": [0.2, 1.0], "horizon_seconds": 60})
    own = await actions.deploy(ADA, agent=AGENT)
    assert own.rollout.weight == 0.2
    assert own.rollout.plan.horizon_seconds == 60
    await actions.abort(ADA, AGENT)
    asked = await actions.deploy(ADA, agent=AGENT, plan={"steps": [0.4, 1.0]})
    assert asked.rollout.weight == 0.4
    assert asked.rollout.plan.horizon_seconds == 1800
    await actions.abort(ADA, AGENT)
    with pytest.raises(Invalid, match="no strategy 'bluegreen'"):
        await actions.deploy(ADA, agent=AGENT, strategy="bluegreen")
    with pytest.raises(Invalid, match="do not rise"):
        await actions.deploy(ADA, agent=AGENT, plan={"steps": [0.4, 0.2]})
    with pytest.raises(Invalid, match="not supported"):
        await actions.deploy(ADA, agent=AGENT, plan={"unit": "user"})


async def test_the_dev_environment_waits_for_no_proof(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT, environment="dev")
    two = await release(store, "two")
    done = await actions.deploy(ADA, agent=AGENT, environment="dev")
    assert done.deployment.stable == two.digest


async def test_the_baseline_is_frozen_from_the_stable_releases_sessions(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await serve(store, lambda _, index: "error" if index % 5 == 0 else "ok", 40)
    await release(store, "two")
    under_way = (await actions.deploy(ADA, agent=AGENT)).rollout
    baseline = under_way.baseline
    assert baseline.sessions == 40
    assert baseline.means["completion"] == pytest.approx(0.8)
    assert baseline.means["errors"] == pytest.approx(0.8)
    assert baseline.latency_us_p95 is not None
    assert baseline.cost_limit_nanos == 500_000_000
    view = await actions.get(ADA, under_way.id)
    assert {(row.metric, row.question) for row in view.tests} == {
        ("completion", "worse"),
        ("errors", "worse"),
        ("latency", "worse"),
        ("cost", "worse"),
        ("completion", "not_worse"),
    }


async def test_a_deploy_says_how_long_proof_takes(store):
    actions = RolloutActions(store)
    await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await release(store, "two")
    few = await actions.deploy(ADA, agent=AGENT)
    assert "10% of new sessions" in few.note
    assert "about 2,000 sessions" in few.note
    await actions.abort(ADA, AGENT)
    await serve(store, "ok", 40)
    paced = await actions.deploy(ADA, agent=AGENT)
    assert "the last 40 sessions" in paced.note
    assert "minute" in paced.note
    await actions.abort(ADA, AGENT)
    own = await actions.deploy(ADA, agent=AGENT, plan={"steps": [0.3]})
    assert "proof" not in own.note  # nothing was measured of such a plan


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "a minute"),
        (600, "10 minutes"),
        (5 * 3600, "5 hours"),
        (90 * 86400, "90 days"),
    ],
)
def test_durations_are_told_roughly(seconds, words):
    assert roughly(seconds) == words


async def test_what_is_unknown_is_said_so(store):
    actions = RolloutActions(store)
    with pytest.raises(NotFound, match="no agent 'support'"):
        await actions.deploy(ADA, agent=AGENT)
    await release(store, "one")
    with pytest.raises(NotFound, match="no release 'v9'"):
        await actions.deploy(ADA, agent=AGENT, ref="v9")
    with pytest.raises(NotFound, match="not deployed in production"):
        await actions.promote(ADA, AGENT)
    await actions.deploy(ADA, agent=AGENT)
    with pytest.raises(NotFound, match="no rollout of support is under way"):
        await actions.abort(ADA, AGENT)
    with pytest.raises(NotFound, match="no earlier release"):
        await actions.rollback(ADA, AGENT)
    with pytest.raises(NotFound, match="no rollout rol_x"):
        await actions.get(ADA, "rol_x")


async def test_a_viewer_only_looks(store):
    under_way = await canary(store)
    actions = RolloutActions(store)
    assert (await actions.get(VIEWER, under_way.id)).rollout == under_way
    assert await actions.listing(VIEWER, agent=AGENT) == [under_way]
    for verb in (actions.promote, actions.abort, actions.pause, actions.resume, actions.rollback):
        with pytest.raises(Forbidden):
            await verb(VIEWER, AGENT)
    with pytest.raises(Forbidden):
        await actions.deploy(VIEWER, agent=AGENT)
    assert await rollout(store, under_way.id) == under_way


# ---------------------------------------------------------------- verbs


async def test_a_person_promotes_before_there_is_proof(store):
    under_way = await canary(store)
    ended = await RolloutActions(store).promote(ADA, AGENT)
    assert ended.phase is Phase.LIVE
    assert ended.ended_us is not None
    deployment = await deployed(store)
    assert (deployment.stable, deployment.rollout_id) == (under_way.candidate, None)
    entries = await story(store, under_way.id)
    assert [entry.action for entry in entries] == [
        "rollout.begin",
        "rollout.promoting",
        "rollout.live",
    ]
    assert entries[1].detail["numbers"]["proven"] is False


async def test_a_person_aborts_and_stable_has_every_new_session(store):
    under_way = await canary(store, steps=[0.5, 1.0])
    before = await serve(store, "ok", 20)
    assert {arm for _, arm in before} == {"stable", "candidate"}
    ended = await RolloutActions(store).abort(ADA, AGENT)
    assert (ended.phase, ended.weight) == (Phase.ROLLED_BACK, 0.0)
    assert (await deployed(store)).stable == under_way.stable
    assert {arm for _, arm in await serve(store, "ok", 20)} == {None}


async def test_pause_and_resume(store):
    under_way = await canary(store)
    actions = RolloutActions(store)
    paused = await actions.pause(ADA, AGENT)
    assert (paused.phase, paused.hold) == (Phase.HOLDING, Hold.USER)
    assert paused.weight == under_way.weight
    with pytest.raises(Conflict, match="cannot pause"):
        await actions.pause(ADA, AGENT)
    resumed = await actions.resume(ADA, AGENT)
    assert (resumed.phase, resumed.hold) == (Phase.RAMPING, None)
    assert resumed.revision == under_way.revision + 2


async def test_resuming_what_waits_for_approval_approves_the_step(store):
    under_way = await canary(store, steps=[0.1, {"weight": 0.5, "approval": True}, 1.0])
    actions = RolloutActions(store)
    waiting = replace(request(under_way, Verb.PAUSE), hold=Hold.APPROVAL)

    async def hold(tx):
        return await rollouts.transition(tx, under_way, waiting)

    await store.transact(hold)
    await actions.resume(ADA, AGENT)
    approved = await store.read(lambda tx: approvals.steps(tx, under_way.id))
    assert approved == {1}
    assert "ada approved the step to 50%" in " ".join(await actions.explain(ADA, under_way.id))


async def test_rolling_back_ends_what_is_on_and_then_goes_back_step_by_step(store):
    actions = RolloutActions(store)
    digests = {}
    for name in ("one", "two", "three"):
        digests[name] = (await release(store, name)).digest
        await actions.deploy(ADA, agent=AGENT, strategy="all_at_once")
    await release(store, "four")
    await actions.deploy(ADA, agent=AGENT)
    assert (await actions.rollback(ADA, AGENT)).phase is Phase.ROLLED_BACK
    assert (await deployed(store)).stable == digests["three"]
    back = await actions.rollback(ADA, AGENT)
    assert back.phase is Phase.LIVE
    assert "rolled back to v2" in (await actions.explain(ADA, back.id))[0]
    assert (await deployed(store)).stable == digests["two"]
    await actions.rollback(ADA, AGENT)
    assert (await deployed(store)).stable == digests["one"]
    with pytest.raises(NotFound, match="no earlier release"):
        await actions.rollback(ADA, AGENT)
    with pytest.raises(Conflict, match="v1 of support is the stable release"):
        await actions.rollback(ADA, AGENT, to="v1")
    await actions.rollback(ADA, AGENT, to="v3")
    assert (await deployed(store)).stable == digests["three"]


async def test_rolling_back_to_a_release_by_name_ends_a_rollout_on_the_way(store):
    actions = RolloutActions(store)
    one = await release(store, "one")
    await actions.deploy(ADA, agent=AGENT)
    await release(store, "two")
    await actions.deploy(ADA, agent=AGENT, strategy="all_at_once")
    await release(store, "three")
    under_way = (await actions.deploy(ADA, agent=AGENT)).rollout
    back = await actions.rollback(ADA, AGENT, to="v1")
    assert (back.phase, back.candidate) == (Phase.LIVE, one.digest)
    assert (await rollout(store, under_way.id)).phase is Phase.ROLLED_BACK
    deployment = await deployed(store)
    assert (deployment.stable, deployment.rollout_id) == (one.digest, None)


@pytest.mark.parametrize(
    ("moves", "stable", "before"),
    [
        ([], "a", None),
        ([("a", "b")], "b", "a"),
        ([("a", "b"), ("b", "a")], "a", None),
        ([("a", "b"), ("b", "c"), ("c", "b")], "b", "a"),
        ([("a", "b"), ("b", "a"), ("a", "c")], "c", "a"),
        ([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("b", "e")], "e", "b"),
    ],
)
def test_a_rolled_back_release_is_never_gone_back_to(moves, stable, before):
    assert previous(moves, stable) == before


# ---------------------------------------------------------------- compare-and-set


async def test_a_transition_decided_on_old_facts_changes_nothing(store):
    under_way = await canary(store)
    decision = request(under_way, Verb.PAUSE)

    async def pause(tx):
        return await transitions.record(tx, ADA, under_way, decision)

    await store.transact(pause)
    held = await rollout(store, under_way.id)
    entries = await story(store, under_way.id)
    with pytest.raises(Conflict, match="moved on"):
        await store.transact(pause)
    assert await rollout(store, under_way.id) == held
    assert await story(store, under_way.id) == entries


async def test_the_cursor_moves_once(store):
    under_way = await canary(store)
    move = partial(rollouts.move_cursor, seen=under_way, folded=10)
    assert await store.transact(move)
    assert not await store.transact(move)
    assert (await rollout(store, under_way.id)).folded == 10


async def test_a_person_and_another_at_once_both_have_an_answer(store):
    """Promote and abort race: one happens, the other is told that it is over."""
    under_way = await canary(store)
    actions = RolloutActions(store)
    outcomes = await asyncio.gather(
        actions.promote(ADA, AGENT), actions.abort(ADA, AGENT), return_exceptions=True
    )
    ended = await rollout(store, under_way.id)
    assert ended.phase in (Phase.LIVE, Phase.ROLLED_BACK)
    assert sum(isinstance(found, NotFound | Conflict) for found in outcomes) == 1
    stable = under_way.candidate if ended.phase is Phase.LIVE else under_way.stable
    assert (await deployed(store)).stable == stable


# ---------------------------------------------------------------- assignment


async def test_nobody_is_placed_where_nothing_is_deployed(store):
    with pytest.raises(NotFound, match="not deployed") as refused:
        await store.transact(partial(place, agent=AGENT, environment=ENVIRONMENT, unit="ses_1"))
    assert "penstock deploy support" in refused.value.hint


async def test_positions_have_no_gaps_whoever_assigns(store):
    under_way = await canary(store, steps=[0.5, 1.0])
    await asyncio.gather(*(serve(store, "ok", 5) for _ in range(12)))
    found = await results(store, under_way.id)
    assert [result.position for result in found] == list(range(1, 61))
    assert (await rollout(store, under_way.id)).assigned == 60


async def test_an_assignment_that_is_not_committed_leaves_no_gap(store):
    under_way = await canary(store)
    await serve(store, "ok", 1)

    async def broken(tx):
        await place(tx, agent=AGENT, environment=ENVIRONMENT, unit="ses_lost")
        raise RuntimeError("the server fell over")

    with pytest.raises(RuntimeError):
        await store.transact(broken)
    await serve(store, "ok", 1)
    assert [result.position for result in await results(store, under_way.id)] == [1, 2]


async def test_a_unit_keeps_its_arm_while_the_weight_rises(store):
    under_way = await canary(store, steps=[0.1, 0.5, 1.0])
    put = partial(place, agent=AGENT, environment=ENVIRONMENT)
    units = [f"ses_{number}" for number in range(200)]
    first = {unit: await store.transact(partial(put, unit=unit)) for unit in units}

    async def ramp(tx):
        decision = replace(request(under_way, Verb.PAUSE), step=1, weight=0.5)
        return await rollouts.transition(tx, under_way, decision)

    stepped = await store.transact(ramp)
    assert stepped.step_since == 200
    for unit in units:
        assert await store.transact(partial(put, unit=unit)) == first[unit]
    assert (await rollout(store, under_way.id)).assigned == 200
    for unit in units:
        arm = assign(under_way.salt, unit, 0.1)
        assert first[unit].arm == arm.value
        expected = under_way.candidate if arm == "candidate" else under_way.stable
        assert first[unit].release == expected
    later = [await store.transact(partial(put, unit=f"new_{n}")) for n in range(200)]
    assert 70 < Counter(placed.arm for placed in later)["candidate"] < 130


async def test_the_weight_of_an_assignment_is_the_one_in_force(store):
    """While sessions begin, the share is raised: every stored weight fits its position."""
    under_way = await canary(store, steps=[0.1, 0.5, 1.0])

    async def ramp(tx):
        seen = await rollouts.lock(tx, under_way.id)
        decision = replace(request(seen, Verb.PAUSE), step=1, weight=0.5)
        return await rollouts.transition(tx, seen, decision)

    async def later():
        await asyncio.sleep(0.02)
        return await store.transact(ramp)

    *_, stepped = await asyncio.gather(*(serve(store, "ok", 3) for _ in range(30)), later())
    for result in await results(store, under_way.id):
        assert result.weight == (0.5 if result.position > stepped.step_since else 0.1)


async def test_sessions_that_begin_while_a_rollout_ends_go_to_what_is_stable(store):
    under_way = await canary(store, steps=[0.5, 1.0])
    actions = RolloutActions(store)

    async def promote():
        await asyncio.sleep(0.01)
        return await actions.promote(ADA, AGENT)

    *_, ended = await asyncio.gather(*(serve(store, "ok", 2) for _ in range(20)), promote())
    found = await results(store, under_way.id)
    assert len(found) == ended.assigned == (await rollout(store, under_way.id)).assigned
    put = partial(place, agent=AGENT, environment=ENVIRONMENT, unit="ses_after")
    after = await store.transact(put)
    assert (after.release, after.arm, after.rollout_id) == (under_way.candidate, None, None)


async def test_exposure_is_counted_once_a_session(store):
    under_way = await canary(store, steps=[0.5, 1.0])
    await serve(store, "ok", 10)
    await serve(store, "open", 5)
    counts = await store.read(lambda tx: rollouts.arms(tx, under_way.id))
    assert counts["stable"] + counts["candidate"] == 15
    assert counts["exposed"] == 10


async def test_a_rollout_that_is_decided_at_once_is_told_in_order(store):
    """Every transition is an audit entry with what it was decided on."""
    under_way = await canary(store)
    decision = request(under_way, Verb.ABORT)
    assert advance(replace(under_way, phase=decision.to_phase), None, 0).to_phase is (
        Phase.ROLLED_BACK
    )
    await RolloutActions(store).abort(ADA, AGENT)
    entries = await story(store, under_way.id)
    assert [(entry.detail.get("from"), entry.detail["to"]) for entry in entries] == [
        (None, "ramping"),
        ("ramping", "rolling_back"),
        ("rolling_back", "rolled_back"),
    ]
    assert [entry.seq for entry in entries] == sorted(entry.seq for entry in entries)
