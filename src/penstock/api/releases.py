"""Releases over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.actions.releases import CutResult
from penstock.api.bodies import (
    MOST_ARCHIVE_BYTES,
    Body,
    accepts,
    answer,
    items,
    read,
    read_bytes,
)
from penstock.api.dependencies import Asked, By
from penstock.domain.releases import Release


class DeriveRelease(Body, frozen=True):
    """What a derived release differs in."""

    set: list[str]
    base: str = "live"
    message: str = ""


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
    strict: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> Response:
    """Cut a release from a project's tar.gz; an unchanged project is the same release again."""
    archive = await read_bytes(request, most=MOST_ARCHIVE_BYTES)
    return _cut(await asked.releases.cut(by, archive, message=message, ci=ci, strict=strict))


@router.post("/agents/{agent}/releases", status_code=201, openapi_extra=accepts(DeriveRelease))
async def derive_release(agent: str, request: Request, asked: Asked, by: By) -> Response:
    """Make a release of another, with some parts replaced by versions of the registry."""
    body = await read(request, DeriveRelease)
    derived = await asked.releases.derive(
        by, agent, base=body.base, settings=body.set, message=body.message
    )
    return _cut(derived)


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


def _cut(result: CutResult) -> Response:
    """What was cut; ``release`` is the only one, or the first of a project with several graphs."""
    shaped = {
        "release": brief(result.cuts[0].release),
        "created": result.cuts[0].created,
        "releases": [{**brief(cut.release), "created": cut.created} for cut in result.cuts],
        "lock": result.lock,
        "warnings": result.warnings,
    }
    return answer(shaped, 201 if any(cut.created for cut in result.cuts) else 200)
