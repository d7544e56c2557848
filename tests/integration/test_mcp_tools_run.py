"""Tools of an MCP server, called with the official client by an agent that is killed.

The server is a process of its own and counts what is asked of it. The agent dies when the answer
has arrived and nothing of it is on record, or when the result is on record and the task has not ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from test_tool_calls_run import COMMON, ToolWorld

from penstock.actions.signing import SigningActions
from penstock.domain.releases import Isolation, Tool
from penstock.drivers.signing.files import FileKeys
from penstock.drivers.tools.mcp import McpProcess
from rollout_world import release

SERVER = Path(__file__).with_name("mcp_ledger.py")

PLAIN = (
    COMMON
    + f"""
import sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SERVER = StdioServerParameters(command=sys.executable, args=[{str(SERVER)!r}, str(FOLDER / "ledger")])

class Session(ClientSession):
    async def validate_tool_result(self, name, result):
        "What the client does with an answer before it returns it."
        await super().validate_tool_result(name, result)
        die("answered")

async def agent(given):
    async with stdio_client(SERVER) as (reads, writes), Session(reads, writes) as session:
        await session.initialize()
        first = await session.call_tool(given["what"], {{"number": 5}})
        die("recorded")
        second = await session.call_tool(given["what"], {{"number": 6}})
    return {{"said": [said(first), said(second)]}}

def said(result):
    return [result.is_error, result.structured_content, result.content[0].text]
"""
)

GRAPH = (
    PLAIN
    + """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    what: str
    said: list

class Output(TypedDict):
    said: list

use, agent = agent, StateGraph(State, output_schema=Output)
agent.add_node("use", use)
agent.add_edge(START, "use")
"""
)

AGENTS = {"plain": PLAIN, "graph": GRAPH}
SAID = {"look": "look {}", "put": "put {}", "pay": "paid {}"}


@pytest.fixture(scope="module")
def pinned(tmp_path_factory):
    """The server's tools as a release pins them: what each does is what the server says of it."""
    folder = tmp_path_factory.mktemp("unused")
    source = McpProcess(sys.executable, [str(SERVER), str(folder / "ledger")], folder=folder)
    facts = asyncio.run(source.read())
    assert {tool.name: tool.retry for tool in facts.tools} == {
        "look": "safe", "put": "keyed", "pay": "never", "lose": "never",
    }  # fmt: skip
    return tuple(
        Tool(
            name=tool.name, description=tool.description, schema=tool.schema, module="ledger",
            effect=tool.effect, retry=tool.retry,
        )
        for tool in facts.tools
    )  # fmt: skip


@pytest.fixture
async def world(tmp_path, pinned):
    found = ToolWorld(tmp_path)
    await found.store.open()
    found.digest = (await release(found.store, "one")).digest
    await SigningActions(found.store, FileKeys(tmp_path / "key.pem")).vouch_for_all()
    found.tools = pinned
    yield found
    for worker in found.workers:
        await worker.drain(0.5)
    await found.store.close()


async def begun(world, tool, agent, isolation, *, dies):
    world.agent(AGENTS[agent])
    (world.folder / f"die-{dies}").touch()
    await world.worker(Isolation(isolation))
    return await world.submit(tool)


def said(tool, number):
    text = SAID[tool].format(number)
    return [False, {"result": text}, text]


@pytest.mark.parametrize(
    ("tool", "agent", "isolation"),
    [("look", "graph", "process"), ("put", "plain", "shared"), ("pay", "plain", "process")],
)
async def test_a_call_whose_result_is_on_record_is_not_made_again(world, tool, agent, isolation):
    done = await world.ended(await begun(world, tool, agent, isolation, dies="recorded"))
    assert done.state == "completed", done.error
    assert done.crashes == 1
    assert done.output == {"said": [said(tool, 5), said(tool, 6)]}
    counts, keys = world.used()
    assert counts == {tool: 2}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("tool", "agent", "isolation"),
    [("look", "plain", "shared"), ("put", "plain", "process"), ("put", "graph", "process")],
)
async def test_a_call_that_may_be_repeated_is_made_again_under_its_key(
    world, tool, agent, isolation
):
    done = await world.ended(await begun(world, tool, agent, isolation, dies="answered"))
    assert done.state == "completed", done.error
    assert done.crashes == 1
    assert done.output == {"said": [said(tool, 5), said(tool, 6)]}
    counts, keys = world.used()
    assert counts == {tool: 3}
    assert len(keys) == 2
    assert all(key.startswith(f"{done.id}-") for _, key in keys)


@pytest.mark.parametrize(
    ("agent", "isolation", "answer", "first"),
    [
        (
            "plain", "process", {"result": {"result": "paid 5"}},
            [False, {"result": "paid 5"}, '{"result": "paid 5"}'],
        ),
        ("graph", "process", {"result": "somebody paid"}, [False, None, "somebody paid"]),
        ("graph", "process", {"retry": True}, [False, {"result": "paid 5"}, "paid 5"]),
        ("plain", "shared", {"fail": "no money"}, None),
    ],
)  # fmt: skip
async def test_a_call_that_must_not_be_repeated_waits_for_a_person(
    world, agent, isolation, answer, first
):
    task = await begun(world, "pay", agent, isolation, dies="answered")
    (wait,) = await world.waits(task)
    assert world.used()[0] == {"pay": 1}
    assert (wait.kind, wait.value["tool"], wait.value["arguments"]) == (
        "tool",
        "pay",
        {"number": 5},
    )
    await world.answer(task, {wait.id: answer})
    done = await world.ended(task)
    counts, keys = world.used()
    if first is None:
        assert (done.state, done.error["message"]) == ("failed", "pay: no money")
        assert counts == {"pay": 1}
        return
    assert done.state == "completed", done.error
    assert done.output == {"said": [first, said("pay", 6)]}
    assert counts == {"pay": 2 + ("retry" in answer)}
    assert len(keys) == 2


async def test_an_error_that_the_server_returns_is_a_result(world):
    done = await world.ended(await begun(world, "lose", "plain", "process", dies="recorded"))
    assert done.state == "completed", done.error
    assert [error for error, _, _ in done.output["said"]] == [True, True]
    assert "lose" in done.output["said"][0][2]
    assert world.used()[0] == {"lose": 2}
