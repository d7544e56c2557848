"""Any history of messages, claims, ends, crashes and late writers leaves every session in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_queue import World

from penstock.domain.errors import Conflict, Stale
from penstock.domain.tasks import TERMINAL, Ending, MultitaskStrategy, TaskState, Wait
from penstock.rules.tasks import makes_way
from penstock.runtime.reapers import _take_batch
from penstock.store import checkpoints, endings, queues, tasks, waiting
from rollout_world import AGENT, ENVIRONMENT

EXAMPLES = {"sqlite": 40, "postgres": 8}
STEPS = 25
BUSY = (TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING)
PLACES = st.integers(0, 7)


class Machine(RuleBasedStateMachine):
    """What the queue has promised, beside what the store says."""

    def __init__(self, world, loop):
        super().__init__()
        self.world, self.loop = world, loop
        self.sessions = []
        self.accepted = []  # ids in the order in which they were accepted
        self.claims = []  # every claim ever made
        self.over = {}  # the outcome of what has ended
        self.saved = defaultdict(list)  # checkpoints by the task that saved them
        self.checkpoint = 0

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def read(self, work):
        return self.do(self.world.store.read(work))

    def all(self):
        return [self.read(partial(tasks.get, task_id=task_id)) for task_id in self.accepted]

    def running(self):
        return [task for task in self.all() if task.state is TaskState.RUNNING]

    def save(self, task, name):
        self.do(self.world.save(task, name))

    # ------------------------------------------------------------ what happens

    @rule(user=st.sampled_from([None, "ada", "bob"]), priority=st.integers(-1, 1))
    def begin(self, user, priority):
        task = self.do(self.world.submit(user_id=user, priority=priority))
        self.sessions.append(task.session_id)
        self.accepted.append(task.id)

    @precondition(lambda self: self.sessions)
    @rule(where=PLACES, strategy=st.sampled_from(MultitaskStrategy), priority=st.integers(-1, 1))
    def message(self, where, strategy, priority):
        session = self.sessions[where % len(self.sessions)]
        before = [task for task in self.all() if task.session_id == session]
        busy = [task for task in before if task.state in BUSY]
        asked = {"multitask_strategy": strategy, "priority": priority}
        if busy and strategy is MultitaskStrategy.REJECT:
            with pytest.raises(Conflict, match="is busy"):
                self.do(self.world.submit(session, **asked))
            return
        task = self.do(self.world.submit(session, **asked))
        self.accepted.append(task.id)
        if makes_way(strategy) is not None:
            for one in busy:
                now = self.read(partial(tasks.get, task_id=one.id))
                assert now.state in TERMINAL or (
                    now.state is TaskState.RUNNING and now.stop is not None
                )

    @rule(limit=st.integers(1, 4))
    def claim(self, limit):
        live = [task for task in self.all() if task.state in BUSY]
        for task in self.do(self.world.claim(limit)):
            ahead = [
                one.id
                for one in live
                if one.session_id == task.session_id and one.due_us < task.due_us
            ]
            assert ahead == [], "it overtook another of its session"
            assert task.stop is None
            self.claims.append(task)

    @precondition(lambda self: self.claims)
    @rule(which=PLACES)
    def save_some(self, which):
        running = self.running()
        if running:
            task = running[which % len(running)]
            self.checkpoint += 1
            self.save(task, f"{self.checkpoint:06d}")
            self.saved[task.id].append(f"{self.checkpoint:06d}")

    @precondition(lambda self: self.claims)
    @rule(
        which=PLACES,
        ending=st.sampled_from(
            [Ending.OK, Ending.ERROR, Ending.LOST, Ending.CRASH, Ending.CANCELLED, Ending.WAITING]
        ),
    )
    def end(self, which, ending):
        running = self.running()
        if running:
            waits = [Wait(id="a", kind="interrupt", value=1)] if ending is Ending.WAITING else []
            self.do(self.world.end(running[which % len(running)], ending, waits))

    @precondition(lambda self: self.accepted)
    @rule(which=PLACES)
    def answer(self, which):
        asking = [task for task in self.all() if task.state is TaskState.WAITING]
        if asking:
            task = asking[which % len(asking)]
            self.do(
                self.world.store.transact(
                    partial(waiting.resume, task=task, answers={"a": 1}, said={})
                )
            )

    @rule()
    def workers_die(self):
        self.do(self.world.store.transact(_take_batch))

    @precondition(lambda self: self.accepted)
    @rule(which=st.integers(0, 100))
    def cancel(self, which):
        task_id = self.accepted[which % len(self.accepted)]
        self.do(self.world.store.transact(partial(endings.cancel, task_id=task_id)))

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 100))
    def a_late_writer_comes(self, which):
        claim = self.claims[which % len(self.claims)]
        now = self.read(partial(tasks.get, task_id=claim.id))
        if now.state is not TaskState.RUNNING or now.epoch != claim.epoch:
            with pytest.raises(Stale):
                self.save(claim, "999999")
            with pytest.raises(Stale):
                self.do(self.world.end(claim))

    # ------------------------------------------------------------ what holds

    @invariant()
    def nothing_is_lost_and_what_has_ended_stays_so(self):
        for task in self.all():
            if task.id in self.over:
                assert (task.state, task.outcome) == self.over[task.id]
            elif task.state in TERMINAL:
                self.over[task.id] = (task.state, task.outcome)

    @invariant()
    def a_session_has_one_task_at_a_time_and_is_free_when_that_has_ended(self):
        by_session = defaultdict(list)
        for task in self.all():
            if task.state in BUSY:
                by_session[task.session_id].append(task)
        for session in self.sessions:
            begun = [t for t in by_session[session] if t.state is not TaskState.QUEUED]
            assert len(begun) <= 1
            live, _ = self.read(partial(tasks.live_in_session, session_id=session))
            assert bool(live) == bool(by_session[session])

    @invariant()
    def a_session_holds_what_its_tasks_committed_and_were_not_rolled_back(self):
        found_now = self.all()
        rolled_back = {task.id for task in found_now if task.outcome == "rolled_back"}
        for session in self.sessions:
            kept = [
                checkpoint
                for task in found_now
                if task.session_id == session and task.id not in rolled_back
                for checkpoint in self.saved[task.id]
            ]
            found = self.read(
                partial(
                    checkpoints.listing,
                    sealer=self.world.store.sealer,
                    session_id=session,
                    namespace=None,
                    before=None,
                    limit=None,
                )
            ).found
            assert sorted(one.checkpoint.checkpoint_id for one in found) == sorted(kept)

    @invariant()
    def the_queue_is_as_long_as_it_says(self):
        load = self.read(partial(queues.load, queue=(AGENT, ENVIRONMENT)))
        unbegun = [t for t in self.all() if t.state is TaskState.QUEUED and t.epoch == 0]
        assert load.waiting == len(unbegun)

    def teardown(self):
        for task in self.all():
            if task.state in BUSY:
                self.do(self.world.store.transact(partial(endings.cancel, task_id=task.id)))
        self.do(self.world.store.transact(_take_batch))
        assert all(task.state in TERMINAL for task in self.all())


async def test_every_history_leaves_the_queue_in_order(database):
    world = World(await database.open())
    await world.deploy(AGENT)
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(
        run_state_machine_as_test,
        lambda: Machine(world, loop),
        settings=settings(
            max_examples=EXAMPLES[database.kind],
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
