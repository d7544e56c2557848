"""MCP servers, over streamable HTTP or as a process that speaks on its pipes.

The official SDK would bring eleven packages to the server (a JSON Schema validator, PyJWT and
sse-starlette among them); reading needs an opening and one list, which are fewer lines than it.
Revisions up to 2025-11-25 open with ``initialize``; a server that refuses it is asked as
2026-07-28 has it, with ``server/discover`` and without a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import penstock
from penstock.domain.errors import Invalid
from penstock.domain.tools import SourceFacts, SourceTool
from penstock.drivers.tools import (
    MOST_BYTES,
    Remote,
    check_count,
    deadline,
    plain,
)
from penstock.drivers.tools.mcp_wires import (
    NO_METHOD,
    HttpWire,
    Message,
    PipeWire,
    Refused,
    Wire,
    no_mcp,
)

_OPENED = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")  # by initialize; newest first
_STATELESS = "2026-07-28"
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "penstock", "version": penstock.__version__}
T = TypeVar("T")


class McpServer:
    """An MCP server at a URL."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Name the server; nothing is opened yet.

        Args:
            url: of its streamable HTTP endpoint.
            headers: sent with every request, such as Authorization; they appear in no error.
        """
        self._url = url
        self._headers = headers

    async def read(self) -> SourceFacts:
        """Its tools.

        Raises:
            Unavailable: it does not answer in time, or does not let us in.
            Invalid: it is no MCP server, or sends too much.
        """
        async with Remote(self._url, headers=self._headers) as remote:
            wire = HttpWire(remote)
            try:
                async with deadline(remote.shown):
                    return await _read(wire)
            finally:
                await wire.goodbye()


class McpProcess:
    """An MCP server that is started for a read and ended after it, with all that it started."""

    def __init__(
        self,
        command: str,
        arguments: Sequence[str] = (),
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Name the program; nothing is started yet.

        Args:
            command: a program on PATH, or a path.
            arguments: of the program; they appear in no error.
            folder: its working directory.
            environment: added to PATH, LANG, HOME and TMPDIR, which are all it has otherwise.
        """
        self._command = (command, *arguments)
        self._folder = folder
        self._environment = environment or {}

    async def read(self) -> SourceFacts:
        """Its tools.

        Raises:
            Unavailable: it ends early, or does not answer in time.
            Invalid: there is no such program, it does not speak MCP, or sends too much.
        """
        with tempfile.TemporaryDirectory(prefix="penstock-mcp-") as home:
            wire = await self._start(home)
            try:
                async with deadline(wire.where):
                    return await _read(wire)
            finally:
                await wire.end()

    async def _start(self, home: str) -> PipeWire:
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=MOST_BYTES, loop=loop),
                *self._command,
                cwd=self._folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LANG": "C.UTF-8",
                    "HOME": home,
                    "TMPDIR": home,
                    **self._environment,
                },
                start_new_session=True,
            )
        except OSError as error:
            raise Invalid(
                f"{self._command[0]} cannot be started: {error.strerror}",
                hint="Is the program installed on this machine?",
            ) from None
        return PipeWire(transport, protocol, where=self._command[0])


