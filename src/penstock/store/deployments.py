"""Deployments: which release serves an agent in an environment."""

from __future__ import annotations

from penstock.domain.agents import Deployment
from penstock.domain.errors import Conflict
from penstock.store.transaction import Row, Transaction


async def get(tx: Transaction, agent: str, environment: str) -> Deployment | None:
    """A deployment, if the agent is deployed there."""
    row = await tx.fetch_one("deployments.get", agent=agent, environment=environment)
    return None if row is None else _record(row)


async def lock(tx: Transaction, agent: str, environment: str) -> Deployment | None:
    """A deployment that nobody else changes before this commit, if the agent is deployed there."""
    row = await tx.fetch_one("deployments.lock", agent=agent, environment=environment)
    return None if row is None else _record(row)


async def listing(tx: Transaction, agent: str | None = None) -> list[Deployment]:
    """Every deployment, or those of one agent."""
    return [_record(row) for row in await tx.fetch_all("deployments.listing", agent=agent)]


async def add(tx: Transaction, *, agent: str, environment: str, stable: str) -> Deployment:
    """Deploy an agent where it is not deployed yet.

    Raises:
        Conflict: somebody has just done so.
    """
    row = await tx.fetch_one("deployments.add", agent=agent, environment=environment, stable=stable)
    return _changed(row, agent, environment)


async def change(
    tx: Transaction, seen: Deployment, *, stable: str, rollout_id: str | None
) -> Deployment:
    """Change a deployment that is still as it was seen.

    Raises:
        Conflict: somebody has changed it meanwhile.
    """
    row = await tx.fetch_one(
        "deployments.change",
        agent=seen.agent,
        environment=seen.environment,
        revision=seen.revision,
        stable=stable,
        rollout_id=rollout_id,
    )
    return _changed(row, seen.agent, seen.environment)


def _changed(row: Row | None, agent: str, environment: str) -> Deployment:
    if row is None:
        raise Conflict(
            f"the deployment of {agent} in {environment} has just been changed by somebody else",
            hint="Look at it again: penstock status " + agent,
        )
    return _record(row)


def _record(row: Row) -> Deployment:
    return Deployment(
        agent=row["agent"],
        environment=row["environment"],
        stable=row["stable"],
        rollout_id=row["rollout_id"],
        revision=row["revision"],
        updated_us=row["updated_us"],
    )
