"""The queue: who runs next, what a busy session does with a new message, and when it is full."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from functools import partial

import pytest

from penstock.actions.rollouts import RolloutActions
from penstock.actions.sessions import Judges
from penstock.actions.submissions import Submission, Submissions
from penstock.domain.errors import Conflict, Exhausted, Stale
from penstock.domain.queues import ALL, QueueLimits, Turns
from penstock.domain.releases import Limits
from penstock.domain.tasks import (
    TERMINAL,
    Claim,
    Ending,
    MultitaskStrategy,
    ResourceClass,
    TaskState,
    Wait,
)
from penstock.rules.checkpoints import snapshot
from penstock.rules.limits import Terms
from penstock.rules.queues import after_claims
from penstock.rules.tasks import after_attempt
from penstock.runtime.journals import Journal
from penstock.runtime.reapers import _take_batch
from penstock.store import checkpoints, claims, endings, queues, sessions, steps, tasks, waiting
from penstock.store.checkpoints import Checkpoint, Write
from rollout_world import ADA, AGENT, ENVIRONMENT, release

QUEUE = (AGENT, ENVIRONMENT)
TERMS = Terms.of(Limits(), {}, ResourceClass.STANDARD)
INTERRUPT = MultitaskStrategy.INTERRUPT
ROLLBACK = MultitaskStrategy.ROLLBACK
REJECT = MultitaskStrategy.REJECT


@pytest.fixture
async def world(store):
    found = World(store)
    await found.deploy(AGENT)
    return found


class World:
    """A deployed agent, and what its users and workers do."""

    def __init__(self, store, limits=None):
        self.store = store
        self.submissions = Submissions(store, Judges(), limits or QueueLimits())
        self.turns = Turns()

    async def deploy(self, agent):
        await release(self.store, f"{agent}-one", agent=agent)
        await RolloutActions(self.store).deploy(ADA, agent=agent)

    async def submit(self, session=None, *, agent=AGENT, given=None, **asked):
        return await self.submissions.take(
            Submission(agent=agent, input=given, session_id=session, **asked)
        )

    async def claim(self, limit=100, worker="w1"):
        taken = await self.store.transact(
            partial(claims.claim, worker_id=worker, limit=limit, turns=self.turns)
        )
        self.turns = after_claims(self.turns, taken)
        return [claim.task for claim in taken]

    async def end(self, task, ending=Ending.OK, waits=()):
        """What the task's worker commits when its attempt has ended."""
        journal = Journal(self.store, Claim(task=task, epoch=task.epoch), TERMS)
        await journal.end(
            after_attempt(task, ending, attempts=3), ending, output="out", error=None, said=[],
            printed=[], waited_us=0, waits=waits,
        )  # fmt: skip

    async def get(self, task):
        return await self.store.read(lambda tx: tasks.get(tx, task.id))

    async def outcome(self, task):
        found = await self.get(task)
        return found.state.value, found.outcome

    async def save(self, task, checkpoint_id):
        """A checkpoint, what a node wrote on it, and a step."""
        checkpoint = Checkpoint(
            namespace="", checkpoint_id=checkpoint_id, parent_id=None, task_id=task.id,
            data=snapshot({}), metadata=b"{}",
        )  # fmt: skip
        write = Write(
            node_task="n", number=0, channel="c", path="", data=b"1", checkpoint_id=checkpoint_id
        )
        where = {
            "sealer": self.store.sealer,
            "session_id": task.session_id,
            "epoch": task.epoch,
        }

        commit, _ = checkpoints.of(checkpoint, release=task.release, said=[], **where)
        await self.store.commit(commit)
        await self.store.commit(checkpoints.of_writes([write], task_id=task.id, **where))
        key = f"{checkpoint_id}#1"
        await self.store.transact(
            partial(steps.commit, task_id=task.id, epoch=task.epoch, key=key, output=1, said=[])
        )

    async def state(self, session_id):
        """The latest checkpoint of a session, and whether something was written on it."""
        found = await self.store.read(
            partial(
                checkpoints.get, sealer=self.store.sealer, session_id=session_id, namespace="",
                checkpoint_id=None,
            )
        )  # fmt: skip
        if not found.found:
            return None
        (state,) = found.found
        return state.checkpoint.checkpoint_id, len(state.writes)

    async def waiting(self, queue=QUEUE):
        return (await self.store.read(lambda tx: queues.load(tx, queue))).waiting


# ---------------------------------------------------------------- when a session is busy


