"""Garbage over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from penstock.api.bodies import answer
from penstock.api.dependencies import Asked, By
from penstock.api.releases import brief

router = APIRouter(prefix="/api/v1", tags=["garbage"])


@router.get("/garbage")
async def look_for_garbage(asked: Asked, by: By) -> Response:
    """What could be removed; nothing is."""
    return answer(await asked.garbage.collect(by))


@router.post("/garbage/collect")
async def collect_garbage(asked: Asked, by: By) -> Response:
    """Remove contents that no release, prompt or record refers to."""
    return answer(await asked.garbage.collect(by, remove=True))


@router.delete("/agents/{agent}/releases/{ref}")
async def delete_release(agent: str, ref: str, asked: Asked, by: By) -> Response:
    """Delete a release that has never served anybody."""
    return answer(brief(await asked.garbage.delete_release(by, agent, ref)))
