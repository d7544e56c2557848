"""Agents over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from penstock.actions.agents import AgentStatus
from penstock.api.bodies import answer, items
from penstock.api.dependencies import Asked, By
from penstock.api.releases import brief

router = APIRouter(prefix="/api/v1/agents", tags=["agents"])


@router.get("")
async def list_agents(asked: Asked, by: By) -> Response:
    """Every agent with its status."""
    return items([_shaped(status) for status in await asked.agents.listing(by)])


@router.get("/{agent}")
async def get_agent(agent: str, asked: Asked, by: By) -> Response:
    """One agent: its deployments, the rollout that is on, its tasks by state."""
    return answer(_shaped(await asked.agents.status(by, agent)))


def _shaped(status: AgentStatus) -> dict[str, Any]:
    return {
        "name": status.agent.name,
        "created_us": status.agent.created_us,
        "tasks": status.tasks,
        "latest": None if status.latest is None else brief(status.latest),
        "deployments": [
            {
                "environment": item.deployment.environment,
                "revision": item.deployment.revision,
                "updated_us": item.deployment.updated_us,
                "stable": brief(item.stable),
                "candidate": None if item.candidate is None else brief(item.candidate),
                "starts": item.starts,
                "rollout": item.rollout,
            }
            for item in status.deployments
        ],
    }
