"""Steps: units of an agent's work that are committed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.store.commits import Commit, Step, apply
from penstock.store.transaction import Transaction

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def of(
    *, task_id: str, epoch: int, key: str, output: Any, said: Sequence[tuple[str, Any]]
) -> Commit:
    """The commit of a step's result, with the events before it."""
    return Commit(
        task_id=task_id,
        epoch=epoch,
        said=[*said, ("step", {"key": key})],
        step=Step(key=key, kind="step", output=_encode(output).decode()),
    )


async def commit(
    tx: Transaction,
    *,
    task_id: str,
    epoch: int,
    key: str,
    output: Any,
    said: Sequence[tuple[str, Any]],
) -> int:
    """Keep a step's result under the fence, with the events before it; the committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
        Conflict: the step is on record already.
    """
    return await apply(tx, of(task_id=task_id, epoch=epoch, key=key, output=output, said=said))


async def journal(tx: Transaction, task_id: str) -> list[dict[str, Any]]:
    """What a restarted attempt must not do again: key and output of each step, in order."""
    rows = await tx.fetch_all("steps.of_task", task_id=task_id)
    return [{"key": row["key"], "output": _decode(row["output"])} for row in rows]


async def number(tx: Transaction, *, task_id: str, key: str, epoch: int) -> int | None:
    """Which of the task's steps an epoch has committed under a key, if it has."""
    row = await tx.fetch_one("steps.number", task_id=task_id, key=key, epoch=epoch)
    return None if row is None else int(row["number"])


async def last_checkpoint(tx: Transaction, task_id: str) -> int:
    """The number of the task's last checkpoint among its steps; 0 if it has none."""
    row = await tx.fetch_one("steps.last_checkpoint", task_id=task_id)
    return 0 if row is None else int(row["number"])
