"""Sessions over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/sessions", tags=["sessions"])


class CreateSession(Body, frozen=True):
    """A conversation to begin."""

    agent: str
    environment: str = "production"
    user_id: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    ttl_seconds: float | None = None


class Feedback(Body, frozen=True):
    """What a person thought of a session: -1, 0 or 1."""

    thumb: int


@router.post("", status_code=201, openapi_extra=accepts(CreateSession))
async def create_session(request: Request, asked: Asked, by: By) -> Response:
    """Begin a session; it stays with the release it begins on."""
    body = await read(request, CreateSession)
    session = await asked.sessions.create(
        by,
        agent=body.agent,
        environment=body.environment,
        user_id=body.user_id,
        metadata=body.metadata,
        ttl_seconds=body.ttl_seconds,
    )
    return answer(session, 201)


@router.get("")
async def list_sessions(
    asked: Asked,
    by: By,
    agent: str | None = None,
    state: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: str | None = None,
) -> Response:
    """Sessions from the newest to the oldest."""
    found = await asked.sessions.listing(by, agent=agent, state=state, limit=limit, before=before)
    return items(found)


@router.get("/{session_id}")
async def get_session(session_id: str, asked: Asked, by: By) -> Response:
    """One session."""
    return answer(await asked.sessions.get(by, session_id))


@router.delete("/{session_id}")
async def delete_session(session_id: str, asked: Asked, by: By, *, force: bool = False) -> Response:
    """Delete a session and all that was said in it; 202 while an attempt has to end first."""
    gone = await asked.deletions.session(by, session_id, force=force)
    return answer({"id": session_id, "deleted": gone}, 200 if gone else 202)


@router.post("/{session_id}/close")
async def close_session(session_id: str, asked: Asked, by: By) -> Response:
    """End a session, with the last of its tasks that has not ended."""
    return answer(await asked.sessions.close(by, session_id))


@router.post("/{session_id}/feedback", openapi_extra=accepts(Feedback))
async def give_feedback(session_id: str, request: Request, asked: Asked, by: By) -> Response:
    """Keep what a person thought of a session."""
    body = await read(request, Feedback)
    return answer(await asked.sessions.feedback(by, session_id, thumb=body.thumb))
