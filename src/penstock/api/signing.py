"""Signing keys over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/signing", tags=["signing"])


class TrustKey(Body, frozen=True):
    """Another installation's public key."""

    public_pem: str
    name: str


@router.get("/keys")
async def list_signing_keys(asked: Asked, by: By) -> Response:
    """The public keys that are known; the active one signs."""
    return items(await asked.signing.listing(by))


@router.post("/rotate")
async def rotate_signing_key(asked: Asked, by: By) -> Response:
    """Sign with a new key from now on."""
    return answer(await asked.signing.rotate(by))


@router.post("/keys", status_code=201, openapi_extra=accepts(TrustKey))
async def trust_signing_key(request: Request, asked: Asked, by: By) -> Response:
    """Believe another installation's key."""
    body = await read(request, TrustKey)
    return answer(await asked.signing.trust(by, body.public_pem, name=body.name), 201)


@router.delete("/keys/{key_id}")
async def revoke_signing_key(key_id: str, asked: Asked, by: By) -> Response:
    """Believe nothing that a key has signed."""
    return answer(await asked.signing.revoke(by, key_id))
