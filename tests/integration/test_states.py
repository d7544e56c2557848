"""The state of a session, shown, edited and forked in a process of its own release."""

from __future__ import annotations

import pytest
from test_runtime import World

from penstock.actions.sessions import Judges
from penstock.actions.signing import SigningActions
from penstock.actions.states import StateActions
from penstock.actions.tasks import TaskActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.drivers.signing.files import FileKeys
from penstock.runtime.states import States
from penstock.store import sessions, tasks
from rollout_world import AGENT, ENVIRONMENT, release

GRAPH = """
import operator, time
from pathlib import Path
from typing import Annotated
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

class State(MessagesState):
    told: Annotated[list, operator.add]
    what: str
    folder: str

def first(state):
    if state["what"] == "hold":
        Path(state["folder"], "holding").touch()
        while not Path(state["folder"], "go").exists():
            time.sleep(0.01)
    if state["what"] == "ask":
        interrupt("sure?")
    return {"told": [f"first {state['what']}"]}

async def last(state):
    return {"told": [f"last of {len(state['told'])}"], "messages": [("assistant", "done")]}

graph = StateGraph(State)
graph.add_node("first", first)
graph.add_node("last", last)
graph.add_edge(START, "first")
graph.add_edge("first", "last")
graph.add_edge("last", END)
agent = graph
"""


class Sessions:
    """A worker, and what may be asked about the states of its sessions."""

    def __init__(self, world, worker):
        self._world = world
        self._tasks = TaskActions(world.store, worker.deltas, Judges())
        self.framework = States(world.store, worker.zygotes)
        self.states = StateActions(world.store, self.framework)

    async def begin(self):
        """A session."""
        world = self._world

        async def work(tx):
            await sessions.add(
                tx, session_id="ses_1", agent=AGENT, environment=ENVIRONMENT,
                release=world.digest, user_id="u", metadata={}, rollout_id=None, arm=None,
                judge=None,
            )  # fmt: skip

        await world.store.transact(work)
        return "ses_1"

    async def task(self, session, what, number):
        async def work(tx):
            return await tasks.add(
                tx, task_id=f"task_{number}", session_id=session, agent=AGENT,
                environment=ENVIRONMENT, release=self._world.digest,
                given={"what": what, "folder": str(self._world.folder)},
            )  # fmt: skip

        return (await self._world.store.transact(work)).id

    async def settled(self, task):
        return await self._tasks.wait(SYSTEM, task, seconds=30)

    async def resume(self, task, answer):
        return await self._tasks.resume(SYSTEM, task, answer=answer)

    async def answer(self, task, answers):
        return await self._tasks.resume(SYSTEM, task, answers=answers)


