"""Artifacts over HTTP: releases that leave, and releases that arrive."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from penstock.actions.artifacts import MOST_BYTES, Imported
from penstock.api.bodies import Body, accepts, answer, read, spooled
from penstock.api.dependencies import Asked, By
from penstock.api.releases import brief


class PushArtifact(Body, frozen=True):
    """Where a release goes."""

    reference: str
    insecure: bool = False
    wheels: bool = True


class PullArtifact(Body, frozen=True):
    """Where a release comes from."""

    reference: str
    insecure: bool = False
    trust: tuple[str, ...] = ()


router = APIRouter(prefix="/api/v1", tags=["artifacts"])


@router.get("/agents/{agent}/releases/{ref}/artifact")
async def export_artifact(
    agent: str,
    ref: str,
    asked: Asked,
    by: By,
    wheels: bool = True,  # noqa: FBT001, FBT002 - a query parameter
) -> Response:
    """A release as the tar of an OCI image layout, signed."""
    made = await asked.artifacts.export(by, agent, ref, with_wheels=wheels)
    headers = {
        "content-disposition": f'attachment; filename="{made.name}"',
        "content-length": str(made.size),
        "x-penstock-key": made.key_id,
        "x-penstock-artifact": f"sha256:{made.digest}",
    }
    return StreamingResponse(made.chunks, media_type="application/x-tar", headers=headers)


@router.post("/artifacts", status_code=201)
async def import_artifact(
    request: Request,
    asked: Asked,
    by: By,
    trust: Annotated[list[str] | None, Query(max_length=20)] = None,
    message: Annotated[str, Query(max_length=2000)] = "",
) -> Response:
    """Publish the release in an artifact, once every byte of it is proven."""
    async with spooled(request, most=MOST_BYTES) as path:
        done = await asked.artifacts.import_file(by, path, trust=trust or (), message=message)
    return _imported(done)


@router.post("/agents/{agent}/releases/{ref}/push", openapi_extra=accepts(PushArtifact))
async def push_artifact(agent: str, ref: str, request: Request, asked: Asked, by: By) -> Response:
    """Push a release's artifact to a registry; the server's own docker login is used."""
    body = await read(request, PushArtifact)
    pushed = await asked.registries.push(
        by,
        agent,
        ref,
        reference=body.reference,
        insecure=body.insecure,
        with_wheels=body.wheels,
    )
    return answer(pushed)


@router.post("/artifacts/pull", status_code=201, openapi_extra=accepts(PullArtifact))
async def pull_artifact(request: Request, asked: Asked, by: By) -> Response:
    """Pull an artifact from a registry and publish its release."""
    body = await read(request, PullArtifact)
    done = await asked.registries.pull(
        by, reference=body.reference, insecure=body.insecure, trust=body.trust
    )
    return _imported(done)


def _imported(done: Imported) -> Response:
    shaped = {
        "release": brief(done.release),
        "created": done.created,
        "key": done.key_id,
        "wheels": done.wheels,
    }
    return answer(shaped, 201 if done.created else 200)