class _Talk:
    """Requests and their results, in the words of one revision."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._last = 0
        self._envelope: Message = {}

    def use(self, version: str) -> None:
        """From now on, speak this revision."""
        self._wire.speak(version)
        if version == _STATELESS:
            meta = {"protocolVersion": version, "clientInfo": _CLIENT, "clientCapabilities": {}}
            self._envelope = {"_meta": {_META + key: value for key, value in meta.items()}}

    async def ask(self, method: str, params: Message) -> Message:
        """The result of a request.

        Raises:
            Refused: the server answers with an error.
        """
        self._last += 1
        answer = await self._wire.exchange(
            {
                "jsonrpc": "2.0",
                "id": self._last,
                "method": method,
                "params": {**params, **self._envelope},
            }
        )
        error = answer.get("error")
        if isinstance(error, dict):
            code, text = error.get("code"), self._wire.safe(str(error.get("message", "")))
            raise Refused(
                f"{text} (JSON-RPC error {code if isinstance(code, int) else '?'})",
                code=code if isinstance(code, int) else None,
            )
        return self.expect(answer.get("result"), dict, f"the result of {method}")

    async def tell(self, method: str) -> None:
        """Send a notification."""
        await self._wire.tell({"jsonrpc": "2.0", "method": method})

    def expect(self, value: Any, kind: type[T], what: str) -> T:
        """The value, if it is of its kind.

        Raises:
            Invalid: it is not.
        """
        if isinstance(value, kind):
            return value
        words = {"dict": "an object", "list": "a list", "str": "a text"}
        raise no_mcp(self._wire.where, f"{what} is not {words[kind.__name__]}")


async def _read(wire: Wire) -> SourceFacts:
    talk = _Talk(wire)
    version, about = await _open(talk, wire.where)
    server = about.get("serverInfo")
    if version == _STATELESS:
        meta = about.get("_meta")
        server = meta.get(_META + "serverInfo") if isinstance(meta, dict) else None
        server = server or {"name": wire.where, "version": ""}  # this revision lets it be silent
    server = talk.expect(server, dict, "serverInfo")
    capabilities = talk.expect(about.get("capabilities"), dict, "capabilities")
    tools = await _list(talk, wire.where) if "tools" in capabilities else []
    return SourceFacts(
        name=talk.expect(server.get("name"), str, "the server's name"),
        version=talk.expect(server.get("version"), str, "the server's version"),
        protocol=version,
        tools=tuple(sorted(tools, key=lambda tool: tool.name)),
    )


async def _open(talk: _Talk, where: str) -> tuple[str, Message]:
    """The revision that both sides speak, and what the server says of itself."""
    hello = {"protocolVersion": _OPENED[0], "capabilities": {}, "clientInfo": _CLIENT}
    try:
        about = await talk.ask("initialize", hello)
    except Refused as refused:
        talk.use(_STATELESS)
        with contextlib.suppress(Refused):
            found = await talk.ask("server/discover", {})
            versions = talk.expect(found.get("supportedVersions"), list, "supportedVersions")
            if _STATELESS in versions:
                return _STATELESS, found
        raise no_mcp(where, f"it refuses initialize: {refused}") from None
    version = about.get("protocolVersion")
    if version not in _OPENED:
        raise Invalid(
            f"{where} speaks a revision of MCP that Penstock does not know: {version!r:.40}",
            hint=f"Known are {', '.join((_STATELESS, *_OPENED))}.",
        )
    talk.use(version)
    await talk.tell("notifications/initialized")
    return version, about


async def _list(talk: _Talk, where: str) -> list[SourceTool]:
    found: dict[str, SourceTool] = {}
    seen: set[str] = set()
    cursor: str | None = None
    while True:
        try:
            page = await talk.ask("tools/list", {"cursor": cursor} if cursor else {})
        except Refused as refused:
            if refused.code == NO_METHOD and not found:
                return []
            raise Invalid(f"{where} refuses to list its tools: {refused}") from None
        for raw in talk.expect(page.get("tools"), list, "tools"):
            tool = _tool(talk, talk.expect(raw, dict, "a tool"), where)
            if tool.name in found:
                raise Invalid(
                    f"{where} offers two tools named {tool.name}",
                    hint="A model could not tell them apart; the server has to rename one.",
                )
            found[tool.name] = tool
        check_count(len(found), where=where)
        cursor = page.get("nextCursor")
        if not cursor:
            return list(found.values())
        if talk.expect(cursor, str, "nextCursor") in seen:
            raise no_mcp(where, "its list of tools leads back to a page it has shown")
        seen.add(cursor)


def _tool(talk: _Talk, raw: Message, where: str) -> SourceTool:
    name = talk.expect(raw.get("name"), str, "a tool's name")
    what = f"the tool {name!r:.80}"
    hints = talk.expect(raw.get("annotations") or {}, dict, f"annotations of {what}")
    output = raw.get("outputSchema")
    if output is not None:
        talk.expect(output, dict, f"outputSchema of {what}")
    effect, retry = "write", "never"
    if hints.get("readOnlyHint") is True:
        effect, retry = "read", "safe"
    elif hints.get("idempotentHint") is True:
        retry = "keyed"
    schema = talk.expect(raw.get("inputSchema"), dict, f"inputSchema of {what}")
    return SourceTool(
        name=name,
        description=talk.expect(raw.get("description") or "", str, f"description of {what}"),
        schema=plain(schema, where=f"{where}: {what}"),
        output_schema=plain(output, where=f"{where}: {what}"),
        effect=effect,
        retry=retry,
    )
