"""Commits: what one attempt adds to the record, all of it or nothing, under its fence.

A commit is data and not a unit of work, so that a database may take several together. Each has its
own fence: a stale one is refused and its neighbours do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain.errors import Stale
from penstock.store import tasks
from penstock.store.transaction import Transaction, Value

Rows = Sequence[tuple[str, Sequence[Mapping[str, Value]]]]  # a query, and what it is run with


def _nothing(_: int) -> Rows:
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A result that is committed once."""

    key: str
    kind: str
    output: str  # JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """Events, at most one step, and rows that belong to it.

    ``rows`` is asked for them with the number of the task's committed steps, this one included.
    """

    task_id: str
    epoch: int
    said: Sequence[tuple[str, Any]] = ()  # events: kind, data
    step: Step | None = None
    rows: Callable[[int], Rows] = _nothing

    @property
    def plain(self) -> bool:
        """Whether events and the step are all there is."""
        return self.rows is _nothing


async def apply(tx: Transaction, commit: Commit) -> int:
    """Write one commit; the task's committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
        Conflict: the step is on record already.
    """
    step = commit.step
    number = await tasks.advance(
        tx,
        task_id=commit.task_id,
        epoch=commit.epoch,
        steps=0 if step is None else 1,
        said=commit.said,
    )
    if step is not None:
        await tx.execute(
            "steps.add",
            task_id=commit.task_id,
            key=step.key,
            number=number,
            epoch=commit.epoch,
            kind=step.kind,
            output=step.output,
        )
    for query, parameters in commit.rows(number):
        await tx.execute_many(query, parameters)
    return number


def stale(commit: Commit) -> Stale:
    """What the caller of a commit is told whose epoch is not the task's any more."""
    return Stale(f"epoch {commit.epoch} no longer owns task {commit.task_id}; nothing was written")
