"""Calls of the official MCP client under the journal, with a server in the same process."""

from __future__ import annotations

import asyncio

import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult

from penstock.inside import declarations
from penstock.inside.frameworks import hooks
from supervising import Records


@pytest.fixture(autouse=True, scope="module")
def patched():
    hooks.install()
    declarations.pin([], {})


@pytest.fixture
def records():
    return Records()


def used(*servers, tool="use"):
    """What the first text of each server's answer is."""

    async def each():
        said = []
        for server in servers:
            async with Client(server) as client:
                said.append((await client.call_tool(tool, {})).content[0].text)
        return said

    return asyncio.run(each())


def test_equal_tools_of_two_servers_are_two_calls(records):
    calls = []

    def serving(name):
        server = MCPServer(name)

        @server.tool()
        def use() -> str:
            calls.append(name)
            return name

        return server

    one, other = serving("one"), serving("other")
    assert records.run(lambda: used(one, other)) == ["one", "other"]
    assert records.run(lambda: used(other, one)) == ["other", "one"]
    assert calls == ["one", "other"]


def test_a_server_that_asks_for_more_is_called_again_and_each_answer_is_on_record(records):
    states = []
    server = MCPServer("asking")

    @server.tool()
    def use(context: Context) -> str | InputRequiredResult:
        states.append(context.request_state)
        return "done" if context.request_state else InputRequiredResult(request_state="later")

    assert records.run(lambda: used(server)) == ["done"]
    assert records.run(lambda: used(server)) == ["done"]
    assert states == [None, "later"]
    assert records.states() == [("use", "done"), ("use", "done")]
