"""Workers over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from penstock.api.bodies import answer, items
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/workers", tags=["workers"])


@router.get("")
async def list_workers(asked: Asked, by: By) -> Response:
    """Every worker with what it runs."""
    return items(await asked.workers.listing(by))


@router.post("/{worker_id}/drain", status_code=202)
async def drain_worker(worker_id: str, asked: Asked, by: By) -> Response:
    """Let a worker leave: it takes nothing new, hands back what it has, and its process ends."""
    await asked.workers.drain(by, worker_id)
    return answer({"id": worker_id, "draining": True}, 202)
