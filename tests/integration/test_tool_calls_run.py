"""Tools in real processes that are killed at the worst moments: nothing is done twice."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from test_runtime import World

from penstock.actions.sessions import Judges
from penstock.actions.signing import SigningActions
from penstock.actions.tasks import TaskActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Invalid
from penstock.domain.releases import Isolation
from penstock.drivers.signing.files import FileKeys
from penstock.store import tool_calls
from rollout_world import release

# Each tool writes down that it was called and under which key, and dies where the test says so:
# a file named after the moment is there once.
COMMON = """
import os
from pathlib import Path

import penstock

FOLDER = Path(__file__).resolve().parents[1]

def good(record):
    return 1.0

def die(moment):
    try:
        (FOLDER / f"die-{moment}").unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), 9)

def used(name, result):
    with open(FOLDER / "ledger", "a") as file:
        file.write(f"{name} {penstock.idempotency_key()}\\n")
    die(f"in-{name}")
    return result
"""

GRAPH = (
    COMMON
    + """
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

@tool
@penstock.tool(effect="read", retry="safe")
def look(number: int) -> str:
    "Look."
    return used(f"look{number}", f"saw {number}")

@tool
@penstock.tool(retry="keyed")
def send(text: str) -> dict:
    "Send."
    return used("send", {"sent": text})

@tool
def pay(amount: int) -> str:
    "Pay; nobody has declared it."
    return used("pay", f"paid {amount}")

def model(state):
    asked = [("look", {"number": 1}), ("look", {"number": 2}), ("send", {"text": "hi"}),
             ("pay", {"amount": 5}), ("look", {"number": 1})]
    calls = [{"name": n, "args": a, "id": f"c{i}", "type": "tool_call"}
             for i, (n, a) in enumerate(asked)]
    return {"messages": [AIMessage("", tool_calls=calls)]}

TOOLS = ToolNode([look, send, pay])

def act(state):
    found = TOOLS.invoke(state)
    die("after")
    return found

builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("act", act)
builder.add_edge(START, "model")
builder.add_edge("model", "act")
builder.add_edge("act", END)
agent = builder.compile()
"""
)

ASYNC_GRAPH = GRAPH.replace("def act(state):", "async def act(state):").replace(
    "TOOLS.invoke(state)", "await TOOLS.ainvoke(state)"
)

PLAIN = (
    COMMON
    + """
import contextvars
from concurrent.futures import ThreadPoolExecutor

@penstock.tool(effect="read", retry="safe")
def look(number):
    return used(f"look{number}", f"saw {number}")

@penstock.tool(retry="keyed")
def send(text):
    return used("send", {"sent": text})

@penstock.tool()
def pay(amount):
    return used("pay", f"paid {amount}")

def all_of(pool, calls):
    copied = [(contextvars.copy_context(), call) for call in calls]
    return list(pool.map(lambda one: one[0].run(one[1]), copied))

def agent(given):
    with ThreadPoolExecutor(4) as pool:
        seen = all_of(pool, [lambda: look(1), lambda: look(2), lambda: look(1)])
        side = all_of(pool, [
            lambda: penstock.step("send", send, "hi"), lambda: penstock.step("pay", pay, 5)])
    die("after")
    return seen + side
"""
)

AGENTS = {"graph": GRAPH, "async graph": ASYNC_GRAPH, "plain": PLAIN}
KEYED = 'penstock.tool(retry="keyed")'
REPEATABLE = {
    "graph": ("@tool\ndef pay", f"@tool\n@{KEYED}\ndef pay"),
    "async graph": ("@tool\ndef pay", f"@tool\n@{KEYED}\ndef pay"),
    "plain": ("@penstock.tool()\ndef pay", f"@{KEYED}\ndef pay"),
}
USED = {"look1": 2, "look2": 1, "send": 1, "pay": 1}


class ToolWorld(World):
    """The world of the runtime's tests, with agents that use tools."""

    def agent(self, code):
        (self.folder / "project" / "app.py").write_text(code)
        (self.folder / "ledger").touch()

    def used(self):
        lines = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        return Counter(name for name, _ in lines), {tuple(line) for line in lines}

    async def calls(self, task):
        return await self.store.read(partial(tool_calls.of_task, task_id=task))

    async def waits(self, task):
        """What a task waits for, once it does; a task that ends instead is no use."""

        async def settled():
            found = await self.task(task)
            assert found.state in ("queued", "running", "waiting"), found
            return found.waits

        return await self.until(settled)

    async def answer(self, task, answers):
        actions = TaskActions(self.store, self.workers[-1].deltas, Judges())
        await actions.resume(SYSTEM, task, answers=answers)

    async def go(self):
        return await self.submit("x", messages=[])


