"""Environments over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import field

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/agents/{agent}/environments", tags=["environments"])


class ChangeEnvironment(Body, frozen=True):
    """What is added, or with null taken away."""

    overlay: dict[str, str | None] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)


@router.get("")
async def list_environments(agent: str, asked: Asked, by: By) -> Response:
    """The environments of an agent that add something to its releases."""
    return items(await asked.environments.listing(by, agent))


@router.get("/{environment}")
async def get_environment(agent: str, environment: str, asked: Asked, by: By) -> Response:
    """What an environment adds to an agent's releases."""
    return answer(await asked.environments.get(by, agent, environment))


@router.patch("/{environment}", openapi_extra=accepts(ChangeEnvironment))
async def change_environment(
    agent: str, environment: str, request: Request, asked: Asked, by: By
) -> Response:
    """Add to an environment, or take away."""
    body = await read(request, ChangeEnvironment)
    changed = await asked.environments.change(
        by, agent, environment, overlay=body.overlay, variables=body.variables
    )
    return answer(changed)