async def test_a_message_that_is_to_be_refused_names_the_task_in_the_way(world):
    first = await world.submit()
    with pytest.raises(Conflict, match=f"task {first.id} is queued"):
        await world.submit(first.session_id, multitask_strategy=REJECT)
    (running,) = await world.claim()
    with pytest.raises(Conflict, match=f"task {first.id} is running") as refused:
        await world.submit(first.session_id, multitask_strategy=REJECT)
    assert "penstock task cancel" in refused.value.hint
    await world.end(running)
    assert (await world.submit(first.session_id, multitask_strategy=REJECT)).id
    assert await world.waiting() == 1


async def test_what_is_scheduled_for_later_keeps_no_session_busy(world):
    later = await world.submit(delay_seconds=60)
    now = await world.submit(later.session_id, multitask_strategy=REJECT)
    assert [task.id for task in await world.claim()] == [now.id]
    stopped = await world.submit(later.session_id, multitask_strategy=ROLLBACK)
    assert (await world.get(later)).state is TaskState.QUEUED
    await world.end(await world.get(now))
    assert [task.id for task in await world.claim()] == [stopped.id]


@pytest.mark.parametrize("strategy", [INTERRUPT, ROLLBACK])
async def test_what_waits_makes_way_at_once_and_what_runs_when_its_end_is_committed(
    world, strategy
):
    first = await world.submit()
    (running,) = await world.claim()
    second = await world.submit(first.session_id)
    third = await world.submit(first.session_id, multitask_strategy=strategy)
    outcome = "interrupted" if strategy is INTERRUPT else "rolled_back"
    assert await world.outcome(second) == ("cancelled", outcome)
    asked = await world.get(first)
    assert (asked.state, asked.cancel_requested) == (TaskState.RUNNING, True)
    assert await world.claim() == []  # its end is not committed yet
    await world.end(running, Ending.CANCELLED)
    assert await world.outcome(first) == ("cancelled", outcome)
    assert (await world.get(first)).output is None
    assert [task.id for task in await world.claim()] == [third.id]


async def test_an_interrupted_task_leaves_what_it_committed_and_a_rolled_back_one_nothing(world):
    zero = await world.submit()
    await world.save((await world.claim())[0], "1")
    await world.end(await world.get(zero))
    kept = await world.submit(zero.session_id)
    await world.save((await world.claim())[0], "2")
    undone = await world.submit(zero.session_id, multitask_strategy=INTERRUPT)
    await world.end(await world.get(kept), Ending.CANCELLED)
    assert await world.state(zero.session_id) == ("2", 1)
    await world.save((await world.claim())[0], "3")
    assert await world.state(zero.session_id) == ("3", 1)
    await world.submit(zero.session_id, multitask_strategy=ROLLBACK)
    await world.end(await world.get(undone), Ending.CANCELLED)
    assert await world.outcome(undone) == ("cancelled", "rolled_back")
    assert await world.state(zero.session_id) == ("2", 1)
    for task, journal in ((zero, 1), (kept, 1), (undone, 0)):
        assert len(await world.store.read(partial(steps.journal, task_id=task.id))) == journal


async def test_a_late_writer_of_a_rolled_back_task_changes_nothing(world):
    first = await world.submit()
    (running,) = await world.claim()
    await world.submit(first.session_id, multitask_strategy=ROLLBACK)
    await world.end(running, Ending.CANCELLED)
    for write in (world.save(running, "9"), world.end(running)):
        with pytest.raises(Stale):
            await write
    assert await world.state(first.session_id) is None
    assert await world.outcome(first) == ("cancelled", "rolled_back")


@pytest.mark.parametrize(
    ("strategy", "outcome"), [(INTERRUPT, "interrupted"), (ROLLBACK, "rolled_back")]
)
async def test_the_reaper_ends_a_dead_owners_task_as_it_was_wished(world, strategy, outcome):
    first = await world.submit()
    (running,) = await world.claim(worker="wrk_that_is_gone")
    await world.save(running, "1")
    second = await world.submit(first.session_id, multitask_strategy=strategy)
    assert await world.store.transact(_take_batch) == 1
    assert await world.outcome(first) == ("cancelled", outcome)
    assert await world.state(first.session_id) == (("1", 1) if strategy is INTERRUPT else None)
    assert [task.id for task in await world.claim()] == [second.id]


async def test_a_cancelled_task_of_a_dead_owner_ends_as_well(world):
    first = await world.submit()
    await world.claim(worker="wrk_that_is_gone")
    await world.store.transact(lambda tx: endings.cancel(tx, first.id))
    await world.store.transact(_take_batch)
    assert await world.outcome(first) == ("cancelled", "cancelled")


