"""Rollouts over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from penstock.api.bodies import Body, accepts, answer, items, read
from penstock.api.dependencies import Asked, By
from penstock.api.releases import brief

router = APIRouter(prefix="/api/v1", tags=["rollouts"])


class Deploy(Body, frozen=True):
    """A release that is to get traffic."""

    ref: str = "latest"
    environment: str = "production"
    strategy: str | None = None
    plan: dict[str, Any] | None = None


class Rollback(Body, frozen=True):
    """Where to go back to; without ``to``, to what was stable before."""

    to: str | None = None
    component: str | None = None  # prompt, tools, model, code, policy, prompt.NAME: only this part


@router.post("/agents/{agent}/deployments", openapi_extra=accepts(Deploy))
async def deploy(agent: str, request: Request, asked: Asked, by: By) -> Response:
    """Give a release traffic: all of it if it is the first, else step by step."""
    body = await read(request, Deploy)
    done = await asked.rollouts.deploy(
        by,
        agent=agent,
        ref=body.ref,
        environment=body.environment,
        strategy=body.strategy,
        plan=body.plan,
    )
    return answer(
        {
            "deployment": done.deployment,
            "release": brief(done.release),
            "rollout": done.rollout,
            "note": done.note,
        }
    )


@router.post("/agents/{agent}/deployments/{environment}/rollback", openapi_extra=accepts(Rollback))
async def roll_back(
    agent: str, environment: str, request: Request, asked: Asked, by: By
) -> Response:
    """End the rollout that is on, or make an earlier release stable at once."""
    body = await read(request, Rollback)
    if body.component is not None:
        done = await asked.rollbacks.roll_back(
            by, agent, body.component, environment=environment, to=body.to
        )
        return answer(
            {
                "release": brief(done.deployed.release),
                "rollout": done.deployed.rollout,
                "fast": done.fast,
                "note": done.note,
            }
        )
    return answer(await asked.rollouts.rollback(by, agent, environment, to=body.to))


@router.post("/agents/{agent}/deployments/{environment}/{verb}")
async def change_rollout(
    agent: str,
    environment: str,
    verb: Literal["promote", "abort", "pause", "resume"],
    asked: Asked,
    by: By,
) -> Response:
    """Promote, abort, pause or resume the rollout that is on."""
    act = {
        "promote": asked.rollouts.promote,
        "abort": asked.rollouts.abort,
        "pause": asked.rollouts.pause,
        "resume": asked.rollouts.resume,
    }[verb]
    return answer(await act(by, agent, environment))


@router.get("/agents/{agent}/rollouts")
async def list_rollouts(
    agent: str, asked: Asked, by: By, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> Response:
    """An agent's rollouts from the newest to the oldest."""
    return items(await asked.rollouts.listing(by, agent=agent, limit=limit))


@router.get("/rollouts/{rollout_id}")
async def get_rollout(rollout_id: str, asked: Asked, by: By) -> Response:
    """A rollout with its evidence and its story."""
    return answer(await asked.rollouts.get(by, rollout_id))
