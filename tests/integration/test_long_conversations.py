"""A conversation of hundreds of tool calls runs to its end, and is kept at its own size."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
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

# The writes of `early` are on record before its step has ended, as they may be on a busy machine.
PARALLEL = """
import operator, time
from pathlib import Path
from typing import Annotated
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

GO = Path(__file__).resolve().parents[1] / "go"
TEXT = "a text that is long enough to be kept apart from its checkpoint. " * 9

class State(MessagesState):
    notes: Annotated[list, operator.add]

def early(state):
    note = AIMessage("a note; " + TEXT)
    return {"messages": [AIMessage("alone; " + TEXT), AIMessage("named; " + TEXT, id="mine")], "notes": [note]}

def late(state):
    while not GO.exists():
        time.sleep(0.01)
    return {"messages": AIMessage("bare; " + TEXT)}

agent = StateGraph(State)
agent.add_node("early", NODE)
agent.add_node("late", late)
agent.add_node("last", lambda state: {"messages": [AIMessage("over")]})
agent.add_edge(START, "early")
agent.add_edge(START, "late")
agent.add_edge("early", "last")
agent.add_edge("late", "last")
"""
ASYNC = PARALLEL.replace("NODE", "awaited").replace(
    "agent = State", "async def awaited(state):\n    return early(state)\n\nagent = State"
)


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
        # Whether a node's write shares its checkpoint's commit is the machine's business: it refers
        # to the same contents. A message is kept once, however many checkpoints have it.
        assert len(contents(world, number)) == 2 * calls
    for once, twice in zip(sizes[100], sizes[200], strict=True):
        assert 1.9 < twice / once < 2.1
    # The text alone is 800 KB; compressed, with its tables, its index and its writes it is less.
    assert sizes[200][0] < 800_000


@pytest.mark.parametrize("code", [PARALLEL.replace("NODE", "early"), ASYNC], ids=["sync", "async"])
async def test_a_message_that_is_recorded_before_its_checkpoint_is_kept_once(world, code):
    """Its reducer gives it an id; what a node wrote has the same, so that it is the same content."""
    (world.folder / "project" / "app.py").write_text(code)
    await world.worker()
    await submit(world, 1, 0)

    async def recorded():
        return "alone" in "".join(contents(world, 1))

    await world.until(recorded)
    (world.folder / "go").touch()
    task = await world.until(partial(over, world, "task_1"), seconds=60)
    assert task.error is None
    kept = contents(world, 1)
    for text in ("alone", "named", "bare", "a note"):
        assert sum(text + "; a text" in one for one in kept) == 1, text
    said = {message["content"][:5]: message["id"] for message in task.output["messages"]}
    assert said["named"] == "mine"
    assert len({*said.values(), None}) == len(said) + 1
    assert [note.get("id") for note in task.output["notes"]] == [None]


def contents(world, number):
    """What a session's checkpoints and writes refer to."""
    with contextlib.closing(sqlite3.connect(world.folder / "home" / "penstock.sqlite")) as rows:
        found = rows.execute(
            "select data from checkpoint_contents where session_id = ?", (f"ses_{number}",)
        ).fetchall()
    plain = (zlib.decompress(one[1:]) if one[:1] == b"\1" else one[1:] for (one,) in found)
    return [one.decode(errors="replace") for one in plain]


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
