"""What an environment adds to an agent's releases."""

from __future__ import annotations

import json
from collections.abc import Mapping

from penstock.domain.environments import Environment
from penstock.domain.errors import Conflict
from penstock.store.transaction import Row, Transaction


async def get(tx: Transaction, agent: str, environment: str) -> Environment:
    """What is added; nothing, if nothing ever was."""
    row = await tx.fetch_one("environments.get", agent=agent, environment=environment)
    return Environment(agent=agent, environment=environment) if row is None else _record(row)


async def listing(tx: Transaction, agent: str) -> list[Environment]:
    """The environments of an agent that add something."""
    return [_record(row) for row in await tx.fetch_all("environments.listing", agent=agent)]


async def change(
    tx: Transaction,
    seen: Environment,
    *,
    overlay: Mapping[str, str],
    variables: Mapping[str, str],
    updated_by: str,
) -> Environment:
    """Change what is still as it was seen.

    Raises:
        Conflict: somebody has changed it meanwhile.
    """
    given = {
        "agent": seen.agent,
        "environment": seen.environment,
        "overlay": json.dumps(dict(overlay), sort_keys=True),
        "variables": json.dumps(dict(variables), sort_keys=True),
        "updated_by": updated_by,
    }
    if seen.revision:
        row = await tx.fetch_one("environments.change", **given, revision=seen.revision)
    else:
        row = await tx.fetch_one("environments.add", **given)
    if row is None:
        raise Conflict(
            f"{seen.environment} of {seen.agent} has just been changed by somebody else",
            hint=f"Look at it again: penstock environments show {seen.agent} {seen.environment}",
        )
    return _record(row)


def _record(row: Row) -> Environment:
    return Environment(
        agent=row["agent"],
        environment=row["environment"],
        overlay=json.loads(row["overlay"]),
        variables=json.loads(row["variables"]),
        revision=row["revision"],
        updated_by=row["updated_by"],
        updated_us=row["updated_us"],
    )
