"""Agents that ask a person, in real processes: plain and LangGraph, sync and async, alone and shared."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from test_runtime import World

from penstock.actions.sessions import Judges
from penstock.actions.signing import SigningActions
from penstock.actions.tasks import TaskActions
from penstock.domain.access import SYSTEM
from penstock.domain.releases import Isolation
from penstock.drivers.signing.files import FileKeys
from penstock.runtime.journals import Journal
from penstock.store import events
from rollout_world import release

NOTES = """
import os, time
from pathlib import Path

def note(folder, name):
    with open(Path(folder, "done"), "a") as file:
        file.write(name + "\\n")

def hold(folder):
    \"\"\"Stop once, where the test wants to kill the process.\"\"\"
    if Path(folder, "hold").exists():
        Path(folder, "holding").touch()
        while Path(folder, "hold").exists():
            time.sleep(0.01)
"""

PLAIN = """
from penstock import ask, step

def agent(given):
    folder = given["folder"]
    step("before", note, folder, "before")
    first = ask({"question": "first?"})
    hold(folder)
    step("between", note, folder, "between")
    second = ask("second?")
    return [first, second]
"""

ASYNC = PLAIN.replace("def agent", "async def agent")

TOGETHER = """
import asyncio
from penstock import ask

async def one(name):
    return ask(name)

async def agent(given):
    return await asyncio.gather(one("x"), one("y"), return_exceptions=False)
"""

GRAPH = """
import operator
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    folder: str
    what: str
    told: Annotated[list, operator.add]

def first(state):
    note(state["folder"], "first")
    answer = interrupt({"question": "first?"})
    hold(state["folder"])
    again = interrupt("again?")
    return {"told": [answer, again]}

def last(state):
    note(state["folder"], "last")
    return {"told": ["end"]}

graph = StateGraph(State)
graph.add_node("first", first)
graph.add_node("last", last)
graph.add_edge(START, "first")
graph.add_edge("first", "last")
graph.add_edge("last", END)
agent = graph
"""

ASYNC_GRAPH = GRAPH.replace("def first", "async def first").replace("def last", "async def last")

NESTED = GRAPH.replace(
    "agent = graph",
    """
inner = graph.compile()
outer = StateGraph(State)
outer.add_node("inner", inner)
outer.add_edge(START, "inner")
outer.add_edge("inner", END)
agent = outer
""",
)

PARALLEL = """
import operator
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
import penstock

class State(TypedDict, total=False):
    folder: str
    what: str
    told: Annotated[list, operator.add]

def asking(name):
    def node(state):
        answer = penstock.ask(name)
        note(state["folder"], name)
        return {"told": [f"{name}={answer}"]}
    return node

graph = StateGraph(State)
for name in ("a", "b"):
    graph.add_node(name, asking(name))
    graph.add_edge(START, name)
    graph.add_edge(name, END)
