"""LangChain's tools, and graphs that use them, under the journal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import InjectedToolArg, StructuredTool, ToolException
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, interrupt

import penstock
from penstock.inside import context, declarations
from penstock.inside.attempts import Waits
from penstock.inside.frameworks import hooks
from supervising import Records

SOURCE = Path(__file__).resolve().parents[3] / "src"


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def records():
    return Records()


@pytest.fixture(autouse=True, scope="module")
def patched():
    hooks.install()
    declarations.pin([], {})


def asked(*calls):
    """A model's message that asks for tools: (id, name, arguments)."""
    return AIMessage(
        "", tool_calls=[{"id": i, "name": n, "args": a, "type": "tool_call"} for i, n, a in calls]
    )


def graph_of(*tools):
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode(list(tools)))
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    return builder.compile()


def test_a_tool_that_nobody_declared_is_journaled_and_must_not_be_repeated(records):
    done = []

    @langchain_tool
    def pay(what: str) -> str:
        """Pay."""
        done.append(what)
        return f"paid {what}"

    @langchain_tool
    def fall() -> str:
        """Die."""
        raise Killed

    assert records.run(lambda: pay.invoke({"what": "rent"})) == "paid rent"
    assert records.run(lambda: asyncio.run(pay.ainvoke({"what": "rent"}))) == "paid rent"
    assert done == ["rent"]
    with pytest.raises(Killed):
        records.run(lambda: fall.invoke({}))
    with pytest.raises(Waits):
        records.run(lambda: fall.invoke({}))
    assert pay.invoke({"what": "outside"}) == "paid outside"


def test_the_tools_of_a_graph_are_journaled_in_parallel_and_answer_their_own_calls(records):
    done = []

    @langchain_tool
    def look(number: int, state: Annotated[dict, InjectedState]) -> str:
        """Look."""
        done.append((number, len(state["messages"])))
        return f"looked at {number}"

    graph = graph_of(look)

    def work(*ids):
        calls = [(i, "look", {"number": n}) for i, n in zip(ids, (1, 2, 1), strict=True)]
        found = graph.invoke({"messages": [asked(*calls)]})["messages"][1:]
        return [(one.tool_call_id, one.content) for one in found]

    expected = ["looked at 1", "looked at 2", "looked at 1"]
    assert records.run(lambda: work("a", "b", "c")) == list(zip("abc", expected, strict=True))
    assert sorted(done) == [(1, 1), (1, 1), (2, 1)]
    assert sorted(number for _, _, number in records.calls) == [1, 1, 2]


def test_a_declared_function_under_a_tool_object_is_one_call(records):
    done = []

    @penstock.tool(effect="read", retry="safe")
    def look(number: int) -> str:
        """Look."""
        done.append(number)
        return str(number)

    for made in (langchain_tool(look), StructuredTool.from_function(look, name="other")):
        assert records.run(lambda made=made: made.invoke({"number": 3})) == "3"
    assert [call.retry for call in records.calls.values()] == ["safe", "safe"]
    assert len(records.calls) == 2
    assert records.commits == 2  # reading, so without an intent


def test_a_mark_on_a_tool_object_counts(records):
    @penstock.tool(effect="read", retry="safe")
    @langchain_tool
    def look(number: int) -> str:
        """Look."""
        return str(number)

    assert look.invoke({"number": 1}) == "1"
    records.run(lambda: look.invoke({"number": 1}))
    assert [call.retry for call in records.calls.values()] == ["safe"]


def test_results_of_every_kind_come_back(records):
    made = []

    @langchain_tool(response_format="content_and_artifact")
    def chart() -> tuple[str, dict]:
        """Draw."""
        made.append(1)
        return "a chart", {"points": [1, 2]}

    @langchain_tool
    def go() -> Command:
        """Go."""
        made.append(1)
        return Command(goto="there", update={"messages": [ToolMessage("ok", tool_call_id="1")]})

    for tool, kind in ((chart, ToolMessage), (go, Command)):
        call = {"id": "1", "name": tool.name, "args": {}, "type": "tool_call"}
        first = records.run(lambda tool=tool, call=call: tool.invoke(call))
        again = records.run(lambda tool=tool, call=call: tool.invoke({**call, "id": "2"}))
        assert type(first) is type(again) is kind
        if kind is ToolMessage:
            assert again.artifact == {"points": [1, 2]}
            assert again.tool_call_id == "2"
        else:
            assert again.update["messages"][0].tool_call_id == "2"
    assert len(made) == 2