async def test_a_stronger_wish_is_not_taken_back_by_a_weaker_one(world):
    first = await world.submit()
    (running,) = await world.claim()
    await world.submit(first.session_id, multitask_strategy=ROLLBACK)
    await world.submit(first.session_id, multitask_strategy=INTERRUPT)
    await world.store.transact(lambda tx: endings.cancel(tx, first.id))
    await world.end(running, Ending.CANCELLED)
    assert await world.outcome(first) == ("cancelled", "rolled_back")


async def test_a_begun_task_that_waits_for_its_next_attempt_is_undone_too(world):
    first = await world.submit()
    (running,) = await world.claim()
    await world.save(running, "1")
    await world.end(running, Ending.CRASH)
    assert (await world.get(first)).state is TaskState.QUEUED
    second = await world.submit(first.session_id, multitask_strategy=ROLLBACK)
    assert await world.outcome(first) == ("cancelled", "rolled_back")
    assert await world.state(first.session_id) is None
    assert [task.id for task in await world.claim()] == [second.id]


@pytest.mark.parametrize("strategy", [INTERRUPT, ROLLBACK])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_task_that_waits_for_a_person_makes_way_at_once(world, strategy, answered):
    first = await world.submit()
    (running,) = await world.claim()
    await world.save(running, "1")
    await world.end(running, Ending.WAITING, waits=[Wait(id="a", kind="interrupt", value=1)])
    with pytest.raises(Conflict, match="is waiting"):
        await world.submit(first.session_id, multitask_strategy=REJECT)
    if answered:
        task = await world.get(first)
        await world.store.transact(partial(waiting.resume, task=task, answers={"a": 2}, said={}))
    second = await world.submit(first.session_id, multitask_strategy=strategy)
    done = await world.get(first)
    assert done.outcome == ("interrupted" if strategy is INTERRUPT else "rolled_back")
    assert "later message" in done.error["message"]
    assert await world.state(first.session_id) == (("1", 1) if strategy is INTERRUPT else None)
    assert [task.id for task in await world.claim()] == [second.id]


async def test_a_task_that_asks_a_person_while_it_is_to_be_stopped_does_not_wait(world):
    first = await world.submit()
    (running,) = await world.claim()
    await world.submit(first.session_id, multitask_strategy=ROLLBACK)
    await world.end(running, Ending.WAITING, waits=[Wait(id="a", kind="interrupt", value=1)])
    assert await world.outcome(first) == ("cancelled", "rolled_back")


async def test_an_answered_task_goes_on_before_the_next_message(world):
    first = await world.submit()
    (running,) = await world.claim()
    behind = await world.submit(first.session_id, priority=100)
    await world.end(running, Ending.WAITING, waits=[Wait(id="a", kind="interrupt", value=1)])
    assert await world.claim() == []
    task = await world.get(first)
    await world.store.transact(partial(waiting.resume, task=task, answers={"a": 2}, said={}))
    (again,) = await world.claim()
    assert again.id == first.id
    await world.end(again)
    assert [task.id for task in await world.claim()] == [behind.id]


@pytest.mark.parametrize("strategy", [INTERRUPT, ROLLBACK])
async def test_a_message_and_the_end_of_the_task_in_its_way_may_meet(world, strategy):
    """Either comes first; what was ended stays so, and the next always runs."""
    for _ in range(12):
        first = await world.submit()
        (running,) = await world.claim()
        await world.save(running, "1")
        _, second = await asyncio.gather(
            world.end(running), world.submit(first.session_id, multitask_strategy=strategy)
        )
        state, outcome = await world.outcome(first)
        assert (state, outcome) in {("completed", "ok"), ("cancelled", "rolled_back")}
        assert strategy is ROLLBACK or state == "completed"
        left = await world.state(first.session_id)
        assert left == (("1", 1) if state == "completed" else None)
        assert [task.id for task in await world.claim()] == [second.id]
        await world.end(await world.get(second))


