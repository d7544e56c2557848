"""The providers' HTTP client against servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from penstock.domain.errors import Invalid
from penstock.drivers.providers import AnswerCut, AnswerInvalid, ConnectFailed, TimedOut, read_all
from penstock.drivers.providers.http1 import Http1Pool

Act = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LIMIT = 64 << 20


class Server:
    """Calls ``act(number of the request, …)`` until it returns false."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""
        self.tasks: set[Any] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                if not await self.act(len(self.requests), reader, writer):
                    break
        writer.close()


@contextlib.asynccontextmanager
async def server(act: Act) -> AsyncIterator[Server]:
    served = Server(act)
    listening = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        listening.close()
        for task in served.tasks:
            task.cancel()
        await asyncio.gather(*served.tasks, return_exceptions=True)


def says(data: bytes, *, stay: bool = True) -> Act:
    async def act(_n: int, _reader: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        return stay

    return act


async def ask(pool: Http1Pool, body: bytes = b"{}") -> bytes:
    answer = await pool.post("/chat", body)
    try:
        return await read_all(answer, limit=LIMIT)
    finally:
        await answer.close()


@pytest.mark.parametrize(
    "data",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
async def test_answers_are_read_and_connections_used_again(data: bytes) -> None:
    async with server(says(data)) as served:
        pool = Http1Pool(served.url, headers={"x-a": "b"})
        assert [await ask(pool) for _ in range(3)] == [b"ok"] * 3
        await pool.close()
    assert served.connections == 1
    assert served.requests[0].startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    ],
)
async def test_a_server_that_closes_is_connected_to_again(data: bytes) -> None:
    async with server(says(data, stay=False)) as served:
        pool = Http1Pool(served.url, headers={})
        assert [await ask(pool), await ask(pool)] == [b"ok", b"ok"]
        await pool.close()
    assert served.connections == 2
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
async def test_half_an_answer_is_an_error(data: bytes) -> None:
    async with server(says(data, stay=False)) as served:
        pool = Http1Pool(served.url, headers={})
        with pytest.raises(AnswerCut):
            await ask(pool)
        await pool.close()


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000]
)
async def test_what_is_not_http_is_an_error(data: bytes) -> None:
    async with server(says(data)) as served:
        pool = Http1Pool(served.url, headers={})
        with pytest.raises(AnswerInvalid):
            await ask(pool)
        await pool.close()


async def test_a_fresh_connection_that_closes_is_never_tried_twice() -> None:
    async with server(says(b"", stay=False)) as served:
        pool = Http1Pool(served.url, headers={})
        with pytest.raises(ConnectFailed, match="closed without an answer"):
            await ask(pool)
        await pool.close()
    assert len(served.requests) == 1


async def test_a_stale_connection_is_replaced_once_and_the_answer_says_so() -> None:
    async def act(n: int, _reader: Any, writer: asyncio.StreamWriter) -> bool:
        if n == 2:
            return False
        writer.write(OK)
        return True

    async with server(act) as served:
        pool = Http1Pool(served.url, headers={})
        assert await ask(pool) == b"ok"
        answer = await pool.post("/chat", b"{}")
        assert answer.note.startswith("sent again")
        assert await read_all(answer, limit=9) == b"ok"
        await pool.close()
    assert len(served.requests) == 3


async def test_a_reused_connection_that_had_begun_to_answer_is_not_tried_again() -> None:
    async def act(n: int, _reader: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK if n == 1 else b"HTTP/1.1 2")
        return n == 1

    async with server(act) as served:
        pool = Http1Pool(served.url, headers={})
        await ask(pool)
        with pytest.raises(AnswerCut):
            await ask(pool)
        await pool.close()
    assert len(served.requests) == 2


async def test_giving_up_closes_the_socket() -> None:
    left = asyncio.Event()

    async def act(_n: int, reader: asyncio.StreamReader, _writer: Any) -> bool:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        left.set()
        return False

    async with server(act) as served:
        pool = Http1Pool(served.url, headers={})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(pool)
        await asyncio.wait_for(left.wait(), 2)


async def test_a_slow_reader_slows_the_server_down_instead_of_filling_memory() -> None:
    whole = 32 << 20
    sent = 0

    async def act(_n: int, _reader: Any, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % whole)
        for _ in range(whole >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()
            sent += 1 << 16
        return True

    async with server(act) as served:
        pool = Http1Pool(served.url, headers={})
        answer = await pool.post("/chat", b"{}")
        await asyncio.sleep(0.2)
        assert sent < whole // 2
        assert len(await read_all(answer, limit=LIMIT)) == whole
        await pool.close()


async def test_nobody_there_is_said_so() -> None:
    async with server(says(OK)) as served:
        url = served.url
    pool = Http1Pool(url, headers={})
    with pytest.raises(ConnectFailed, match="no connection to"):
        await ask(pool)
    with pytest.raises(TimedOut):
        await ask(Http1Pool(url, headers={}, connect_seconds=0))


@pytest.mark.parametrize(
    ("url", "headers"),
    [("ftp://x", {}), ("api.example.com", {}), ("http://x", {"authorization": "Bearer a\r\nx: y"})],
)
def test_what_cannot_be_sent_is_refused_at_once(url: str, headers: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        Http1Pool(url, headers=headers)
