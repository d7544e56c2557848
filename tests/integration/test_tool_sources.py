"""Reading tools from servers that are real processes, and from documents."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import pytest
from zygote_harness import is_alive

import mcp_server
from penstock.domain.errors import Invalid, Unavailable
from penstock.drivers import tools
from penstock.drivers.tools.mcp import McpProcess
from penstock.drivers.tools.mcp import McpServer as McpSource
from penstock.drivers.tools.openapi import OpenApiFile, OpenApiUrl
from penstock.rules.releases import digest_json
from penstock.rules.tool_drift import compare
from waiting import wait_until

SECRET = "s3cret-0f-the-crm"
HEADERS = {"Authorization": f"Bearer {SECRET}"}
TOOLS = [
    {
        "name": f"tool{number}",
        "description": f"Größe {number}",
        "inputSchema": {
            "type": "object",
            "properties": {"n": {"type": "integer", "maximum": 2**63}},
        },
        "annotations": annotations,
    }
    for number, annotations in enumerate(
        [{"readOnlyHint": True}, {"idempotentHint": True}, {"destructiveHint": False}, None, {}]
    )
]
DOCUMENT = """
openapi: 3.0.3
info: {title: Orders, version: 2024-05-01}
paths:
  /orders:
    get: {operationId: listOrders, responses: {200: {description: ok}}}
    post: {operationId: createOrder}