@pytest.fixture
async def world(tmp_path):
    found = ToolWorld(tmp_path)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


@pytest.mark.parametrize(
    ("agent", "isolation"),
    [("graph", "process"), ("async graph", "shared"), ("plain", "process"), ("plain", "shared")],
)
async def test_every_tool_is_used_once(world, agent, isolation):
    world.agent(AGENTS[agent])
    await world.worker(Isolation(isolation))
    done = await world.ended(await world.go())
    assert done.state == "completed", done.error
    assert world.used()[0] == USED
    calls = await world.calls(done.id)
    assert Counter(call.state.value for call in calls) == {"done": 5}
    assert {call.tool: call.retry for call in calls} == {
        "look": "safe", "send": "keyed", "pay": "never",
    }  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
async def test_between_the_results_and_the_commit_of_their_step_nothing_is_lost(world, agent):
    world.agent(AGENTS[agent])
    (world.folder / "die-after").touch()
    await world.worker()
    done = await world.ended(await world.go())
    assert done.state == "completed", done.error
    assert done.crashes == 1
    assert world.used()[0] == USED


@pytest.mark.parametrize(
    ("agent", "dies"), [("async graph", "look2"), ("graph", "send"), ("plain", "send")]
)
async def test_what_is_made_again_has_the_same_key(world, agent, dies):
    """Calls that ran beside it may have been interrupted, too; all of them may be repeated here."""
    world.agent(AGENTS[agent].replace(*REPEATABLE[agent]))
    (world.folder / f"die-in-{dies}").touch()
    await world.worker()
    done = await world.ended(await world.go())
    assert done.state == "completed", done.error
    assert done.crashes == 1
    used, keys = world.used()
    assert used[dies] == USED[dies] + 1
    # A call that was made again had the same key; calls of their own had keys of their own.
    assert len(keys) == sum(USED.values())
    assert {call.state.value for call in await world.calls(done.id)} == {"done"}


@pytest.mark.parametrize(
    ("agent", "isolation", "answer"),
    [
        ("graph", "process", {"result": "paid 5"}),
        ("async graph", "shared", {"retry": True}),
        ("plain", "process", {"fail": "no money"}),
        ("plain", "shared", {"retry": True}),
    ],
)
async def test_a_call_that_must_not_be_repeated_waits_for_a_person(world, agent, isolation, answer):
    world.agent(AGENTS[agent])
    (world.folder / "die-in-pay").touch()
    await world.worker(Isolation(isolation))
    task = await world.go()
    (wait,) = await world.waits(task)
    assert wait.kind == "tool"
    assert wait.value["tool"] == "pay"
    assert wait.value["arguments"] == {"amount": 5}
    assert (wait.value["epoch"], wait.value["state"]) == (1, "begun")
    with pytest.raises(Invalid, match="what came of it"):
        await world.answer(task, {wait.id: "yes"})
    await world.answer(task, {wait.id: answer})
    done = await world.ended(task)
    used, keys = world.used()
    assert used["pay"] == 1 + ("retry" in answer)
    assert len({key for name, key in keys if name == "pay"}) == 1
    if "fail" in answer:
        assert (done.state, done.error["message"]) == ("failed", "pay: no money")
        return
    assert done.state == "completed", done.error
    assert "paid 5" in str(done.output)
    states = {call.tool: call.state.value for call in await world.calls(task)}
    assert states == {"look": "done", "send": "done", "pay": "done"}
