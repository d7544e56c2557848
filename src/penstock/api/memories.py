"""Memories over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from penstock.api.bodies import answer, items
from penstock.api.dependencies import Asked, By

router = APIRouter(prefix="/api/v1/memory", tags=["memory"])

# A part of a namespace may hold any character, so each part is a parameter of its own.
Parts = Annotated[list[str] | None, Query(description="The parts of a namespace, in order.")]


@router.get("")
async def list_memories(
    asked: Asked,
    by: By,
    agent: str,
    environment: str = "production",
    namespace: Parts = None,
    user: str | None = None,
    query: str = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """What an agent remembers below a namespace; with ``query``, what has its words."""
    return items(
        await asked.memories.listing(
            by,
            agent=agent,
            environment=environment,
            namespace=namespace or (),
            user=user,
            query=query,
            limit=limit,
            offset=offset,
        )
    )


@router.get("/item")
async def get_memory(
    asked: Asked,
    by: By,
    agent: str,
    key: str,
    environment: str = "production",
    namespace: Parts = None,
) -> Response:
    """One memory."""
    found = await asked.memories.get(
        by, agent=agent, environment=environment, namespace=namespace or (), key=key
    )
    return answer(found)


@router.delete("")
async def delete_memories(
    asked: Asked,
    by: By,
    agent: str,
    environment: str | None = None,
    namespace: Parts = None,
    user: str | None = None,
    key: str | None = None,
    *,
    everything: Annotated[bool, Query(alias="all")] = False,
) -> Response:
    """Let an agent forget what fits all that is given: a user's, below a namespace, under a key."""
    count = await asked.memories.delete(
        by,
        agent=agent,
        environment=environment,
        namespace=namespace or (),
        user=user,
        key=key,
        everything=everything,
    )
    return answer({"deleted": count})
