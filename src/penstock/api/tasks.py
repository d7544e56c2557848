"""Tasks over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from penstock.actions.submissions import Submission
from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Actions, Asked, By
from penstock.api.presence import Presence
from penstock.domain.access import Actor
from penstock.domain.errors import Invalid
from penstock.domain.tasks import SETTLED, MultitaskStrategy, Task
from penstock.rules.submissions import HIGHEST_PRIORITY

router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])

USUAL_WAIT_SECONDS = 30.0

_CLIENT_GONE = 499  # nobody reads it

Seconds = Annotated[float, Query(ge=0, le=600)]


IdempotencyKey = Annotated[str | None, Header()]


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
    stream_mode: str | list[str] | None = None
    subgraphs: bool = False
    on_disconnect: Literal["continue", "cancel"] = "continue"
    run_at: str | None = None  # RFC 3339
    priority: Annotated[int, msgspec.Meta(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY)] = 0
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE
    stateless: bool = False


@router.post("", status_code=201, openapi_extra=accepts(CreateTask))
async def create_task(
    request: Request,
    asked: Asked,
    by: By,
    wait: Seconds = 0.0,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put a task into the queue; with ``wait``, answer when it has ended or the time is over."""
    body = await read(request, CreateTask)
    task = await place(asked, by, body, idempotency_key)
    if wait and task.state not in SETTLED:
        presence = Presence(asked, by, task.id, cancels=body.on_disconnect == "cancel")
        found = await presence.during(
            asked.tasks.wait(by, task.id, seconds=wait, begun=True), request.receive
        )
        if found is None:
            return Response(status_code=_CLIENT_GONE)
        task = found
    return answer(task, 201)


async def place(asked: Actions, by: Actor, body: CreateTask, key: str | None) -> Task:
    """Put the task of a request into the queue; ``key`` is its header Idempotency-Key."""
    given = {name: getattr(body, name) for name in _FIELDS}
    if isinstance(body.stream_mode, str):
        given["stream_mode"] = [body.stream_mode]
    given["idempotency_key"] = _one_key(key, body.idempotency_key)
    return await asked.tasks.create(by, Submission(**given))


_FIELDS = tuple(name for name in CreateTask.__struct_fields__ if name != "on_disconnect")


def _one_key(header: str | None, member: str | None) -> str | None:
    """The idempotency key, wherever it stands."""
    if header is not None and member is not None and header != member:
        raise Invalid(
            "the header Idempotency-Key and the body's idempotency_key differ",
            hint="Send one of them.",
        )
    return member if header is None else header


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
async def wait_for_task(
    task_id: str, asked: Asked, by: By, seconds: Seconds = USUAL_WAIT_SECONDS
) -> Response:
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
async def list_logs(task_id: str, asked: Asked, by: By, after: str | None = None) -> Response:
    """What the task's attempts printed; behind line ``EPOCH.NUMBER`` if ``after`` names one."""
    return items(await asked.tasks.logs(by, task_id, after=after))


@router.get("/{task_id}/exchanges")
async def list_exchanges(task_id: str, asked: Asked, by: By) -> Response:
    """The task's model calls."""
    return items(await asked.insight.exchanges(by, task_id))
