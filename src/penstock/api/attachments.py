"""Attachments over HTTP: a file's bytes as they are."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from penstock.api.bodies import answer, items, read_bytes
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/sessions", tags=["attachments"])

# What somebody has sent must not run in the browser of whoever looks at it.
_HARMLESS = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}


@router.post(
    "/{session_id}/attachments",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def add_attachment(
    session_id: str, request: Request, asked: Asked, by: By, filename: str = ""
) -> Response:
    """Give a session a file: the body as it is, with its content type."""
    await asked.sessions.get(by, session_id)  # before a large body is read for nobody
    content = await read_bytes(request, most=asked.attachment_bytes)
    kind = request.headers.get("content-type")
    added = await asked.attachments.add(
        by, session_id, content, content_type=kind, filename=filename
    )
    return answer(added, 201)


@router.get("/{session_id}/attachments")
async def list_attachments(session_id: str, asked: Asked, by: By) -> Response:
    """The files of a session, the oldest first."""
    return items(await asked.attachments.listing(by, session_id))


@router.get("/{session_id}/attachments/{attachment_id}")
async def get_attachment(session_id: str, attachment_id: str, asked: Asked, by: By) -> Response:
    """The bytes of a file."""
    found, content = await asked.attachments.content(by, session_id, attachment_id)
    name = quote(found.filename or found.id, safe="")
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}", **_HARMLESS}
    return Response(content, media_type=found.content_type, headers=headers)
