"""Agents: the names that things are deployed under."""

from __future__ import annotations

from penstock.domain.agents import Agent
from penstock.domain.errors import NotFound
from penstock.store.transaction import Transaction


async def ensure(tx: Transaction, name: str) -> None:
    """Make an agent known, if it is not."""
    await tx.execute("agents.ensure", name=name)


async def get(tx: Transaction, name: str) -> Agent:
    """One agent.

    Raises:
        NotFound: there is none of this name.
    """
    row = await tx.fetch_one("agents.get", name=name)
    if row is None:
        raise NotFound(f"there is no agent {name!r}", hint="List them: penstock status")
    return Agent(name=row["name"], created_us=row["created_us"])


async def listing(tx: Transaction) -> list[Agent]:
    """Every agent, by name."""
    rows = await tx.fetch_all("agents.listing")
    return [Agent(name=row["name"], created_us=row["created_us"]) for row in rows]
