"""HTTP/1.1 to one origin: a pool of kept-alive connections over asyncio and a C parser.

General clients cost 10 to 50 times as much per call and this is the one call that every exchange
makes; so the little that is needed is done here: TLS, chunked and counted bodies, reuse, back
pressure, and closing the socket when the caller gives up.

**The one silent repetition.** A server may close an idle connection at the very moment a request
is sent on it. If a *reused* connection ends before a single byte of the answer, the request is
sent once more on a fresh one. A server that took the request and died without a byte looks the
same from here, so such a call may in the worst case be processed twice; it is marked
(``note``) and thereby recorded. Connections idle for longer than servers commonly allow are not
reused, which keeps the case rare. A fresh connection is never repeated.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from penstock.domain.errors import Invalid
from penstock.drivers.providers import AnswerCut, AnswerInvalid, ConnectFailed, TimedOut

_PAUSE_ABOVE = 256 * 1024  # unread body bytes at which the socket is left to fill up
_HEAD_LIMIT = 64 * 1024  # bytes of headers
_NO_BODY = frozenset({204, 304})
_FIRST_FINAL_STATUS = 200
_PORTS = {"http": 80, "https": 443}


class _Lost(Exception):
    """A connection ended before the first byte of an answer."""


class _Connection(asyncio.Protocol):
    """One socket; at most one request at a time is on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False
        self.idle_since = 0.0
        self.served = 0  # answers that were read to their end
        self.begin()

    def begin(self) -> None:
        """Forget the last answer."""
        # A parser that has seen an upgrade or an error cannot be used again.
        self._parser = httptools.HttpResponseParser(self)
        self._parts: deque[bytes] = deque()
        self._waiting = 0  # bytes in _parts
        self._paused = False
        self._head_size = 0
        self._framed = False  # the body's end is told by its length or its chunks
        self.status = 0
        self.headers: dict[str, str] = {}
        self.head_done = False
        self.complete = False
        self.touched = False  # a byte of the answer has arrived
        self.reusable = False
        self.error: Exception | None = None

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.complete:
            self.abort()  # bytes that belong to no request: the connection cannot be trusted
            return
        self.touched = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(AnswerInvalid(f"the provider did not answer HTTP/1.1: {error}"))
            return
        if not self.head_done:
            self._head_size += len(data)
            if self._head_size > _HEAD_LIMIT:
                self._fail(AnswerInvalid("the provider's headers are too large"))
                return
        if self._waiting > _PAUSE_ABOVE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.error is None and not self.complete:
            if self.head_done and not self._framed and exc is None:
                self.complete = True  # a body that ends with its connection
            elif self.touched:
                self.error = AnswerCut("the provider's connection ended in mid-answer")
            else:
                self.error = _Lost(str(exc or "closed by the other side"))
        self._wake()

    # ------------------------------------------------------------ httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if key in {"content-length", "transfer-encoding"}:
            self._framed = True
        self.headers[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < _FIRST_FINAL_STATUS:
            self.headers.clear()  # 100 Continue, 103 Early Hints: the answer follows
            self._framed = False
            return
        self._framed = self._framed or self.status in _NO_BODY
        self.head_done = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._waiting += len(body)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True
            self.reusable = self._framed and self._parser.should_keep_alive()

    # ------------------------------------------------------------ the caller's side

    def send(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise _Lost("the connection is closing")
        self._transport.write(data)

    async def head(self) -> None:
        """Wait for the status and the headers."""
        while not self.head_done:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def read(self) -> bytes:
        """The next part of the body; empty at its end."""
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self._wait()
        part = self._parts.popleft()
        self._waiting -= len(part)
        if self._paused and self._waiting < _PAUSE_ABOVE // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return part

    @property
    def quiet(self) -> bool:
        """Whether another request may follow: all was sent, all was read, both sides stay."""
        return (
            self.reusable
            and not self.closed
            and self._transport is not None
            and self._transport.get_write_buffer_size() == 0
        )

    def abort(self) -> None:
        """Close the socket now."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.abort()
        self._wake()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Http1Answer:
    """An answer on its connection; the connection goes back to the pool at the body's end."""

    def __init__(self, pool: Http1Pool, connection: _Connection, note: str) -> None:
        self._pool = pool
        self._connection: _Connection | None = connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self.note = note

    async def read(self) -> bytes:
        """The next part of the body; empty at its end."""
        connection = self._connection
        if connection is None:
            return b""
        part = await connection.read()
        if not part:
            self._connection = None
            self._pool.give_back(connection)
        return part

    async def close(self) -> None:
        """Give up what has not arrived: the socket is closed."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            if connection.complete:
                self._pool.give_back(connection)
            else:
                connection.abort()


class Http1Pool:
    """Connections to one origin."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        connect_seconds: float = 5.0,
        idle_seconds: float = 4.0,
        keep: int = 128,
    ) -> None:
        """Prepare for ``base_url``; nothing is connected yet.

        ``idle_seconds`` is after how long a connection is not used again (servers commonly close
        theirs after five or more); ``keep`` is how many idle ones are kept.

        Raises:
            Invalid: the URL or a header cannot be used.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise Invalid(
                f"`{base_url}` is not the address of a provider",
                hint="It begins with http:// or https:// and ends before /chat/completions.",
            )
        for name, value in headers.items():
            if any(ord(c) < 32 or ord(c) > 255 for c in name + value):  # noqa: PLR2004
                raise Invalid(f"the header `{name}` holds a character that HTTP does not allow")
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        host = parts.netloc.rpartition("@")[2]
        common = {"host": host, "accept-encoding": "identity", **headers}
        self._common = "".join(f"{name}: {value}\r\n" for name, value in common.items())
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._keep = keep
        self._idle: list[_Connection] = []
        self._heads: dict[str, bytes] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(self, path: str, body: bytes) -> Http1Answer:
        """Send ``body`` and wait for the head of the answer.

        Raises:
            ConnectFailed: no connection, or it ended before a byte of the answer.
            TimedOut: the connection was not made in time.
            AnswerCut, AnswerInvalid: the head was cut off, or is none.
        """
        message = b"%bcontent-length: %d\r\n\r\n%b" % (self._head(path), len(body), body)
        connection = self._reuse()
        note = ""
        if connection is not None:
            try:
                return await self._exchange(connection, message, note)
            except _Lost:
                note = "sent again: a kept connection had been closed"
        connection = await self._connect()
        try:
            return await self._exchange(connection, message, note)
        except _Lost as lost:
            raise ConnectFailed(f"the provider closed without an answer: {lost}") from None

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer was read to its end, if it can be used again."""
        if not connection.quiet or len(self._idle) >= self._keep:
            connection.abort()
            return
        connection.served += 1
        connection.idle_since = self._running().time()
        self._idle.append(connection)

    async def _exchange(self, connection: _Connection, message: bytes, note: str) -> Http1Answer:
        try:
            connection.send(message)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        return Http1Answer(self, connection, note)

    def _reuse(self) -> _Connection | None:
        oldest = self._running().time() - self._idle_seconds
        while self._idle:
            connection = self._idle.pop()  # the one used last is the least likely to be stale
            if not connection.closed and connection.idle_since >= oldest:
                connection.begin()
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = self._running()
        options: dict[str, Any] = {}
        if self._ssl is not None:
            options = {"ssl": self._ssl, "server_hostname": self._host}
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop), self._host, self._port, **options
                )
        except TimeoutError:
            raise TimedOut(
                f"no connection to {self._host}:{self._port} within {self._connect_seconds:g} s"
            ) from None
        except OSError as error:  # refused, no such name, a certificate that is not trusted
            raise ConnectFailed(f"no connection to {self._host}:{self._port}: {error}") from None
        return connection

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = f"POST {self._path}{path} HTTP/1.1\r\n{self._common}".encode("latin-1")
            self._heads[path] = head
        return head
