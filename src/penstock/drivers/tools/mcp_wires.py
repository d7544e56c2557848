"""What carries an MCP server's messages: streamable HTTP, or the pipes of a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from penstock.domain.errors import Invalid, PenstockError, Unavailable
from penstock.drivers.tools import (
    MOST_BYTES,
    Answer,
    Remote,
    too_large,
)

Message = Mapping[str, Any]

_GOODBYE_SECONDS = 1.0
_KEPT = 2000  # bytes of what a process wrote to its standard error
NO_METHOD = -32601


class Refused(Exception):
    """The server answered that it does not do this."""

    def __init__(self, why: str, *, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code


class Wire(Protocol):
    """Carries JSON-RPC messages."""

    where: str

    async def exchange(self, request: Message) -> Message:
        """Send a request; the message that answers it.

        Raises:
            Refused: the transport itself says that there is nothing of the kind.
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


class HttpWire:
    """Streamable HTTP: every message is a POST; its answer is JSON or a stream of events."""

    def __init__(self, remote: Remote) -> None:
        self.where = remote.shown
        self.safe = remote.safe
        self._remote = remote
        self._session: str | None = None
        self._version: str | None = None

    def speak(self, version: str) -> None:
        """Say the revision from now on."""
        self._version = version

    async def exchange(self, request: Message) -> Message:
        """Send a request and wait for its answer."""
        async with self._post(request) as answer:
            if answer.kind == "text/event-stream":
                async with contextlib.aclosing(answer.events()) as events:
                    async for data in events:
                        message = _answer_in(_parse(data, self.where), request["id"])
                        if message is not None:
                            return message
                raise no_mcp(self.where, f"it ended before it answered {request['method']}")
            try:
                message = _answer_in(_parse(await answer.read(), self.where), request["id"])
            except Invalid:
                if answer.status < 400:  # noqa: PLR2004 - the first status that refuses
                    raise
                message = None
            if message is not None:
                return message
            if answer.status >= 400:  # noqa: PLR2004 - the same
                raise Refused(f"HTTP {answer.status}")
            raise no_mcp(self.where, f"its answer to {request['method']} is none")

    async def tell(self, notification: Message) -> None:
        """Send what has no answer."""
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


class PipeWire:
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
        """Send a request and wait for its answer."""
        await self.tell(request)
        while True:
            message = _parse(await self._line(request["method"]), self.where)
            answer = _answer_in(message, request["id"])
            if answer is not None:
                return answer
            if isinstance(message, dict) and "method" in message and "id" in message:
                await self.tell(_reply(message))

    async def tell(self, notification: Message) -> None:
        """Send what has no answer."""
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
    return {**reply, "error": {"code": NO_METHOD, "message": "a reader offers nothing"}}


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
        raise no_mcp(where, "it sends something that is no JSON") from None


def no_mcp(where: str, why: str) -> Invalid:
    """What is said of a server that does not speak MCP."""
    return Invalid(
        f"{where} does not speak MCP: {why}",
        hint="Name the endpoint itself (https://host/mcp); a process logs to its standard error.",
    )
