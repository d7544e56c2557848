"""Backups over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1", tags=["backups"])


@router.get("/backup")
async def get_backup(asked: Asked, by: By) -> Response:
    """A consistent copy of everything, secrets too, as one file; ends early if it fails."""
    return StreamingResponse(
        await asked.backups.stream(by),
        media_type="application/gzip",
        headers={
            "cache-control": "no-store",
            "content-disposition": 'attachment; filename="penstock-backup.tar.gz"',
        },
    )
