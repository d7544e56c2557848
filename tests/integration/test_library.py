"""Workflows in a program's own process survive it: no step that was committed is done again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from penstock import step
from penstock.actions.workers import WorkerActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, Invalid, PenstockError, Unavailable
from penstock.library import WorkflowFailed, Workflows
from penstock.store import claims, endings, tasks

PROGRAM = """
import asyncio, os, sys, time
from pathlib import Path

from penstock import step
from penstock.library import Workflows

database, ledger, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
workflows = Workflows(database)

def done(name):
    with ledger.open("a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    return name

def hang(name):
    done(name)
    if what == "hang":
        time.sleep(600)
    return name

@workflows.workflow
def order(number):
    return [step("one", done, "one"), step("two", hang, "two"), step("three", done, "three"), number]

async def main():
    async with workflows:
        print("open", flush=True)
        if what == "idle":
            await asyncio.sleep(600)
        print(await workflows.run(order, 7, id="order-7"), flush=True)

asyncio.run(main())
"""


def where(database):
    return database.url or str(database.home)


def program(tmp_path, database, what):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, file, where(database), tmp_path / "ledger", what],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def lines(tmp_path: Path) -> list[str]:
    ledger = tmp_path / "ledger"
    return [line.split()[0] for line in ledger.read_text().splitlines()] if ledger.exists() else []


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


calls: list[str] = []


def count(name):
    calls.append(name)
    return len(calls)


async def acount(name):
    await asyncio.sleep(0)
    return count(name)


async def both(given):
    """Async steps, and plain ones from the middle of the event loop."""
    return [await step("a", acount, given), step("b", count, given), await step("a", acount, given)]


def plain(first, second):
    return step("a", count, first) + step("a", count, second)


async def failing(given):
    step("a", count, given)
    raise LookupError(given)


@pytest.fixture
def work(database):
    calls.clear()
    return Workflows(where(database))


async def test_a_workflow_is_run_once_for_its_id(work):
    async with work:
        assert await work.run(both, "x", id="one") == [1, 2, 3]
        assert await work.run(both, "x", id="one") == [1, 2, 3]
        assert await work.run(both, "x", id="two") == [4, 5, 6]
    assert len(calls) == 6


async def test_many_at_once_and_plain_functions(work):
    async with work:
        given = {"first": "x", "second": "y"}
        found = await asyncio.gather(*(work.run(plain, given) for _ in range(30)))
    assert len(found) == 30
    assert sorted(calls) == ["x"] * 30 + ["y"] * 30


async def test_two_callers_of_one_id_share_one_run(work):
    async with work:
        found = await asyncio.gather(*(work.run(both, "x", id="one") for _ in range(5)))
    assert found == [[1, 2, 3]] * 5
    assert len(calls) == 3


async def test_an_id_stands_for_one_input(work):
    async with work:
        await work.run(plain, {"first": "x", "second": "y"}, id="one")
        with pytest.raises(Conflict, match=r"'one' .* another input") as refused:
            await work.run(plain, {"first": "x", "second": "z"}, id="one")
        assert '"second":"y"' in refused.value.hint
        await work.run(both, 1, id="one")
        with pytest.raises(Conflict):
            await work.run(both, True, id="one")
        await work.run(plain, {"second": "y", "first": "x"}, id="one")
    assert sorted(map(str, calls)) == ["1", "1", "1", "x", "y"]


async def test_what_it_raised_is_raised_and_kept(work):
    async with work:
        with pytest.raises(LookupError):
            await work.run(failing, "x", id="one")
        with pytest.raises(WorkflowFailed, match="LookupError"):
            await work.run(failing, "x", id="one")
    assert calls == ["x"]


async def test_wrong_use_is_told(work):
    with pytest.raises(Invalid, match="not open"):
        await work.run(both, "x")
    async with work:
        with pytest.raises(Invalid, match="JSON"):
            await work.run(both, object())


async def test_a_servers_worker_leaves_workflows_alone(work, database):
    async with work:
        await work.run(both, "x", id="one")
    await database.execute("update tasks set state = 'queued'")
    # As if it had come through the servers' queue.
    await database.execute(
        "insert into arrivals (agent, environment, number) select agent, environment, 1 from tasks"
    )
    store = await database.open()

    async def queued(tx):
        return await claims.claim(tx, worker_id="w1", limit=10)

    assert await store.transact(queued) == []


async def test_leaving_hands_back_what_runs(work, database):
    begun = asyncio.Event()

    async def long(given):
        step("a", count, given)
        begun.set()
        await asyncio.sleep(0.2)
        return step("b", count, given)

    work._drain_seconds = 0.0
    async with work:
        handle = await work.start(long, "x", id="one")
        await begun.wait()
    with pytest.raises(PenstockError):
        await handle.result()
    store = await database.open()
    (task,) = await store.read(partial(tasks.listing, limit=10))
    assert (task.state, task.steps) == ("queued", 1)


async def test_a_program_is_listed_and_is_not_a_servers_to_drain(work, database):
    async with work:
        actions = WorkerActions(work._store)

        async def ask():
            (row,) = await actions.listing(SYSTEM)
            with pytest.raises(Conflict, match="runs workflows of its own"):
                await actions.drain(SYSTEM, row.id)
            return row

        row = await work._aside(ask())
        assert (row.kind, row.draining, row.pid) == ("program", False, os.getpid())
        assert await work.run(both, "x") == [1, 2, 3]


async def test_what_was_stopped_while_nobody_took_it_over_goes_on(work):
    """The database was away for so long that the worker stopped, and for no longer."""
    begun, going = asyncio.Event(), asyncio.Event()

    async def long(given):
        found = [step("a", count, given)]
        begun.set()
        await going.wait()
        return [*found, step("b", count, given)]

    async with work, asyncio.timeout(30):
        handle = await work.start(long, "x", id="one")
        await begun.wait()
        work._stop_all("no heartbeat")
        going.set()
        assert await handle.result() == [1, 2]
    assert len(calls) == 2


async def test_a_workflow_whose_beginning_got_no_answer_is_run(work, monkeypatch):
    begin = work._store.begin

    async def unheard(beginning):
        await begin(beginning)
        monkeypatch.setattr(work._store, "begin", begin)
        raise Unavailable("the answer was lost")

    async with work, asyncio.timeout(30):
        monkeypatch.setattr(work._store, "begin", unheard)
        with pytest.raises(Unavailable):
            await work.run(both, "x", id="one")
        assert await work.run(both, "x", id="one") == [1, 2, 3]
    assert len(calls) == 3


async def test_a_workflow_can_be_cancelled_from_outside(work):
    begun, going = asyncio.Event(), asyncio.Event()

    async def long(given):
        begun.set()
        await going.wait()
        return step("a", count, given)

    async with work, asyncio.timeout(30):
        handle = await work.start(long, "x", id="one")
        await begun.wait()
        await work._aside(work._store.transact(partial(endings.cancel, task_id=handle.id)))
        await until(lambda: all(run._stopped for run in work._running.values()))
        going.set()
        with pytest.raises(WorkflowFailed, match="ancelled"):
            await handle.result()
    assert calls == []


async def test_what_is_no_json_is_kept_as_a_server_would(work):
    async def odd(given):
        return {given: Path(given)}

    async with work:
        assert await work.run(odd, "x", id="one") == {"x": Path("x")}
        assert await work.run(odd, "x", id="one") == {"x": "x"}


async def test_a_killed_program_goes_on_behind_its_last_step(database, tmp_path):
    first = program(tmp_path, database, "hang")
    try:
        await until(lambda: lines(tmp_path) == ["one", "two"])
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    second = program(tmp_path, database, "go")
    out, _ = await asyncio.to_thread(second.communicate, timeout=60)
    assert out.splitlines()[-1] == "['one', 'two', 'three', 7]"
    assert lines(tmp_path) == ["one", "two", "two", "three"]


async def test_another_program_of_the_same_code_takes_over(database, tmp_path):
    if database.url is None:
        pytest.skip("an embedded database has one program")
    other = program(tmp_path, database, "idle")
    first = program(tmp_path, database, "hang")
    try:
        assert await asyncio.to_thread(other.stdout.readline) == "open\n"
        await until(lambda: lines(tmp_path) == ["one", "two"])
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: lines(tmp_path) == ["one", "two", "two", "three"])
        pids = [line.split()[1] for line in (tmp_path / "ledger").read_text().splitlines()]
        assert pids == [str(first.pid)] * 2 + [str(other.pid)] * 2
    finally:
        for one in (first, other):
            one.kill()
            one.communicate()
