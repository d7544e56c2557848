"""Agents that remember: in real processes, across sessions, through every way in."""

from __future__ import annotations

import pytest
from test_runtime import World

from penstock.actions.signing import SigningActions
from penstock.drivers.signing.files import FileKeys
from penstock.store import sessions, tasks
from rollout_world import AGENT, ENVIRONMENT, release

JUDGE = """
def good(record):
    return 1.0
"""
PLAIN = """
import os
from pathlib import Path
from penstock import memory, step

def agent(given):
    memory.put(memory.user("likes"), "colour", {"text": given["colour"]})
    memory.put("facts", "colour", {"text": "somebody likes " + given["colour"]}, ttl=3600)
    crash = Path(given["folder"], "crash")
    if crash.exists():
        crash.unlink()
        os._exit(9)
    refused = ""
    try:
        memory.get(("users", "eve", "likes"), "colour")
    except Exception as error:
        refused = str(error)
    return {
        "mine": memory.get(memory.user("likes"), "colour"),
        "found": [item.value for item in memory.search(query="likes " + given["colour"])],
        "names": memory.namespaces(),
        "refused": refused,
        "gone": [memory.delete("facts", "colour"), memory.get("facts", "colour")],
    }
"""
ASYNC = """
import datetime
from penstock import memory

async def agent(given):
    await memory.aput(memory.user(), "colour", {"text": given["colour"]})
    bad = ""
    try:
        await memory.aput("facts", "when", {"at": datetime.datetime.now()})
    except TypeError as error:
        bad = str(error)
    found = await memory.asearch(("users",), filter={"text": {"$ne": "none"}})
    await memory.adelete("facts", "when")
    return [
        await memory.aget(memory.user(), "colour"), [item.key for item in found],
        await memory.anamespaces(("users",)), bad,
    ]
"""
GRAPH = """
from typing import Annotated, TypedDict
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import InjectedStore, ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

class State(TypedDict, total=False):
    colour: str
    folder: str
    seen: dict
    messages: list

def embed(texts):
    return [[float("red" in text), float("blue" in text), 0.1] for text in texts]

def write(state, runtime: Runtime):
    runtime.store.put(("likes",), state["colour"], {"text": "likes " + state["colour"]})
    return {"messages": [AIMessage("", tool_calls=[
        {"name": "recall", "args": {"key": state["colour"]}, "id": "1"}])]}

@tool
def recall(key: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    "What is remembered."
    return store.get(("likes",), key).value["text"]

def read(state):
    near = get_store().search(("likes",), query="something blue")
    return {"seen": {"tool": state["messages"][-1].content, "near": [
        (item.key, round(item.score, 2)) for item in near]}}

builder = StateGraph(State)
builder.add_node("write", write)
builder.add_node("tools", ToolNode([recall]))
builder.add_node("read", read)
builder.add_edge(START, "write")
builder.add_edge("write", "tools")
builder.add_edge("tools", "read")
agent = builder.compile(store=InMemoryStore(index={"dims": 3, "embed": embed, "fields": ["text"]}))
"""


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


async def run(world, code, number, user, **given):
    """A task in a session of a user, to its end."""
    (world.folder / "project" / "app.py").write_text(code + JUDGE)
    if not world.workers:
        await world.worker()

    async def work(tx):
        await sessions.add(
            tx, session_id=f"ses_{number}", agent=AGENT, environment=ENVIRONMENT,
            release=world.digest, user_id=user, metadata={}, rollout_id=None, arm=None, judge=None,
        )  # fmt: skip
        await tasks.add(
            tx, task_id=f"task_{number}", session_id=f"ses_{number}", agent=AGENT,
            environment=ENVIRONMENT, release=world.digest,
            given={"folder": str(world.folder), **given},
        )  # fmt: skip

    await world.store.transact(work)
    return await world.ended(f"task_{number}")


async def test_a_plain_agent_remembers_for_its_user(world):
    done = await run(world, PLAIN, 1, "ada", colour="red")
    assert done.error is None
    assert done.output["mine"] == {"text": "red"}
    assert done.output["found"] == [{"text": "somebody likes red"}, {"text": "red"}]
    assert done.output["names"] == [["facts"], ["users", "ada", "likes"]]
    assert "not for a session of ada" in done.output["refused"]
    assert done.output["gone"] == [None, None]
    other = await run(world, PLAIN, 2, "bob", colour="blue")
    assert other.output["names"] == [["facts"], ["users", "bob", "likes"]]


async def test_a_session_without_a_user_has_no_users_namespace(world):
    done = await run(world, PLAIN, 1, None, colour="red")
    assert done.error["type"] == "LookupError"


async def test_what_is_remembered_again_after_a_crash_is_there_once(world):
    (world.folder / "crash").touch()
    done = await run(world, PLAIN, 1, "ada", colour="red")
    assert (done.error, done.epoch) == (None, 2)
    assert done.output["found"] == [{"text": "somebody likes red"}, {"text": "red"}]


async def test_an_async_agent_remembers(world):
    done = await run(world, ASYNC, 1, "ada", colour="red")
    assert done.error is None
    mine, found, names, bad = done.output
    assert (mine, found, names) == ({"text": "red"}, ["colour"], [["users", "ada"]])
    assert "cannot be remembered" in bad


async def test_a_graph_has_its_agents_memory_as_its_store(world):
    first = await run(world, GRAPH, 1, None, colour="red")
    assert first.error is None
    assert first.output["seen"] == {"tool": "likes red", "near": [["red", 0.01]]}
    second = await run(world, GRAPH, 2, None, colour="blue")
    # Another session, another process: it remembers.
    assert [key for key, _ in second.output["seen"]["near"]] == ["blue", "red"]