def test_an_error_that_the_tool_handles_is_its_answer(records):
    made = []

    @langchain_tool
    def look(number: int) -> str:
        """Look."""
        made.append(number)
        raise ToolException("no such number")

    look.handle_tool_error = True
    call = {"id": "1", "name": "look", "args": {"number": 1}, "type": "tool_call"}
    for _ in range(2):
        message = records.run(lambda: look.invoke(call))
        assert (message.status, message.content) == ("error", "no such number")
    assert len(made) == 1


def test_the_key_is_put_in_where_it_is_taken(records):
    @langchain_tool
    def pay(what: str, idempotency_key: Annotated[str, InjectedToolArg]) -> str:
        """Pay."""
        return f"{what} under {idempotency_key}"

    @langchain_tool
    @penstock.tool(retry="keyed")
    def send(what: str, idempotency_key: str) -> str:
        """Send."""
        return f"{what} under {idempotency_key}"

    for tool in (pay, send):
        assert list(tool.tool_call_schema.model_json_schema()["properties"]) == ["what"]
        said = records.run(lambda tool=tool: tool.invoke({"what": "rent"}))
        assert said.startswith("rent under task_1-")


def test_a_tool_may_ask_a_person_and_then_act(records):
    """LangGraph runs a tool that interrupted again from its beginning: nothing is in doubt."""
    acted = []

    @langchain_tool
    def refund() -> str:
        """Refund."""
        if interrupt("really?") == "yes":
            acted.append(1)
        return "refunded"

    graph = graph_of(refund)
    message = {"messages": [asked(("1", "refund", {}))]}
    graph.checkpointer = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in records.run(lambda: graph.invoke(message, config))
    assert records.states() == [("refund", "suspended")]
    done = records.run(lambda: graph.invoke(Command(resume="yes"), config))
    assert done["messages"][-1].content == "refunded"
    assert acted == [1]
    assert records.states() == [("refund", "done")]


def test_in_a_node_of_a_graph_a_call_is_known_by_the_checkpoint_it_began_at(records):
    done, seen = [], []

    @langchain_tool
    def pay(what: str) -> str:
        """Pay."""
        done.append(what)
        return "paid"

    falls = [True]

    def twice(state):
        seen.append(context.scope())
        pay.invoke({"what": "rent"})
        if falls and len(seen) == 2:
            raise Killed
        return {"messages": [AIMessage("x")]}

    builder = StateGraph(MessagesState)
    builder.add_node("first", twice)
    builder.add_node("second", twice)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(Killed):
        records.run(lambda: graph.invoke({"messages": []}, config, durability="sync"))
    records.run(lambda: graph.invoke(None, config, durability="sync"))
    assert done == ["rent", "rent"]  # two nodes ask the same: two calls, and none again
    assert seen[1] == seen[2] != seen[0]


def test_modules_that_are_imported_later_are_patched_as_they_come(tmp_path):
    package = tmp_path / "mcp" / "client"
    package.mkdir(parents=True)
    (tmp_path / "mcp" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "session.py").write_text(
        textwrap.dedent("""
            class ClientSession:
                async def initialize(self): ...
                async def call_tool(self, name, arguments=None): ...
        """)
    )
    code = f"""
import sys
sys.path[:0] = [{str(SOURCE)!r}, {str(tmp_path)!r}]
from penstock.inside.frameworks import hooks
hooks.install()
assert "mcp" not in sys.modules
from mcp.client.session import ClientSession
assert ClientSession.call_tool.__wrapped__, "not patched"
import importlib.resources
import mcp.client
assert importlib.resources.files("mcp.client").joinpath("session.py").is_file()
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


def test_a_version_that_is_not_known_is_left_alone_and_named(tmp_path):
    (tmp_path / "httpx.py").write_text("Nothing = 1\n")
    code = f"""
import sys, os
os.environ["PENSTOCK_GATEWAY"] = "http://127.0.0.1:9/gateway"
sys.path[:0] = [{str(SOURCE)!r}, {str(tmp_path)!r}]
from penstock.inside.frameworks import hooks
hooks.install()
import httpx
assert httpx.Nothing == 1
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert "httpx is not known in this version" in done.stderr
