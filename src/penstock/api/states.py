"""States over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/sessions", tags=["states"])


class EditState(Body, frozen=True):
    """What is written into a state, as if a node had done it."""

    values: Any
    as_node: str | None = None
    checkpoint_id: str | None = None


class ForkSession(Body, frozen=True):
    """From where a new session begins."""

    checkpoint_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


@router.get("/{session_id}/state")
async def get_state(
    session_id: str, asked: Asked, by: By, checkpoint_id: str | None = None
) -> Response:
    """The state of a session: the latest, or that of a checkpoint."""
    return answer(await asked.states.get(by, session_id, checkpoint_id=checkpoint_id))


@router.get("/{session_id}/history")
async def list_states(
    session_id: str,
    asked: Asked,
    by: By,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: str | None = None,
) -> Response:
    """The states of a session from the newest to the oldest."""
    return items(await asked.states.history(by, session_id, limit=limit, before=before))


@router.post("/{session_id}/state", openapi_extra=accepts(EditState))
async def edit_state(session_id: str, request: Request, asked: Asked, by: By) -> Response:
    """Write into the state of a session; 409 while a task of it runs."""
    body = await read(request, EditState)
    return answer(
        await asked.states.edit(
            by,
            session_id,
            values=body.values,
            as_node=body.as_node,
            checkpoint_id=body.checkpoint_id,
        )
    )


@router.post("/{session_id}/fork", status_code=201, openapi_extra=accepts(ForkSession))
async def fork_session(session_id: str, request: Request, asked: Asked, by: By) -> Response:
    """A new session that begins where this one is, or was."""
    body = await read(request, ForkSession)
    forked = await asked.states.fork(
        by,
        session_id,
        checkpoint_id=body.checkpoint_id,
        user_id=body.user_id,
        metadata=body.metadata,
    )
    return answer(forked, 201)
