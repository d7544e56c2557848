"""Commits of several attempts that arrive together share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest

from penstock.domain.errors import Conflict, Stale, Unavailable
from penstock.domain.releases import Limits
from penstock.rules.limits import Terms
from penstock.runtime.journals import Journal
from penstock.store import Commit, claims, endings, events, sessions, steps, tasks, workflows
from penstock.store.commits import Completion, apply
from rollout_world import AGENT, ENVIRONMENT, release

COUNT = 8


@pytest.fixture
async def owned(store):
    """Running tasks ``task_1`` to ``task_8``, each of a session of its own."""
    digest = (await release(store, "one")).digest

    async def work(tx):
        for n in range(1, COUNT + 1):
            await sessions.add(
                tx,
                session_id=f"ses_{n}",
                agent=AGENT,
                environment=ENVIRONMENT,
                release=digest,
                user_id=None,
                metadata={},
                rollout_id=None,
                arm=None,
                judge=None,
            )
            await tasks.add(
                tx,
                task_id=f"task_{n}",
                session_id=f"ses_{n}",
                agent=AGENT,
                environment=ENVIRONMENT,
                release=digest,
                given=None,
            )
        return await claims.claim(tx, worker_id="w1", limit=COUNT)

    found = await store.transact(work)
    return {claim.task.id: claim for claim in found}


def step(n, key="a#1", *, epoch=1, said=(), output=None):
    return steps.of(task_id=f"task_{n}", epoch=epoch, key=key, output=output, said=list(said))


async def journal(store, n):
    return await store.read(partial(steps.journal, task_id=f"task_{n}"))


async def told(store, n):
    found = await store.read(partial(events.after, task_id=f"task_{n}", after=0, limit=100))
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    return [event.kind for event in found]


async def together(store, *commits):
    return await asyncio.gather(*map(store.commit, commits), return_exceptions=True)


@contextlib.asynccontextmanager
async def held(database, *numbers):
    """Rows of tasks that somebody else holds: whoever wants to commit there must wait."""
    import asyncpg  # noqa: PLC0415 - only where there is a server

    holder, other = [await asyncpg.connect(database.url) for _ in range(2)]
    holding = holder.transaction()
    await holding.start()
    ids = [f"task_{n}" for n in numbers]
    await holder.execute("select 1 from tasks where id = any($1) for update", ids)
    try:
        yield other
    finally:
        await holding.rollback()
        await holder.close()
        await other.close()


async def blocked(connection, count):
    """Waits until so many sessions wait for a lock."""
    query = (
        "select count(*) from pg_stat_activity"
        " where wait_event_type = 'Lock' and datname = current_database()"
    )
    while await connection.fetchval(query) < count:
        await asyncio.sleep(0.01)


async def busy_lanes(store, other):
    """Both lanes, waiting for ``task_1`` and ``task_2``: what comes now must gather."""
    first = asyncio.create_task(store.commit(step(1)))
    await blocked(other, 1)
    second = asyncio.create_task(store.commit(step(2)))
    await blocked(other, 2)
    return [first, second]


async def test_every_member_lands_with_its_own_number_and_events(store, owned):
    answers = await together(
        store, *(step(n, said=[("x", i) for i in range(n)]) for n in range(1, COUNT + 1))
    )
    assert answers == [1] * COUNT
    for n in range(1, COUNT + 1):
        assert await told(store, n) == ["started", *["x"] * n, "step"]
        assert await journal(store, n) == [{"key": "a#1", "output": None}]


async def test_a_stale_member_is_refused_alone(store, owned):
    answers = await together(store, step(1), step(2, epoch=7), step(3), step(4, epoch=0))
    assert [type(answer) for answer in answers] == [int, Stale, int, Stale]
    assert await journal(store, 2) == []
    assert await told(store, 2) == ["started"]
    assert len(await journal(store, 1)) == len(await journal(store, 3)) == 1


async def test_a_step_on_record_is_refused_alone(store, owned):
    await store.commit(step(2))
    answers = await together(store, step(1), step(2, said=[("x", 1)]), step(3))
    assert [type(answer) for answer in answers] == [int, Conflict, int]
    assert await told(store, 2) == ["started", "step"]
    assert [len(await journal(store, n)) for n in (1, 2, 3)] == [1, 1, 1]


async def test_what_cannot_be_written_is_its_own_error(store, owned):
    broken = [("logs.add", [{"task_id": "task_2"}])]
    bad = Commit(task_id="task_2", epoch=1, said=[("x", 1)], rows=broken)
    mute = Commit(task_id="task_4", epoch=1, said=[("x", object())])
    answers = await together(store, step(1), bad, step(3), mute)
    assert isinstance(answers[1], Exception)
    assert isinstance(answers[3], TypeError)
    assert answers[0] == answers[2] == 1
    assert await told(store, 2) == await told(store, 4) == ["started"]


async def test_rows_belong_to_their_step(store, owned):
    line = {"task_id": "task_1", "epoch": 1, "stream": "stdout", "text": "t"}
    rows = [("logs.add", [{**line, "number": 1}, {**line, "number": 2}])]
    whole = Commit(task_id="task_1", epoch=1, step=step(1).step, rows=rows)
    assert await together(store, whole, step(2)) == [1, 1]
    found = await store.read(partial(logs_of, "task_1"))
    assert [line.number for line in found] == [1, 2]


async def logs_of(task_id, tx):
    from penstock.store import logs  # noqa: PLC0415 - one test's

    return await logs.of_task(tx, task_id)


async def test_one_task_commits_in_its_order(store, owned):
    answers = await together(store, *(step(1, key=f"a#{i}") for i in range(20)), step(2))
    assert answers == [*range(1, 21), 1]
    assert [done["key"] for done in await journal(store, 1)] == [f"a#{i}" for i in range(20)]


async def test_only_what_was_committed_is_told(store, owned):
    heard = []
    store.subscribe("task", heard.append)
    await together(store, step(1), step(2, epoch=7), step(3))
    assert sorted(set(heard)) == ["task_1", "task_3"]


async def test_as_a_unit_of_work_it_is_the_same(store, owned):
    assert await store.transact(partial(apply, commit=step(1, said=[("x", 1)]))) == 1
    with pytest.raises(Stale):
        await store.transact(partial(apply, commit=step(1, key="b#1", epoch=7)))
    assert await told(store, 1) == ["started", "x", "step"]


# ---------------------------------------------------------------- what only PostgreSQL can do


async def test_those_who_wait_share_one_transaction(database, store, owned):
    if database.url is None:
        pytest.skip("on SQLite the writer thread groups what is queued")
    async with held(database, 1, 2) as other:
        lanes = await busy_lanes(store, other)
        waiting = [asyncio.create_task(store.commit(step(n))) for n in (3, 4, 5, 6)]
        await asyncio.sleep(0)  # they are in line
    assert await asyncio.gather(*lanes, *waiting) == [1] * 6
    async with held(database) as other:
        query = "select count(distinct xmin::text) from steps where task_id = any($1)"
        assert await other.fetchval(query, ["task_3", "task_4", "task_5", "task_6"]) == 1


async def test_a_caller_that_gives_up_takes_nobody_along(database, store, owned):
    if database.url is None:
        pytest.skip("on SQLite nobody waits for a row")
    async with held(database, 1, 2) as other:
        lanes = await busy_lanes(store, other)
        waiting = [asyncio.create_task(store.commit(step(n))) for n in (3, 4)]
        await asyncio.sleep(0)
        lanes[0].cancel()  # it is being written: it may land
        waiting[0].cancel()  # it was not begun: it may not
        await asyncio.wait({lanes[0], waiting[0]})
    assert await asyncio.gather(lanes[1], waiting[1]) == [1, 1]
    assert await journal(store, 3) == []
    assert await store.commit(step(3, key="b#1")) == 1


async def test_a_cut_in_the_middle_is_told_to_every_member(database, store, owned):
    if database.url is None:
        pytest.skip("SQLite has no connection that could be cut")
    cut = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where wait_event_type = 'Lock' and datname = current_database()"
    )
    async with held(database, 1, 2, 3) as other:
        lanes = await busy_lanes(store, other)
        group = [asyncio.create_task(store.commit(step(n))) for n in (3, 4, 5)]
        await asyncio.sleep(0)  # they are in line
        await other.execute(cut)
        lost = await asyncio.gather(*lanes, return_exceptions=True)
        await blocked(other, 1)  # the group is being written
        await other.execute(cut)
        lost += await asyncio.gather(*group, return_exceptions=True)
    assert [type(one) for one in lost] == [Unavailable] * 5
    assert [await journal(store, n) for n in range(1, 6)] == [[]] * 5
    assert await together(store, *(step(n) for n in range(1, 6))) == [1] * 5


async def test_a_member_whose_answer_was_lost_is_read_again(store, owned, monkeypatch):
    """The commit of a group lands, its answer does not: each journal finds its own step."""
    real = store.commit

    async def unheard(commit):
        await real(commit)
        monkeypatch.setattr(store, "commit", real)
        raise Unavailable("the answer was lost")

    mine = Journal(store, owned["task_1"], Terms(own=Limits(), caps={}, limits=Limits()))
    monkeypatch.setattr(store, "commit", unheard)
    await mine.commit_step("a#1", 1, [])
    assert mine.steps == 1
    assert await journal(store, 1) == [{"key": "a#1", "output": 1}]


async def test_servers_hear_of_each_others_commits(database, store, owned):
    if database.url is None:
        pytest.skip("SQLite has one server")
    heard = asyncio.Event()
    other = await database.open()
    other.subscribe("task", lambda task_id: heard.set() if task_id == "task_1" else None)
    await store.commit(step(1))
    async with asyncio.timeout(20):
        await heard.wait()


# ---------------------------------------------------------------- ends and beginnings


def end(n, output, *, epoch=1, said=(), accounted=True):
    completion = Completion(output=output, crashes=0, losses=0, waited_us=0, accounted=accounted)
    return Commit(task_id=f"task_{n}", epoch=epoch, said=list(said), completion=completion)


async def task(store, n):
    return await store.read(partial(tasks.get, task_id=f"task_{n}"))


async def account(store, n):
    return await store.read(partial(sessions.get, session_id=f"ses_{n}"))


async def queue_behind(store, n, number, **more):
    like = await task(store, n)
    add = partial(
        tasks.add, task_id=f"task_{number}", session_id=f"ses_{n}", agent=AGENT,
        environment=ENVIRONMENT, release=like.release, given=None, **more,
    )  # fmt: skip
    await store.transact(add)


async def test_ends_and_steps_go_together(store, owned):
    heard = []
    store.subscribe("done", heard.append)
    answers = await together(
        store, step(1), end(2, {"a": [1]}, said=[("x", 1)]), step(3), end(4, None)
    )
    assert answers == [1, 0, 1, 0]
    done = [await task(store, n) for n in (2, 4)]
    assert [(one.state.value, one.outcome, one.output) for one in done] == [
        ("completed", "ok", {"a": [1]}), ("completed", "ok", None),
    ]  # fmt: skip
    assert all(one.worker_id is None and one.finished_us for one in done)
    assert await told(store, 2) == ["started", "x", "finished"]
    found = await store.read(partial(events.after, task_id="task_2", after=2, limit=9))
    assert found[0].data == {"state": "completed", "outcome": "ok", "output": {"a": [1]}}
    assert [(await account(store, n)).tasks for n in (1, 2, 3, 4)] == [0, 1, 0, 1]
    assert sorted(heard) == ["task_2", "task_4"]


async def test_an_end_is_refused_to_a_late_owner_and_a_second_time(store, owned):
    assert type((await together(store, end(1, "late", epoch=7), step(2)))[0]) is Stale
    assert (await task(store, 1)).state.value == "running"
    await store.commit(end(1, "mine"))
    answers = await together(store, end(1, "again"), step(1), step(2, key="b#1"))
    assert [type(answer) for answer in answers] == [Stale, Stale, int]
    assert (await task(store, 1)).output == "mine"
    assert (await account(store, 1)).tasks == 1


async def test_a_task_that_is_to_be_stopped_has_another_end(store, owned):
    await store.transact(partial(endings.cancel, task_id="task_1"))
    answers = await together(store, end(1, "x"), end(2, "y"))
    assert [type(answer) for answer in answers] == [Stale, int]
    assert (await task(store, 1)).state.value == "running"


async def test_the_next_of_a_session_may_begin(store, owned):
    await queue_behind(store, 1, 20)
    await queue_behind(store, 2, 21)
    heard = []
    store.subscribe("queue", heard.append)
    await together(store, end(1, "x"), end(2, "y"), end(3, "z"))
    assert heard
    found = await store.transact(partial(claims.claim, worker_id="w1", limit=8))
    assert sorted(claim.task.id for claim in found) == ["task_20", "task_21"]


async def test_the_last_of_a_session_closes_it(store, owned):
    await store.transact(partial(endings.close_after, session_id="ses_1"))
    await store.transact(partial(endings.close_after, session_id="ses_2"))
    await queue_behind(store, 2, 21)
    await together(store, end(1, "x"), end(2, "y"), end(3, "z"))
    states = [(await account(store, n)).state for n in (1, 2, 3)]
    assert states == ["closed", "open", "open"]


async def test_workflows_begin_together_each_once(store, owned):
    digest = (await task(store, 1)).release

    def begin(n, key):
        return store.begin(
            workflows.beginning(
                task_id=f"task_w{n}",
                session_id=f"ses_w{n}",
                function="f",
                release=digest,
                given=n,
                key=key,
                worker_id="w1",
            )
        )

    await begin(0, "known")
    found = await asyncio.gather(
        store.commit(step(1)), begin(1, None), begin(2, "known"), begin(3, "new"),
        store.commit(step(2)), return_exceptions=True,
    )  # fmt: skip
    assert [found[0], type(found[2]), found[4]] == [1, Conflict, 1]
    assert [found[1].task.input, found[3].task.input, found[3].epoch] == [1, 3, 1]
    assert found[3].task.state.value == "running"
