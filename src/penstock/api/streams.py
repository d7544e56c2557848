"""Tasks as server-sent events.

Durable events carry their number as ``id``; what is ephemeral (``delta``, ``dropped``) and the
``end`` carry none, so that ``Last-Event-ID`` always names an event. A body that ends without
``end`` was cut: the client comes back with the last id it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from penstock.actions.streams import Item, Reader
from penstock.api.bodies import accepts, read
from penstock.api.dependencies import Asked, By
from penstock.api.presence import Presence, Receive, gone
from penstock.api.tasks import CreateTask, IdempotencyKey, place
from penstock.domain.tasks import Delta, Dropped, End
from penstock.rules.streams import split_kind

router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])

_HEARTBEAT_SECONDS = 5.0  # clients size their idle window from this
_HELLO = b"retry: 1000\n: connected\n\n"
_HEARTBEAT = b": heartbeat\n\n"
_PIECE_BYTES = 256 << 10

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}

_encode = msgspec.json.Encoder().encode

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

Mode = Annotated[str | None, Query(description="Modes separated by commas; all when absent.")]


@router.post("/stream", status_code=201, openapi_extra=accepts(CreateTask))
async def create_and_stream(
    request: Request,
    asked: Asked,
    by: By,
    mode: Mode = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put a task into the queue and follow it; the body is that of ``POST /api/v1/tasks``."""
    body = await read(request, CreateTask)
    task = await place(asked, by, body, idempotency_key)
    reader = await asked.tasks.stream(by, task.id, modes=_modes(mode))
    presence = Presence(asked, by, task.id, cancels=body.on_disconnect == "cancel")
    return EventStream(task.id, reader, asked.stopping, presence=presence, status=201)


@router.get("/{task_id}/stream")
async def stream_task(
    task_id: str,
    asked: Asked,
    by: By,
    after: Annotated[int, Query(ge=0)] = 0,
    mode: Mode = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Follow a task: events with their number as id, deltas without, ``end`` when it has ended.

    A client that comes back with ``Last-Event-ID`` gets every event it has not had, on any server.
    """
    reader = await asked.tasks.stream(
        by, task_id, after=after, last_event_id=last_event_id, modes=_modes(mode)
    )
    return EventStream(task_id, reader, asked.stopping)


class EventStream(Response):
    """A response that goes on until its task ends, its client leaves or the server stops.

    Not Starlette's streaming response: what is written waits for the client to take it, and when
    the client is gone that is heard at once, also while nothing is written.
    """

    def __init__(
        self,
        task_id: str,
        reader: Reader,
        stopping: asyncio.Event,
        *,
        presence: Presence | None = None,
        status: int = 200,
    ) -> None:
        """Send what ``reader`` takes; ``presence`` is told when the client leaves."""
        here = f"/api/v1/tasks/{task_id}"
        super().__init__(
            status_code=status,
            headers={**_HEADERS, "location": here, "content-location": f"{here}/stream"},
        )
        del self.headers["content-length"]
        self._reader = reader
        self._stopping = stopping
        self._presence = presence

    async def __call__(self, _: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer the request."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(gone(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = {sending, leaving, stopping}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._reader.close()
        if sending.cancelled():
            if not stopping.cancelled():  # without an end: the client comes back elsewhere
                await send({"type": "http.response.body", "body": b""})
            elif self._presence is not None:
                await self._presence.left()
        else:
            sending.result()

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": _HELLO, "more_body": True})
        while not self._reader.ended:
            piece = bytearray()
            for item in await self._reader.take(_HEARTBEAT_SECONDS):
                piece += line(item)
                if len(piece) >= _PIECE_BYTES:
                    await _write(send, piece)
                    piece = bytearray()
            await _write(send, piece or _HEARTBEAT)
        await send({"type": "http.response.body", "body": b""})


async def _write(send: Send, piece: bytes | bytearray) -> None:
    await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})


def line(item: Item) -> bytes:
    """One server-sent event."""
    if isinstance(item, Delta):
        return _event(
            "delta",
            {
                "epoch": item.epoch,
                "step": item.step,
                "mode": item.mode,
                "namespace": item.namespace,
                "data": item.data,
            },
        )
    if isinstance(item, Dropped):
        return _event("dropped", {"count": item.count})
    if isinstance(item, End):
        return _event("end", {"state": item.state, "outcome": item.outcome, "last": item.last})
    name, namespace = split_kind(item.kind)
    data = {
        "seq": item.seq,
        "epoch": item.epoch,
        "namespace": namespace,
        "data": item.data,
        "created_us": item.created_us,
    }
    return b"id: %d\n%s" % (item.seq, _event(name, data))


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    # An agent names its own events: no line break of it may end ours.
    safe = name.replace("\n", " ").replace("\r", " ")
    return b"event: %s\ndata: %s\n\n" % (safe.encode(), _encode(data))


def _modes(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]
