"""Workflows: tasks that a program runs in its own process. They share everything but the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.domain.tasks import WORKFLOWS, Claim
from penstock.store import tasks
from penstock.store.transaction import Transaction

_encode = msgspec.json.Encoder().encode


async def begin(
    tx: Transaction,
    *,
    task_id: str,
    session_id: str,
    function: str,
    release: str,
    given: Any,
    key: str | None,
    worker_id: str,
) -> Claim:
    """Put a workflow on record that ``worker_id`` runs from now on.

    Raises:
        Conflict: there is a workflow of this function under this key already.
    """
    await tx.execute(
        "workflows.session",
        id=session_id,
        agent=function,
        environment=WORKFLOWS,
        release=release,
    )
    row = await tx.fetch_one(
        "workflows.begin",
        id=task_id,
        session_id=session_id,
        agent=function,
        environment=WORKFLOWS,
        release=release,
        input=_encode(given).decode(),
        key=key,
        worker_id=worker_id,
    )
    assert row is not None
    return Claim(task=tasks.record(row), epoch=1)


async def claim(
    tx: Transaction, *, worker_id: str, functions: Sequence[str], limit: int
) -> list[Claim]:
    """Take over up to ``limit`` workflows of these functions that have lost their process."""
    await tasks.ripen(tx)
    rows = await tx.fetch_all(
        "workflows.claim",
        worker_id=worker_id,
        environment=WORKFLOWS,
        names=_encode(list(functions)).decode(),
        limit=limit,
    )
    found = [Claim(task=tasks.record(row), epoch=row["epoch"]) for row in rows]
    for claim in found:
        await tasks.advance(
            tx,
            task_id=claim.task.id,
            epoch=claim.epoch,
            said=[
                ("started", {"epoch": claim.epoch}),
                ("step.restarted", {"epoch": claim.epoch, "step": claim.task.steps}),
            ],
        )
    return found
