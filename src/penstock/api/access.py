"""Keys over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1", tags=["access"])


class CreateKey(Body, frozen=True):
    """A principal that gets a key."""

    name: str
    role: str = "operator"


@router.get("/whoami")
async def who_am_i(by: By) -> Response:
    """Whose key this is."""
    return answer(by)


@router.get("/keys")
async def list_keys(asked: Asked, by: By) -> Response:
    """Every key, without its secret."""
    return items(await asked.access.listing(by))


@router.post("/keys", status_code=201, openapi_extra=accepts(CreateKey))
async def create_key(request: Request, asked: Asked, by: By) -> Response:
    """Make a key; it is shown this once."""
    body = await read(request, CreateKey)
    return answer(await asked.access.create_key(by, name=body.name, role=body.role), 201)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, asked: Asked, by: By) -> Response:
    """End a key."""
    await asked.access.revoke(by, key_id)
    return Response(status_code=204)
