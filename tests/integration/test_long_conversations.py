"""A conversation of hundreds of tool calls runs to its end, and is kept at its own size."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial

import pytest
from test_runtime import World

from penstock.actions.signing import SigningActions
from penstock.domain.errors import Unavailable
from penstock.domain.tasks import TaskState
from penstock.drivers.signing.files import FileKeys
from penstock.store import sessions, tasks
from rollout_world import AGENT, ENVIRONMENT, release

CODE = """
import random
from typing import TypedDict
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph

class State(MessagesState):
    calls: int
    answer: str

class Answer(TypedDict):
    answer: str

def found(number):
    "A thousand tokens, as a document would be."
    words = random.Random(number)
    return " ".join(f"{words.randrange(16 ** 4):04x}" for _ in range(800))

def model(state):
    done = sum(message.type == "tool" for message in state["messages"])
    if done == state["calls"]:
        length = sum(len(message.content) for message in state["messages"])
        return {"messages": [AIMessage("done")], "answer": f"{done} calls, {length} characters"}
    call = {"name": "look", "args": {"number": done}, "id": f"call-{done}"}
    return {"messages": [AIMessage("", tool_calls=[call])]}

def tools(state):
    call = state["messages"][-1].tool_calls[0]
    return {"messages": [ToolMessage(found(call["args"]["number"]), tool_call_id=call["id"])]}

agent = StateGraph(State, output_schema=Answer)
agent.add_node("model", model)
agent.add_node("tools", tools)
agent.add_edge(START, "model")
agent.add_edge("tools", "model")
agent.add_conditional_edges("model", lambda s: END if s.get("answer") else "tools")
"""


@pytest.fixture
async def world(tmp_path):
    found = World(tmp_path)
    (tmp_path / "project" / "app.py").write_text(CODE)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


async def submit(world, number, calls):
    async def work(tx):
        await sessions.add(
            tx, session_id=f"ses_{number}", agent=AGENT, environment=ENVIRONMENT,
            release=world.digest, user_id=None, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        return await tasks.add(
            tx, task_id=f"task_{number}", session_id=f"ses_{number}", agent=AGENT,
            environment=ENVIRONMENT, release=world.digest,
            given={"messages": [["user", "look everything up"]], "calls": calls},
        )  # fmt: skip

    return (await world.store.transact(work)).id


def stored(world, number):
    """The bytes of a session's checkpoints, and of all else that is kept for its task."""
    with contextlib.closing(sqlite3.connect(world.folder / "home" / "penstock.sqlite")) as rows:

        def total(sql, name):
            return rows.execute(sql, (f"{name}_{number}",)).fetchone()[0]

        state = (
            total("select sum(length(data) + length(metadata)) from checkpoints where session_id = ?", "ses")
            + total("select sum(length(data)) from checkpoint_writes where session_id = ?", "ses")
            + total("select sum(length(key) + length(data)) from checkpoint_contents where session_id = ?", "ses")
        )  # fmt: skip
        events = total("select sum(length(data)) from events where task_id = ?", "task")
    return state, events


async def test_two_hundred_tool_calls_take_twice_the_bytes_of_one_hundred(world):
    await world.worker(time_seconds=300.0)
    sizes = {}
    for number, calls in ((1, 100), (2, 200)):
        await submit(world, number, calls)
        task = await world.until(partial(over, world, f"task_{number}"), seconds=280)
        assert task.error is None
        assert task.output == {"answer": f"{calls} calls, {calls * 3999 + 18} characters"}
        sizes[calls] = stored(world, number)
    for once, twice in zip(sizes[100], sizes[200], strict=True):
        # Four times would be growth by the square. On a busy machine more of a node's writes are
        # too late to share the commit of their checkpoint, and are kept beside it.
        assert 1.5 < twice / once < 2.7
    # The text is 800 KB, once as a content and at most once more as a write.
    assert sizes[200][0] < 2_400_000


async def over(world, task_id):
    task = await world.task(task_id)
    return task if task.state in (TaskState.COMPLETED, TaskState.FAILED) else None


async def test_a_commit_whose_answer_was_lost_is_made_once(world, monkeypatch):
    """The database commits a checkpoint and does not say so: asked again, it is the same one."""
    lost = []
    write = world.store.commit

    async def forgetful(commit):
        found = await write(commit)
        if commit.step is not None and commit.step.kind == "checkpoint" and len(lost) < 3:
            lost.append(found)
            raise Unavailable("the connection was lost")
        return found

    monkeypatch.setattr(world.store, "commit", forgetful)
    await world.worker()
    await submit(world, 1, 3)
    task = await world.until(partial(over, world, "task_1"), seconds=60)
    assert len(lost) == 3
    assert task.output["answer"].startswith("3 calls")
    # The input, the start, and seven steps of the graph, each once.
    assert (task.steps, task.epoch) == (9, 1)
