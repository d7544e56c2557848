"""Workflows: tasks that a program runs in its own process. They share everything but the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.tasks import WORKFLOWS, Claim
from penstock.store import claims, fences, tasks
from penstock.store.transaction import Transaction

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """A workflow that ``worker_id`` runs from the moment it is on record."""

    task_id: str
    session_id: str
    function: str
    release: str
    given: str  # JSON
    key: str | None
    worker_id: str


def beginning(
    *,
    task_id: str,
    session_id: str,
    function: str,
    release: str,
    given: Any,
    key: str | None,
    worker_id: str,
) -> Beginning:
    """What begins a workflow.

    Raises:
        TypeError: the input is not JSON.
    """
    return Beginning(
        task_id=task_id,
        session_id=session_id,
        function=function,
        release=release,
        given=_encode(given).decode(),
        key=key,
        worker_id=worker_id,
    )


async def begin(tx: Transaction, beginning: Beginning) -> Claim:
    """Put a workflow on record.

    Raises:
        Conflict: there is a workflow of this function under this key already.
    """
    await tx.execute(
        "workflows.session",
        id=beginning.session_id,
        agent=beginning.function,
        environment=WORKFLOWS,
        release=beginning.release,
    )
    row = await tx.fetch_one(
        "workflows.begin",
        id=beginning.task_id,
        session_id=beginning.session_id,
        agent=beginning.function,
        environment=WORKFLOWS,
        release=beginning.release,
        input=beginning.given,
        key=beginning.key,
        worker_id=beginning.worker_id,
    )
    assert row is not None
    return Claim(task=tasks.record(row), epoch=1)


async def begin_all(tx: Transaction, beginnings: Sequence[Beginning]) -> dict[str, Claim]:
    """Put workflows on record with one statement, which only PostgreSQL has; by their task.

    Raises:
        Conflict: one is on record already; none was written.
    """
    if not beginnings:
        return {}
    rows = await tx.fetch_all(
        "workflows.begin_all",
        ids=[one.task_id for one in beginnings],
        sessions=[one.session_id for one in beginnings],
        functions=[one.function for one in beginnings],
        environment=WORKFLOWS,
        releases=[one.release for one in beginnings],
        inputs=[one.given for one in beginnings],
        keys=[one.key for one in beginnings],
        workers=[one.worker_id for one in beginnings],
    )
    return {row["id"]: Claim(task=tasks.record(row), epoch=1) for row in rows}


async def claim(
    tx: Transaction, *, worker_id: str, functions: Sequence[str], limit: int
) -> list[Claim]:
    """Take over up to ``limit`` workflows of these functions that have lost their process."""
    await claims.ripen(tx)
    rows = await tx.fetch_all(
        "workflows.claim",
        worker_id=worker_id,
        environment=WORKFLOWS,
        names=_encode(list(functions)).decode(),
        limit=limit,
    )
    found = [Claim(task=tasks.record(row), epoch=row["epoch"]) for row in rows]
    for claim in found:
        await fences.advance(
            tx,
            task_id=claim.task.id,
            epoch=claim.epoch,
            said=[
                ("started", {"epoch": claim.epoch}),
                ("step.restarted", {"epoch": claim.epoch, "step": claim.task.steps}),
            ],
        )
    return found
