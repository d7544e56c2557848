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
import signal
import tempfile
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

import penstock
from penstock.domain.errors import Invalid, PenstockError, Unavailable
from penstock.domain.tools import SourceFacts, SourceTool
from penstock.drivers.tools import (
    MOST_BYTES,
    Answer,
    Remote,
    check_count,
    deadline,
    plain,
    too_large,
)

_OPENED = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")  # by initialize; newest first
_STATELESS = "2026-07-28"
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "penstock", "version": penstock.__version__}
_GOODBYE_SECONDS = 1.0
_KEPT = 2000  # bytes of what a process wrote to its standard error
_NO_METHOD = -32601

T = TypeVar("T")
Message = Mapping[str, Any]


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
            wire = _Http(remote)
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

    async def _start(self, home: str) -> _Pipes:
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
        return _Pipes(transport, protocol, where=self._command[0])


# ---------------------------------------------------------------- what is said


class _Refused(Exception):
    """The server answered that it does not do this."""

    def __init__(self, why: str, *, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


class _Wire(Protocol):
    """Carries JSON-RPC messages."""

    where: str

    async def exchange(self, request: Message) -> Message:
        """Send a request; the message that answers it.

        Raises:
            _Refused: the transport itself says that there is nothing of the kind.
        """
        ...

    async def tell(self, notification: Message) -> None:
        """Send something that has no answer."""
        ...

    def speak(self, version: str) -> None:
        """From now on, this revision of the protocol is spoken."""
        ...

    def safe(self, text: str) -> str:
        """A text of the server's that may be shown."""
        ...


class _Talk:
    """Requests and their results, in the words of one revision."""

    def __init__(self, wire: _Wire) -> None:
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
            _Refused: the server answers with an error.
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
            raise _Refused(
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
        raise _no_mcp(self._wire.where, f"{what} is not {words[kind.__name__]}")


async def _read(wire: _Wire) -> SourceFacts:
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
    except _Refused as refused:
        talk.use(_STATELESS)
        with contextlib.suppress(_Refused):
            found = await talk.ask("server/discover", {})
            versions = talk.expect(found.get("supportedVersions"), list, "supportedVersions")
            if _STATELESS in versions:
                return _STATELESS, found
        raise _no_mcp(where, f"it refuses initialize: {refused}") from None
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
        except _Refused as refused:
            if refused.code == _NO_METHOD and not found:
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
            raise _no_mcp(where, "its list of tools leads back to a page it has shown")
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


# ---------------------------------------------------------------- how it is carried


class _Http:
    """Streamable HTTP: every message is a POST; its answer is JSON or a stream of events."""

    def __init__(self, remote: Remote) -> None:
        self.where = remote.shown
        self.safe = remote.safe
        self._remote = remote
        self._session: str | None = None
        self._version: str | None = None

    def speak(self, version: str) -> None:
        self._version = version

    async def exchange(self, request: Message) -> Message:
        async with self._post(request) as answer:
            if answer.kind == "text/event-stream":
                async with contextlib.aclosing(answer.events()) as events:
                    async for data in events:
                        message = _answer_in(_parse(data, self.where), request["id"])
                        if message is not None:
                            return message
                raise _no_mcp(self.where, f"it ended before it answered {request['method']}")
            try:
                message = _answer_in(_parse(await answer.read(), self.where), request["id"])
            except Invalid:
                if answer.status < 400:  # noqa: PLR2004 - the first status that refuses
                    raise
                message = None
            if message is not None:
                return message
            if answer.status >= 400:  # noqa: PLR2004 - the same
                raise _Refused(f"HTTP {answer.status}")
            raise _no_mcp(self.where, f"its answer to {request['method']} is none")

    async def tell(self, notification: Message) -> None:
        async with self._post(notification) as answer:
            if answer.kind != "text/event-stream":  # which need not end, and says nothing to us
                await answer.read()

    async def goodbye(self) -> None:
        """End the session, if the server began one; it may decline."""
        if self._session is None:
            return
        with contextlib.suppress(PenstockError, TimeoutError):
            async with (
                asyncio.timeout(_GOODBYE_SECONDS),
                self._remote.ask("DELETE", headers=self._names()) as answer,
            ):
                await answer.read()

    @contextlib.asynccontextmanager
    async def _post(self, message: Message) -> AsyncIterator[Answer]:
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-method": message["method"],
            **self._names(),
        }
        content = msgspec.json.encode(message)
        async with self._remote.ask("POST", headers=headers, content=content) as answer:
            if message["method"] == "initialize":
                self._session = answer.headers.get("mcp-session-id")
            yield answer

    def _names(self) -> dict[str, str]:
        names = {"mcp-session-id": self._session, "mcp-protocol-version": self._version}
        return {name: value for name, value in names.items() if value is not None}


class _Pipes:
    """A process: one message a line."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        protocol: SubprocessStreamProtocol,
        *,
        where: str,
    ) -> None:
        self.where = where
        self._transport = transport
        self._process = Process(transport, protocol, asyncio.get_running_loop())
        self._left = MOST_BYTES
        self._said = b""
        self._listener = asyncio.create_task(
            self._listen(), name=f"stderr-of-{transport.get_pid()}"
        )

    def speak(self, version: str) -> None:
        """Nothing outside the messages says it."""

    def safe(self, text: str) -> str:
        """Nothing was told to it that is a secret."""
        return " ".join(text.split())[:_KEPT]

    async def exchange(self, request: Message) -> Message:
        await self.tell(request)
        while True:
            message = _parse(await self._line(request["method"]), self.where)
            answer = _answer_in(message, request["id"])
            if answer is not None:
                return answer
            if isinstance(message, dict) and "method" in message and "id" in message:
                await self.tell(_reply(message))

    async def tell(self, notification: Message) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the next line says how it ended
            self._process.stdin.write(msgspec.json.encode(notification) + b"\n")
            await self._process.stdin.drain()

    async def end(self) -> None:
        """Leave nothing behind: the process is asked by closing its pipe, its group is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._transport.close()  # who has left the group may hold the other ends of the pipes
        await self._process.wait()
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener

    async def _line(self, method: str) -> bytes:
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:  # longer than the reader's limit
            raise too_large(self.where) from None
        self._left -= len(line)
        if self._left < 0:
            raise too_large(self.where)
        if not line:
            with contextlib.suppress(TimeoutError):  # what it started may still hold the pipes
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._process.wait()
                    await self._listener
            status = self._process.returncode
            said = self._said.decode(errors="replace").strip()
            raise Unavailable(
                f"{self.where} ended before it answered {method} (exit status {status})",
                hint=f"It wrote: {said}" if said else "It wrote nothing to its standard error.",
            )
        return line

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(_KEPT):
            self._said = (self._said + chunk)[-_KEPT:]


def _reply(request: Message) -> Message:
    """The answer to what a server asks: we are there, and offer nothing."""
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] == "ping":
        return {**reply, "result": {}}
    return {**reply, "error": {"code": _NO_METHOD, "message": "a reader offers nothing"}}


def _answer_in(message: Any, number: int) -> Message | None:
    """The message, or the one in a batch, that answers a request."""
    for one in message if isinstance(message, list) else [message]:
        if not isinstance(one, dict) or not ("result" in one or "error" in one):
            continue
        # A server that could not read the request does not know its number.
        if one.get("id") == number or ("error" in one and one.get("id") is None):
            return one
    return None


def _parse(data: bytes | str, where: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _no_mcp(where, "it sends something that is no JSON") from None


def _no_mcp(where: str, why: str) -> Invalid:
    return Invalid(
        f"{where} does not speak MCP: {why}",
        hint="Name the endpoint itself (https://host/mcp); a process logs to its standard error.",
    )
