"""Releases over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.api.bodies import MOST_ARCHIVE_BYTES, answer, items, read_bytes
from penstock.api.dependencies import Asked, By
from penstock.domain.releases import Release

router = APIRouter(prefix="/api/v1", tags=["releases"])


def brief(release: Release) -> dict[str, Any]:
    """A release without its manifest."""
    return {
        "digest": release.digest,
        "agent": release.agent,
        "number": release.number,
        "composite": release.composite,
        "components": release.manifest.components,
        "message": release.message,
        "created_by": release.created_by,
        "created_us": release.created_us,
    }


@router.post("/releases", status_code=201)
async def cut_release(
    request: Request,
    asked: Asked,
    by: By,
    message: Annotated[str, Query(max_length=2000)] = "",
    ci: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> Response:
    """Cut a release from a project's tar.gz; an unchanged project is the same release again."""
    archive = await read_bytes(request, most=MOST_ARCHIVE_BYTES)
    cut = await asked.releases.cut(by, archive, message=message, ci=ci)
    shaped = {
        "release": brief(cut.release),
        "created": cut.created,
        "lock": cut.lock,
        "warnings": cut.warnings,
    }
    return answer(shaped, 201 if cut.created else 200)


@router.get("/agents/{agent}/releases")
async def list_releases(
    agent: str, asked: Asked, by: By, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """An agent's releases from the newest to the oldest."""
    return items([brief(found) for found in await asked.releases.listing(by, agent, limit=limit)])


@router.get("/agents/{agent}/releases/{ref}")
async def get_release(agent: str, ref: str, asked: Asked, by: By) -> Response:
    """One release, with everything it pins."""
    return answer(await asked.releases.get(by, agent, ref))


@router.get("/agents/{agent}/releases/{before}/diff/{after}")
async def diff_releases(agent: str, before: str, after: str, asked: Asked, by: By) -> Response:
    """What changed from one release to another, component by component."""
    return items(await asked.releases.diff(by, agent, before, after))


@router.get("/agents/{agent}/components")
async def list_components(agent: str, asked: Asked, by: By, kind: str | None = None) -> Response:
    """An agent's component versions."""
    return items(await asked.releases.components(by, agent, kind=kind))
