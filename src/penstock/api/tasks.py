"""Tasks over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By
from penstock.domain.tasks import SETTLED, Delta, Event

router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])

_HEARTBEAT_SECONDS = 5.0
_encode = msgspec.json.Encoder().encode

Seconds = Annotated[float, Query(ge=0, le=600)]


class CreateTask(Body, frozen=True):
    """A task to be run."""

    agent: str
    input: Any
    environment: str = "production"
    session_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    close_session: bool = False
    idempotency_key: str | None = None
    delay_seconds: float = 0.0


@router.post("", status_code=201, openapi_extra=accepts(CreateTask))
async def create_task(request: Request, asked: Asked, by: By, wait: Seconds = 0.0) -> Response:
    """Put a task into the queue; with ``wait``, answer when it has ended or the time is over."""
    body = await read(request, CreateTask)
    task = await asked.tasks.create(by, **{name: getattr(body, name) for name in _FIELDS})
    if wait and task.state not in SETTLED:
        task = await asked.tasks.wait(by, task.id, seconds=wait)
    return answer(task, 201)


_FIELDS = CreateTask.__struct_fields__


@router.get("")
async def list_tasks(
    asked: Asked,
    by: By,
    agent: str | None = None,
    session_id: str | None = None,
    state: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: str | None = None,
) -> Response:
    """Tasks from the newest to the oldest; ``before`` is the last id of the page before."""
    return items(
        await asked.tasks.listing(
            by, agent=agent, session_id=session_id, state=state, limit=limit, before=before
        )
    )


@router.get("/{task_id}")
async def get_task(task_id: str, asked: Asked, by: By) -> Response:
    """One task."""
    return answer(await asked.tasks.get(by, task_id))


@router.delete("/{task_id}")
async def delete_task(task_id: str, asked: Asked, by: By, *, force: bool = False) -> Response:
    """Delete a task and what is recorded of it; 202 while its attempt has to end first."""
    gone = await asked.deletions.task(by, task_id, force=force)
    return answer({"id": task_id, "deleted": gone}, 200 if gone else 202)


@router.get("/{task_id}/wait")
async def wait_for_task(task_id: str, asked: Asked, by: By, seconds: Seconds = 30.0) -> Response:
    """The task once it has ended or waits for a person, or as it is when the time is over."""
    return answer(await asked.tasks.wait(by, task_id, seconds=seconds))


@router.post("/{task_id}/cancel")
async def cancel_task(task_id: str, asked: Asked, by: By) -> Response:
    """End a task."""
    return answer(await asked.tasks.cancel(by, task_id))


class Resume(Body, frozen=True):
    """Answers by the id of what they answer, or the one answer there is to give."""

    answers: dict[str, Any] | None = None
    answer: Any = None


@router.post("/{task_id}/resume", openapi_extra=accepts(Resume))
async def resume_task(task_id: str, request: Request, asked: Asked, by: By) -> Response:
    """Answer what a task waits for."""
    body = await read(request, Resume)
    resumed = await asked.tasks.resume(by, task_id, answers=body.answers, answer=body.answer)
    return answer(resumed)


@router.get("/{task_id}/events")
async def list_events(
    task_id: str,
    asked: Asked,
    by: By,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """The durable events of a task, in order."""
    return items(await asked.tasks.events(by, task_id, after=after, limit=limit))


@router.get("/{task_id}/logs")
async def list_logs(task_id: str, asked: Asked, by: By) -> Response:
    """What the task's attempts printed."""
    return items(await asked.tasks.logs(by, task_id))


@router.get("/{task_id}/exchanges")
async def list_exchanges(task_id: str, asked: Asked, by: By) -> Response:
    """The task's model calls."""
    return items(await asked.insight.exchanges(by, task_id))


@router.get("/{task_id}/stream")
async def stream_task(
    task_id: str,
    asked: Asked,
    by: By,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The task as server-sent events: durable ones with their number as id, and deltas without.

    A client that reconnects with ``Last-Event-ID`` misses no durable event.
    """
    if last_event_id is not None and last_event_id.isdigit():
        after = int(last_event_id)
    await asked.tasks.get(by, task_id)  # an unknown task is an error, not an empty stream
    stream = asked.tasks.stream(by, task_id, after=after)
    return StreamingResponse(
        _lines(stream, asked.stopping),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _lines(
    stream: AsyncIterator[Event | Delta], stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Server-sent events; a comment when nothing has happened for a while."""
    stop = asyncio.create_task(stopping.wait())
    following: asyncio.Task[Event | Delta] | None = None
    try:
        yield b": connected\n\n"
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(stream))
            await asyncio.wait(
                {following, stop},
                timeout=_HEARTBEAT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if following.done():
                try:
                    item = following.result()
                except StopAsyncIteration:
                    return
                following = None
                yield _line(item)
            elif stop.done():
                return
            else:
                yield b": still here\n\n"
    finally:
        stop.cancel()
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _line(item: Event | Delta) -> bytes:
    if isinstance(item, Event):
        head = f"id: {item.seq}\nevent: {item.kind}\n"
        data: dict[str, Any] = {
            "seq": item.seq,
            "epoch": item.epoch,
            "data": item.data,
            "created_us": item.created_us,
        }
    else:
        head = "event: delta\n"
        data = {"epoch": item.epoch, "step": item.step, "data": item.data}
    return head.encode() + b"data: " + _encode(data) + b"\n\n"