@pytest.mark.parametrize("strategy", [INTERRUPT, ROLLBACK, REJECT])
async def test_of_messages_that_arrive_at_once_one_is_left(world, strategy):
    first = await world.submit()
    (running,) = await world.claim()
    if strategy is REJECT:
        await world.end(running)
    found = await asyncio.gather(
        *(world.submit(first.session_id, multitask_strategy=strategy) for _ in range(6)),
        return_exceptions=True,
    )
    made = [task for task in found if not isinstance(task, Exception)]
    if strategy is REJECT:
        assert len(made) == 1
        assert all(isinstance(one, Conflict) for one in found if one not in made)
    else:
        assert len(made) == 6
        await world.end(running, Ending.CANCELLED)
    (only,) = await world.claim()
    states = Counter([(await world.get(task)).state.value for task in made])
    assert states == {"running": 1, **({} if strategy is REJECT else {"cancelled": 5})}
    await world.end(only)
    assert await world.claim() == []
    assert await world.waiting() == 0


# ---------------------------------------------------------------- who runs next


async def test_messages_of_a_session_run_in_the_order_in_which_they_are_due(world):
    first = await world.submit()
    late = await world.submit(first.session_id, delay_seconds=0.3)
    moment = datetime.fromtimestamp(first.created_us / 1e6 + 0.15, UTC)
    between = await world.submit(first.session_id, run_at=moment.isoformat())
    second = await world.submit(first.session_id)
    order = []
    async with asyncio.timeout(20):
        while len(order) < 4:
            for task in await world.claim():
                order.append(task.id)
                await world.end(task)
    made = [first, late, between, second]
    assert order == [task.id for task in sorted(made, key=lambda task: task.due_us)]


async def test_priority_goes_first_among_a_users_tasks_and_breaks_no_session(world):
    session = (await world.submit(user_id="ada")).session_id
    behind = await world.submit(session, priority=100)
    low, high = [await world.submit(user_id="ada", priority=number) for number in (-1, 5)]
    first, second = await world.claim(2)
    assert (first.id, second.session_id) == (high.id, session)
    assert [task.id for task in await world.claim(1)] == [low.id]
    await world.end(second)
    assert [task.id for task in await world.claim()] == [behind.id]


async def test_no_agent_and_no_user_starves_another(world):
    await world.deploy("other")
    heap = [await world.submit(user_id=f"user-{number % 3}", given=number) for number in range(90)]
    single = await world.submit(user_id="zoe", priority=-100)
    elsewhere = await world.submit(agent="other")
    served = [await world.claim(1) for _ in range(8)]
    order = [task.id for (task,) in served]
    assert elsewhere.id in order[:2]
    assert single.id in order[:5]
    assert heap[0].id in order[:2]
    users = Counter(task.input % 3 for (task,) in served if task.input is not None)
    assert max(users.values()) - min(users.values()) <= 1