"""


BROKEN = {
    "401": ({"fault": 401}, Unavailable, "does not let us in (HTTP 401)"),
    "503": ({"fault": 503}, Unavailable, "cannot answer now (HTTP 503)"),
    "404": ({"fault": 404}, Invalid, "does not speak MCP: it refuses initialize: HTTP 404"),
    "html": ({"fault": "<html>hello</html>"}, Invalid, "it sends something that is no JSON"),
    "deep": ({"fault": "[" * 100000}, Invalid, "it sends something that is no JSON"),
    "nan": ({"fault": '{"id": 1, "result": NaN}'}, Invalid, "it sends something that is no JSON"),
    "empty": ({"fault": "{}"}, Invalid, "its answer to initialize is none"),
    "five": ({"fault": '{"id": 1, "result": 5}'}, Invalid, "result of initialize is not an object"),
    "early": ({"fault": "early"}, Invalid, "it ended before it answered initialize"),
    "cut": ({"fault": "cut"}, Unavailable, "gave no complete answer"),
    "cut events": ({"fault": "cut", "kind": "text/event-stream"}, Unavailable, "complete answer"),
    "huge": ({"fault": "huge"}, Invalid, "sends more than 8 MiB"),
    "gzip": ({"fault": "gzip"}, Invalid, "sends compressed bodies"),
    "late 404": ({"fault": 404, "fault_at": "tools/list"}, Invalid, "refuses to list its tools"),
    "error": ({"refusal": "no database"}, Invalid, "no database (JSON-RPC error -32603)"),
    "echo": ({"refusal": f"bad {SECRET}"}, Invalid, "(its text quotes a header of the request)"),
    "loop": ({"loop": True, "page": 0}, Invalid, "leads back to a page it has shown"),
    "twice": ({"tools": [TOOLS[0], TOOLS[0]]}, Invalid, "offers two tools named tool0"),
    "many": (
        {"tools": [{**TOOLS[0], "name": str(number)} for number in range(1001)]},
        Invalid,
        "more than 1000 tools",
    ),
    "no name": ({"tools": [{**TOOLS[0], "name": 5}]}, Invalid, "a tool's name is not a text"),
    "no version": ({"info": {"name": "x"}}, Invalid, "the server's version is not a text"),
}


@pytest.fixture
def server(tmp_path):
    """An MCP server process that offers TOOLS in reverse."""
    running = mcp_server.McpServer(tmp_path, tools=TOOLS[::-1])
    yield running
    running.close()


@pytest.fixture
def quick(monkeypatch):
    """A deadline that a test can wait for."""
    monkeypatch.setattr(tools, "SECONDS", 0.5)


async def refused(source):
    """The error of a read, after a look at whether it gives away a secret."""
    with pytest.raises((Invalid, Unavailable)) as raised:
        await source.read()
    error = raised.value
    assert SECRET not in f"{error} {error.hint} {error.__cause__}"
    return error


class TestMcpServers:
    @pytest.mark.parametrize("answers", ["json", "sse"])
    @pytest.mark.parametrize("page", [1, 2, 1000])
    @pytest.mark.parametrize("session", [True, False])
    async def test_tools_are_the_same_however_they_are_sent(self, server, answers, page, session):
        server.set(answers=answers, page=page, sessionless=not session)
        facts = await McpSource(server.url, headers=HEADERS).read()
        assert (facts.name, facts.version, facts.protocol) == ("crm", "4.2.0", "2025-11-25")
        assert [(t.name, t.effect, t.retry) for t in facts.tools] == [
            ("tool0", "read", "safe"),
            ("tool1", "write", "keyed"),
            ("tool2", "write", "never"),
            ("tool3", "write", "never"),
            ("tool4", "write", "never"),
        ]
        assert facts.tools[0].description == "Größe 0"
        assert facts.tools[0].schema["properties"]["n"] == {"type": "integer", "maximum": 2.0**63}
        server.set(tools=TOOLS, answers="json", page=3)
        again = await McpSource(server.url, headers=HEADERS).read()
        assert digest_json(again) == digest_json(facts)

    async def test_every_message_carries_the_session_the_revision_and_the_headers(self, server):
        server.set(page=3)
        await McpSource(server.url, headers=HEADERS).read()
        first, *others = server.ledger
        assert [entry["method"] for entry in server.ledger] == [
            "initialize",
            "notifications/initialized",
            "tools/list",
            "tools/list",
            "DELETE",
        ]
        assert all(e["headers"]["authorization"] == HEADERS["Authorization"] for e in server.ledger)
        assert "mcp-session-id" not in first["headers"]
        assert len({entry["headers"]["mcp-session-id"] for entry in others}) == 1
        assert {e["headers"]["mcp-protocol-version"] for e in others} == {"2025-11-25"}
        assert [e["params"] for e in others[1:3]] == [{}, {"cursor": "3"}]

    async def test_a_server_that_only_speaks_without_sessions_is_asked_that_way(self, server):
        server.set(modern=True, page=2)
        facts = await McpSource(server.url).read()
        assert (facts.name, facts.version, facts.protocol) == ("crm", "4.2.0", "2026-07-28")
        assert len(facts.tools) == 5
        assert "DELETE" not in [entry["method"] for entry in server.ledger]

    async def test_an_older_revision_is_spoken_and_an_unknown_one_refused(self, server):
        server.set(version="2025-06-18")
        assert (await McpSource(server.url).read()).protocol == "2025-06-18"
        server.set(version="1999-01-01")
        error = await refused(McpSource(server.url))
        assert "does not know: '1999-01-01'" in error.message

    async def test_the_session_is_ended_also_after_an_error(self, server):
        server.set(tools=[{"name": "x"}])
        error = await refused(McpSource(server.url, headers=HEADERS))
        assert error.message == (
            f"{server.url} does not speak MCP: inputSchema of the tool 'x' is not an object"
        )
        assert server.ledger[-1]["method"] == "DELETE"

    async def test_a_server_that_keeps_its_sessions_is_read_all_the_same(self, server):
        server.set(keeps_sessions=True)
        assert len((await McpSource(server.url).read()).tools) == 5

    async def test_a_stream_that_stays_open_is_left_when_the_answer_is_there(self, server):
        server.set(answers="sse", stays_open=True)
        begun = time.monotonic()
        assert len((await McpSource(server.url).read()).tools) == 5
        assert time.monotonic() - begun < tools.SECONDS / 2

    async def test_a_server_without_tools_offers_none(self, server):
        server.set(toolless=True)
        assert (await McpSource(server.url).read()).tools == ()

    async def test_what_changed_at_the_server_is_found_by_comparing(self, server):
        pinned = await McpSource(server.url).read()
        changed = json.loads(json.dumps(TOOLS))
        changed[0]["inputSchema"]["properties"]["n"]["type"] = "string"
        server.set(tools=changed[:4], info={"name": "crm", "version": "4.3.0"})
        drifts = compare(pinned, await McpSource(server.url).read())
        assert [(d.text, d.severity.value) for d in drifts] == [
            ('version was "4.2.0" and is "4.3.0"', "compatible"),
            ('tool0/schema/properties/n/type was "integer" and is "string"', "breaking"),
            ("the tool tool4 is gone", "breaking"),
        ]

    @pytest.mark.parametrize("case", BROKEN)
    async def test_a_server_that_is_none_is_refused_by_its_url(self, server, case):
        config, kind, message = BROKEN[case]
        server.set(**config)
        error = await refused(McpSource(f"{server.url}?key={SECRET}", headers=HEADERS))
        assert type(error) is kind
        assert message in error.message
        assert error.message.startswith(server.url)

    async def test_a_server_that_has_moved_is_not_followed_with_our_headers(self, server, tmp_path):
        (tmp_path / "other").mkdir()
        other = mcp_server.McpServer(tmp_path / "other", tools=[])
        try:
            server.set(fault="moved", to=f"{other.url}?key={SECRET}")
            error = await refused(McpSource(server.url, headers=HEADERS))
            assert error.message == f"{server.url} has moved to {other.url}"
            assert other.ledger == []
        finally:
            other.close()

    async def test_a_server_that_does_not_answer_is_given_up(self, server, quick):
        server.set(fault="hang")
        error = await refused(McpSource(server.url, headers=HEADERS))
        assert type(error) is Unavailable
        assert "did not answer in" in error.message

    async def test_a_server_that_is_not_there_is_unavailable(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}/mcp"
            error = await refused(McpSource(url, headers=HEADERS))
        assert type(error) is Unavailable
        assert error.message.startswith(f"{url} cannot be reached")

    @pytest.mark.parametrize(
        "url", ["ftp://host/x", "file:///etc/passwd", "http://", "crm", "http://[x"]
    )
    async def test_a_url_that_is_no_servers_is_refused(self, url):
        assert type(await refused(McpSource(url, headers=HEADERS))) is Invalid

    @pytest.mark.parametrize("value", [f"{SECRET}\nX: y", f"{SECRET}ü", f" {SECRET}", ""])
    async def test_a_header_that_cannot_be_sent_is_named_without_its_value(self, server, value):
        error = await refused(McpSource(server.url, headers={"X-Key": value}))
        assert "cannot be sent: 'x-key'" in error.message


@pytest.fixture
def process(tmp_path):
    """Makes sources that are processes; ``tmp_path`` holds their ledger."""

    def make(**config):
        (tmp_path / "mcp.json").write_text(json.dumps({"tools": TOOLS[::-1], **config}))
        arguments = [mcp_server.__file__, "stdio", str(tmp_path / "mcp.json")]
        return McpProcess(sys.executable, arguments, folder=tmp_path, environment={"REGION": "eu"})

    make.ledger = tmp_path / "mcp.json.ledger"
    return make


class TestMcpProcesses:
    async def test_a_process_offers_what_a_server_does(self, process, server):
        facts = await process(page=2).read()
        assert digest_json(facts) == digest_json(await McpSource(server.url).read())
        modern = await process(modern=True).read()
        assert (modern.protocol, modern.tools) == ("2026-07-28", facts.tools)

    async def test_a_process_sees_nothing_of_our_environment(self, process, monkeypatch):
        monkeypatch.setenv("PENSTOCK_ADMIN_KEY", SECRET)
        await process().read()
        environment = mcp_server.read_ledger(process.ledger)[0]["environment"]
        assert environment.pop("LC_CTYPE", None) in (None, "C.UTF-8")  # Python's own
        assert set(environment) == {"PATH", "LANG", "HOME", "TMPDIR", "REGION"}
        assert not Path(environment["HOME"]).exists()

    async def test_nothing_that_a_process_started_is_left(self, process):
        await process(fault="child").read()
        started = mcp_server.read_ledger(process.ledger)[0]
        wait_until(lambda: not any(is_alive(started[key]) for key in ("pid", "child")))

    async def test_a_process_that_asks_back_is_answered(self, process):
        assert len((await process(fault="ping").read()).tools) == 5
        replies = [e["reply"] for e in mcp_server.read_ledger(process.ledger) if "reply" in e]
        assert replies[0] == {"jsonrpc": "2.0", "id": "ping", "result": {}}
        assert replies[1]["error"]["code"] == -32601

    @pytest.mark.parametrize(
        ("fault", "kind", "message"),
        [
            ("exit", Unavailable, "ended before it answered initialize (exit status 3)"),
            ("chatter", Invalid, "it sends something that is no JSON"),
            ("huge", Invalid, "sends more than 8 MiB"),
        ],
    )
    async def test_a_process_that_does_not_speak_mcp_is_refused(
        self, process, fault, kind, message
    ):
        error = await refused(process(fault=fault))
        assert type(error) is kind
        assert message in error.message
        assert error.message.startswith(sys.executable)
        if fault == "exit":
            assert error.hint == "It wrote: no database here"

    async def test_a_process_that_does_not_answer_is_given_up(self, process, monkeypatch):
        monkeypatch.setattr(tools, "SECONDS", 2.0)
        error = await refused(process(fault="hang"))
        assert type(error) is Unavailable
        assert "did not answer in 2 s" in error.message

    async def test_a_program_that_is_not_there_is_named(self, tmp_path):
        error = await refused(McpProcess("no-such-mcp", [SECRET], folder=tmp_path))
        assert error.message == "no-such-mcp cannot be started: No such file or directory"


class TestOpenApiFiles:
    async def test_yaml_and_json_are_the_same_document(self, tmp_path):
        (tmp_path / "api.yaml").write_text(DOCUMENT)
        facts = await OpenApiFile(tmp_path, "api.yaml").read()
        assert (facts.name, facts.version) == ("Orders", "2024-05-01")
        assert [tool.name for tool in facts.tools] == ["createOrder", "listOrders"]
        whole = {
            "openapi": "3.0.3",
            "info": {"title": "Orders", "version": "2024-05-01"},
            "paths": {
                "/orders": {
                    "get": {"operationId": "listOrders"},
                    "post": {"operationId": "createOrder"},
                }
            },
        }
        (tmp_path / "api.json").write_text(json.dumps(whole))
        assert await OpenApiFile(tmp_path, "api.json").read() == facts
        (chosen,) = (
            await OpenApiFile(tmp_path, "api.yaml", operations=["listOrders"]).read()
        ).tools
        assert chosen == facts.tools[1]

    @pytest.mark.parametrize(
        "path", ["../api.yaml", "{outside}", "link.yaml", "sub/../../api.yaml"]
    )
    async def test_a_file_outside_the_project_is_not_read(self, tmp_path, path):
        (tmp_path / "api.yaml").write_text(DOCUMENT)
        project = tmp_path / "project"
        (project / "sub").mkdir(parents=True)
        (project / "link.yaml").symlink_to(tmp_path / "api.yaml")
        path = path.format(outside=tmp_path / "api.yaml")
        error = await refused(OpenApiFile(project, path))
        assert error.message == f"{path} leads out of the project"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: }", "api.yaml:1: not valid YAML"),
            ("a: &x 1\nb: *x", "api.yaml:2: uses an alias"),
            ("[" * 200, "nested more than 100 deep"),
            ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested more than 100 deep"),
            ('{"a": 1', "is not valid JSON"),
            ("openapi: 3.1.0\ninfo: {title: !!binary aGk=, version: '1'}", "no JSON: bytes"),
            ("openapi: 3.1.0\nx: .nan", "no JSON: float"),
            ("openapi: 3.1.0\n1.5: x", "a key that is no text"),
            ("- 1", "no OpenAPI 3.0 or 3.1"),
            ("", "no OpenAPI 3.0 or 3.1"),
            ("swagger: '2.0'", "no OpenAPI 3.0 or 3.1"),
            ("\x00", "not valid YAML"),
            ("#" * (8 << 20) + "##", "sends more than 8 MiB"),
        ],
        ids=lambda value: value[:20],
    )
    async def test_a_file_that_is_no_document_is_refused(self, tmp_path, text, message):
        (tmp_path / "api.yaml").write_text(text)
        error = await refused(OpenApiFile(tmp_path, "api.yaml"))
        assert message in error.message
        assert error.message.startswith("api.yaml")

    async def test_a_missing_file_is_named(self, tmp_path):
        error = await refused(OpenApiFile(tmp_path, "api.yaml"))
        assert error.message == "there is no api.yaml in the project"

    async def test_words_that_yaml_took_for_truths_stay_words(self, tmp_path):
        text = DOCUMENT.replace("createOrder", "no").replace("listOrders", "'on'")
        (tmp_path / "api.yaml").write_text(text)
        facts = await OpenApiFile(tmp_path, "api.yaml").read()
        assert [tool.name for tool in facts.tools] == ["no", "on"]


class TestOpenApiUrls:
    async def test_a_document_is_read_from_a_url_with_its_headers(self, server, tmp_path):
        server.set(document=DOCUMENT)
        found = await OpenApiUrl(f"{server.base}/document", headers=HEADERS).read()
        (tmp_path / "api.yaml").write_text(DOCUMENT)
        assert found == await OpenApiFile(tmp_path, "api.yaml").read()
        assert server.ledger[0]["headers"]["authorization"] == HEADERS["Authorization"]

    @pytest.mark.parametrize(
        ("config", "kind", "message"),
        [
            ({}, Invalid, "has no OpenAPI document (HTTP 404)"),
            ({"fault": 403}, Unavailable, "does not let us in (HTTP 403)"),
            ({"fault": "huge"}, Invalid, "sends more than 8 MiB"),
            ({"fault": "<html>"}, Invalid, "no OpenAPI 3.0 or 3.1 document"),
            ({"fault": "moved", "to": "/elsewhere"}, Invalid, "/elsewhere"),
        ],
        ids=str,
    )
    async def test_a_url_without_a_document_is_refused(self, server, config, kind, message):
        server.set(**config)
        error = await refused(OpenApiUrl(f"{server.base}/document?key={SECRET}", headers=HEADERS))
        assert type(error) is kind
        assert message in error.message
        assert error.message.startswith(f"{server.base}/document")

    async def test_a_url_that_does_not_answer_is_given_up(self, server, quick):
        server.set(fault="hang")
        error = await refused(OpenApiUrl(f"{server.base}/document"))
        assert type(error) is Unavailable