agent = graph
"""

STOPPING = GRAPH.replace(
    "agent = graph", 'agent = graph.compile(interrupt_before=["last"])'
).replace(
    """    answer = interrupt({"question": "first?"})
    hold(state["folder"])
    again = interrupt("again?")
    return {"told": [answer, again]}""",
    """    return {"told": ["went"]}""",
)


@pytest.fixture
async def world(tmp_path):
    found = World(tmp_path)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


class Person:
    """Whoever is asked: waits until a task asks, and answers."""

    def __init__(self, world, worker, task):
        self._actions = TaskActions(world.store, worker.deltas, Judges())
        self._store = world.store
        self.task = task

    async def settled(self):
        return await self._actions.wait(SYSTEM, self.task, seconds=30)

    async def asked(self):
        task = await self.settled()
        assert task.state == "waiting", task
        return {wait.id: wait.value for wait in task.waits}

    async def answers(self, *given, **named):
        asked = await self.asked()
        answers = dict(zip(asked, given, strict=True)) if given else named
        return await self._actions.resume(SYSTEM, self.task, answers=answers)

    async def kinds(self):
        found = await self._store.read(
            lambda tx: events.after(tx, task_id=self.task, after=0, limit=500)
        )
        return [event.kind for event in found]


async def started(world, code, isolation=Isolation.PROCESS, **limits):
    (world.folder / "project" / "app.py").write_text(NOTES + code)
    worker = await world.worker(isolation, **limits)
    return Person(world, worker, await world.submit("ask")), worker


def done(world):
    return (world.folder / "done").read_text().split()


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("code", [PLAIN, ASYNC], ids=["sync", "async"])
async def test_a_plain_agent_asks_twice_and_repeats_no_step(world, code, isolation):
    person, _ = await started(world, code, isolation)
    assert await person.asked() == {"ask#1": {"question": "first?"}}
    await person.answers({"yes": [1]})
    assert await person.asked() == {"ask#2": "second?"}
    await person.answers(None)
    task = await person.settled()
    assert (task.state, task.output, task.waits) == ("completed", [{"yes": [1]}, None], ())
    assert done(world) == ["before", "between"]
    assert [k for k in await person.kinds() if k in ("waiting", "resumed", "finished")] == [
        "waiting", "resumed", "waiting", "resumed", "finished",
    ]  # fmt: skip


async def test_questions_asked_together_may_be_answered_one_by_one(world):
    person, _ = await started(world, TOGETHER)
    first = await person.asked()
    assert set(first.values()) == {"x", "y"}
    await person.answers(**{next(iter(first)): 1})
    assert await person.asked() == {list(first)[1]: list(first.values())[1]}
    await person.answers(2)
    assert (await person.settled()).output == [1, 2]


@pytest.mark.parametrize(
    ("code", "isolation"),
    [
        (GRAPH, Isolation.SHARED),
        (ASYNC_GRAPH, Isolation.PROCESS),
        (ASYNC_GRAPH, Isolation.SHARED),
        (NESTED, Isolation.PROCESS),
    ],
    ids=["sync shared", "async", "async shared", "nested"],
)
async def test_a_graphs_interrupts_are_answered_one_after_the_other(world, code, isolation):
    person, _ = await started(world, code, isolation)
    (asked,) = (await person.asked()).values()
    assert asked == {"question": "first?"}
    await person.answers({"ok": True})
    (asked,) = (await person.asked()).values()
    assert asked == "again?"
    await person.answers("yes")
    task = await person.settled()
    assert task.state == "completed", task.error
    assert task.output["told"] == [{"ok": True}, "yes", "end"]
    assert done(world) == ["first"] * 3 + ["last"]  # LangGraph begins an asking node again


@pytest.mark.parametrize("order", ["together", "a first", "b first"])
async def test_parallel_nodes_are_answered_together_or_one_after_the_other(world, order):
    person, _ = await started(world, PARALLEL)
    asked = await person.asked()
    assert sorted(asked.values()) == ["a", "b"]
    ids = {name: key for key, name in asked.items()}
    if order == "together":
        await person.answers(**{ids["a"]: 1, ids["b"]: 2})
    else:
        names = [order[0], "b" if order[0] == "a" else "a"]
        await person.answers(**{ids[names[0]]: 1 if names[0] == "a" else 2})
        assert list((await person.asked()).values()) == [names[1]]
        await person.answers(**{ids[names[1]]: 1 if names[1] == "a" else 2})
    task = await person.settled()
    assert sorted(task.output["told"]) == ["a=1", "b=2"]
    assert sorted(done(world)) == ["a", "b"]


async def test_a_graph_stops_where_it_was_compiled_to(world):
    person, _ = await started(world, STOPPING)
    ((key, value),) = (await person.asked()).items()
    assert value == {"next": ["last"]}
    assert key.startswith("breakpoint:")
    await person.answers(True)
    assert (await person.settled()).output["told"] == ["went", "end"]
    assert done(world) == ["first", "last"]


@pytest.mark.parametrize("code", [PLAIN, GRAPH, NESTED], ids=["plain", "graph", "nested"])
async def test_a_crash_behind_the_answer_neither_loses_nor_doubles_it(world, code):
    (world.folder / "hold").touch()
    person, worker = await started(world, code, attempts=5)
    await person.answers("one")

    async def holding():
        return (world.folder / "holding").exists()

    for _ in range(2):  # the answer is given to each attempt until one gets on
        await world.until(holding)
        (attempt,) = worker._attempts.values()
        os.kill(attempt.pid, signal.SIGKILL)
        (world.folder / "holding").unlink()
    (world.folder / "hold").unlink()
    (asked,) = (await person.asked()).values()
    assert asked in ("second?", "again?")
    await person.answers("two")
    task = await person.settled()
    assert task.state == "completed"
    told = task.output if isinstance(task.output, list) else task.output["told"]
    assert told[:2] == ["one", "two"]
    assert task.crashes == 2


async def test_an_answer_taken_before_the_next_question_was_on_record_is_not_taken_twice(world):
    """The attempt dies between LangGraph's record of the second question and ours."""
    person, _ = await started(world, GRAPH, attempts=5)
    await person.asked()
    end = Journal.end
    broken = asyncio.Event()

    async def breaks(journal, after, ending, **more):
        if ending == "waiting" and not broken.is_set():
            broken.set()
            raise RuntimeError("on purpose")
        await end(journal, after, ending, **more)

    Journal.end = breaks
    try:
        await person.answers("one")
        await broken.wait()
        (asked,) = (await person.asked()).values()
    finally:
        Journal.end = end
    assert asked == "again?"
    await person.answers("two")
    assert (await person.settled()).output["told"] == ["one", "two", "end"]


async def test_a_worker_drains_and_leaves_while_a_task_waits(world):
    person, worker = await started(world, PLAIN)
    await person.asked()
    while worker.running:  # it lets go of the process just after the commit
        await asyncio.sleep(0.01)
    await worker.drain(0.5)
    world.workers.remove(worker)
    assert (await person.settled()).state == "waiting"
    await person.answers("x")
    await world.worker()
    assert list(await person.asked()) == ["ask#2"]