async def test_many_users_are_claimed_in_turns_over_many_claims(world):
    for number in range(60):
        await world.submit(user_id=f"user-{number // 3:02d}", given=number // 3)
    first = [task.input for _ in range(4) for task in await world.claim(5)]
    assert sorted(first) == list(range(20))  # everybody once before anybody twice
    rest = [task.input for _ in range(8) for task in await world.claim(5)]
    assert Counter(rest) == dict.fromkeys(range(20), 2)
    assert await world.claim() == []


async def test_what_falls_due_at_once_is_claimed_once_by_whoever_claims(world):
    first = await world.submit()
    moment = datetime.fromtimestamp(first.created_us / 1e6 + 0.01, UTC).isoformat()
    made = {first.id} | {
        (await world.submit(run_at=moment, user_id=f"u{n % 7}")).id for n in range(80)
    }

    async def worker(name):
        turns, found = Turns(), []
        async with asyncio.timeout(30):
            while len(claimed) < len(made):
                taken = await world.store.transact(
                    partial(claims.claim, worker_id=name, limit=4, turns=turns)
                )
                turns = after_claims(turns, taken)
                claimed.extend(claim.task.id for claim in taken)
        return found

    claimed = []
    await asyncio.gather(*(worker(f"w{number}") for number in range(4)))
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == made


# ---------------------------------------------------------------- stateless tasks


@pytest.mark.parametrize("ending", [Ending.OK, Ending.ERROR])
async def test_a_stateless_task_leaves_its_record_and_nothing_else(world, ending):
    task = await world.submit(stateless=True, given="x")
    (running,) = await world.claim()
    await world.save(running, "1")
    assert await world.state(task.session_id) == ("1", 1)
    await world.end(running, ending)
    done = await world.get(task)
    assert (done.stateless, done.input, done.outcome) == (True, "x", ending.value)
    assert await world.state(task.session_id) is None
    assert await world.store.read(partial(steps.journal, task_id=task.id)) == []
    session = await world.store.read(lambda tx: sessions.get(tx, task.session_id))
    assert (session.state, session.tasks) == ("closed", 1)


async def test_a_stateless_task_that_is_tried_again_goes_on_where_it_was(world):
    task = await world.submit(stateless=True)
    (running,) = await world.claim()
    await world.save(running, "1")
    await world.end(running, Ending.LOST)
    assert await world.state(task.session_id) == ("1", 1)
    assert [one.id for one in await world.claim()] == [task.id]


# ---------------------------------------------------------------- idempotency


async def test_a_key_stands_for_one_request(world):
    one = await world.submit(given={"a": 1, "b": 2}, idempotency_key="k")
    assert (await world.submit(given={"b": 2, "a": 1}, idempotency_key="k")).id == one.id
    for other in ({"given": {"a": 2}}, {"given": {"a": 1, "b": 2}, "priority": 1}):
        with pytest.raises(Conflict, match=f"another request: that of task {one.id}"):
            await world.submit(**other, idempotency_key="k")
    assert await world.waiting() == 1


async def test_of_different_requests_with_one_key_at_once_one_becomes_a_task(world):
    session = (await world.submit()).session_id
    for number in range(5):
        made = await asyncio.gather(
            *(
                world.submit(where, given=n % 2, idempotency_key=f"k{number}", multitask_strategy=s)
                for n in range(4)
                for where, s in ((None, MultitaskStrategy.ENQUEUE), (session, INTERRUPT))
            ),
            return_exceptions=True,
        )
        tasks_made = [one for one in made if not isinstance(one, Exception)]
        assert len({task.id for task in tasks_made}) == 1
        assert len(tasks_made) == 2  # the same request was made twice
        assert all("another request" in str(one) for one in made if isinstance(one, Exception))


# ---------------------------------------------------------------- full queues


async def test_a_full_queue_takes_no_more_however_many_come_at_once(world):
    world.submissions = Submissions(world.store, Judges(), QueueLimits(each=5, total=100))
    found = await asyncio.gather(*(world.submit() for _ in range(12)), return_exceptions=True)
    refused = [one for one in found if isinstance(one, Exception)]
    assert len(refused) == 7
    assert all(isinstance(one, Exhausted) and one.retry_after_seconds >= 1 for one in refused)
    assert "is full: 5 tasks" in refused[0].message
    assert await world.waiting() == 5
    assert len(await world.store.read(partial(tasks.listing, limit=100))) == 5
    assert len(await world.store.read(partial(sessions.listing, limit=100))) == 5
    await world.claim(2)
    found = await asyncio.gather(*(world.submit() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, Exhausted) for one in found) == 2


async def test_all_queues_together_have_a_limit_and_one_full_queue_is_no_others_concern(world):
    await world.deploy("other")
    world.submissions = Submissions(world.store, Judges(), QueueLimits(each=3, total=5))
    for _ in range(3):
        await world.submit()
    with pytest.raises(Exhausted, match=f"the queue of {AGENT} in {ENVIRONMENT} is full"):
        await world.submit()
    for _ in range(2):
        await world.submit(agent="other")
    with pytest.raises(Exhausted, match="of this installation is full"):
        await world.submit(agent="other")
    assert (await world.waiting(), await world.waiting(ALL)) == (3, 5)


async def test_a_queue_holds_what_has_not_begun_and_nothing_else(world):
    made = [await world.submit() for _ in range(4)]
    assert await world.waiting() == 4
    await world.store.transact(lambda tx: endings.cancel(tx, made[0].id))
    (running,) = await world.claim(1)
    assert await world.waiting() == 2
    await world.end(running, Ending.LOST)  # begun once: it is not counted again
    assert await world.waiting() == 2
    await world.claim()
    assert (await world.waiting(), await world.waiting(ALL)) == (0, 0)


async def test_a_queue_that_only_seems_full_is_counted_again(world, database):
    world.submissions = Submissions(world.store, Judges(), QueueLimits(each=3, total=100))
    for _ in range(3):
        await world.submit()
    await database.execute("delete from tasks where state = 'queued'")
    assert (await world.submit()).id
    assert await world.waiting() == 1


async def test_a_refused_message_stops_nothing(world):
    world.submissions = Submissions(world.store, Judges(), QueueLimits(each=1, total=100))
    first = await world.submit()
    await world.claim()
    await world.submit()
    with pytest.raises(Exhausted):
        await world.submit(first.session_id, multitask_strategy=ROLLBACK)
    assert (await world.get(first)).stop is None
    assert (await world.get(first)).state not in TERMINAL