@pytest.fixture
async def found(tmp_path):
    world = World(tmp_path)
    await world.store.open()
    world.digest = (await release(world.store, "one")).digest
    await SigningActions(world.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    (tmp_path / "project" / "app.py").write_text(GRAPH)
    worker = await world.worker()
    of = Sessions(world, worker)
    of.world = world
    yield of
    await of.framework.stop()
    await worker.drain(0.5)
    await world.store.close()


async def test_a_state_is_shown_edited_and_gone_on_from(found):
    session = await found.begin()
    empty = await found.states.get(SYSTEM, session)
    assert (empty["values"], empty["next"]) == ({}, [])
    assert (await found.settled(await found.task(session, "x", 1))).state == "completed"
    state = await found.states.get(SYSTEM, session)
    assert state["values"]["told"] == ["first x", "last of 1"]
    assert state["values"]["messages"][0]["role"] == "assistant"
    assert (state["next"], state["task"]) == ([], "task_1")
    history = await found.states.history(SYSTEM, session)
    assert [one["step"] for one in history] == [2, 1, 0, -1]
    assert history[0]["checkpoint_id"] == state["checkpoint_id"]
    older = await found.states.history(SYSTEM, session, limit=1, before=history[1]["checkpoint_id"])
    assert older == [history[2]]
    then = await found.states.get(SYSTEM, session, checkpoint_id=history[1]["checkpoint_id"])
    assert then["values"]["told"] == ["first x"]
    edited = await found.states.edit(SYSTEM, session, values={"told": ["by hand"]}, as_node="last")
    after = await found.states.get(SYSTEM, session)
    assert after["checkpoint_id"] == edited["checkpoint_id"]
    assert after["values"]["told"] == ["first x", "last of 1", "by hand"]
    assert (after["source"], after["next"]) == ("update", [])
    task = await found.settled(await found.task(session, "y", 2))
    assert task.output["told"][2:] == ["by hand", "first y", "last of 4"]


async def test_what_does_not_fit_changes_nothing(found):
    session = await found.begin()
    await found.settled(await found.task(session, "x", 1))
    before = await found.states.history(SYSTEM, session)
    with pytest.raises(Invalid, match="nowhere"):
        await found.states.edit(SYSTEM, session, values={"told": ["x"]}, as_node="nowhere")
    with pytest.raises(Invalid):
        await found.states.edit(SYSTEM, session, values="no object", as_node="last")
    with pytest.raises(NotFound):
        await found.states.get(SYSTEM, session, checkpoint_id="1ef-none")
    with pytest.raises(NotFound):
        await found.states.fork(SYSTEM, session, checkpoint_id="1ef-none")
    assert await found.states.history(SYSTEM, session) == before


async def test_no_state_is_edited_under_a_running_task(found):
    session = await found.begin()
    task = await found.task(session, "hold", 1)

    async def holding():
        return (found.world.folder / "holding").exists()

    await found.world.until(holding)
    with pytest.raises(Conflict, match="runs in session"):
        await found.states.edit(SYSTEM, session, values={"told": ["late"]}, as_node="first")
    assert (await found.states.get(SYSTEM, session))["next"] == ["first"]  # to look is allowed
    (found.world.folder / "go").touch()
    assert "late" not in (await found.settled(task)).output["told"]


async def test_an_edit_that_a_task_has_overtaken_is_refused(found):
    session = await found.begin()
    await found.settled(await found.task(session, "x", 1))
    desk_of = found.framework._process

    async def slow(*which):
        process = await desk_of(*which)
        await found.settled(await found.task(session, "y", 2))
        return process

    found.framework._process = slow
    with pytest.raises(Conflict, match="changed meanwhile"):
        await found.states.edit(SYSTEM, session, values={"told": ["late"]}, as_node="last")
    found.framework._process = desk_of
    assert "late" not in (await found.states.get(SYSTEM, session))["values"]["told"]


async def test_a_waiting_task_goes_on_from_an_edit(found):
    session = await found.begin()
    task = await found.task(session, "ask", 1)
    (wait,) = (await found.settled(task)).waits
    state = await found.states.get(SYSTEM, session)
    assert state["tasks"][0]["interrupts"] == [{"id": wait.id, "value": "sure?"}]
    await found.states.edit(SYSTEM, session, values={"told": ["by hand"]}, as_node="first")
    (leave,) = (await found.settled(task)).waits
    assert leave.id.startswith("edit:")
    with pytest.raises(Conflict, match="does not wait for") as refused:
        await found.answer(task, {wait.id: "yes"})
    assert "edited" in refused.value.hint
    await found.resume(task, "yes")
    assert (await found.settled(task)).output["told"] == ["by hand", "last of 1"]


async def test_a_fork_is_independent_of_where_it_came_from(found):
    session = await found.begin()
    await found.settled(await found.task(session, "x", 1))
    await found.settled(await found.task(session, "y", 2))
    history = await found.states.history(SYSTEM, session)
    then = next(one for one in history if one["task"] == "task_1")
    whole = await found.states.fork(SYSTEM, session)
    early = await found.states.fork(SYSTEM, session, checkpoint_id=then["checkpoint_id"])
    assert early.release == found.world.digest
    assert (early.rollout_id, early.metadata["forked_from"]) == (None, session)
    task = await found.settled(await found.task(early.id, "z", 3))
    assert task.output["told"] == ["first x", "last of 1", "first z", "last of 3"]
    await found.states.edit(SYSTEM, whole.id, values={"told": ["only here"]}, as_node="last")
    assert (await found.states.history(SYSTEM, session)) == history
    last = (await found.states.get(SYSTEM, whole.id))["values"]["told"]
    assert last == [*history[0]["values"]["told"], "only here"]


async def test_a_plain_agent_has_no_state_and_says_so(found):
    (found.world.folder / "project" / "app.py").write_text("def agent(given):\n    return 1\n")
    await found.framework.stop()
    other = Sessions(found.world, await found.world.worker())
    session = await other.begin()
    with pytest.raises(Conflict, match="plain function"):
        await other.states.get(SYSTEM, session)
    with pytest.raises(Conflict, match="no state"):
        await other.states.fork(SYSTEM, session)
    await other.framework.stop()
    await found.world.workers.pop().drain(0.5)
