"""Commits: what one attempt adds to the record, all of it or nothing, under its fence.

A commit is data and not a unit of work, so that a database may take several together. Each has its
own fence: a stale one is refused and its neighbours do not notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.domain.errors import Stale
from penstock.domain.tasks import Ending, TaskState
from penstock.store import endings, fences
from penstock.store.transaction import Transaction, Value

Rows = Sequence[tuple[str, Sequence[Mapping[str, Value]]]]  # a query, and what it is run with


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A result that is committed once."""

    key: str
    kind: str
    output: str  # JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The end of a task that gives an output, and its session's account of it.

    It is refused as stale if somebody wants the task stopped, or if the task takes anything of its
    session along: such an end has more to do, and is a unit of work (``endings.finish``).
    """

    output: Any
    crashes: int
    losses: int
    waited_us: int  # what the attempt waited for its process
    accounted: bool  # whether its session keeps an account


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """Events, at most one step, the end if it is one, and rows that belong to it."""

    task_id: str
    epoch: int
    said: Sequence[tuple[str, Any]] = ()  # events: kind, data
    step: Step | None = None
    completion: Completion | None = None
    rows: Rows = ()

    @property
    def plain(self) -> bool:
        """Whether the task, events and the step are all that is written."""
        return not self.rows and not (self.completion and self.completion.accounted)


async def apply(tx: Transaction, commit: Commit) -> int:
    """Write one commit; the task's committed steps.

    Raises:
        Stale: the epoch no longer owns the task; nothing was written.
        Conflict: the step is on record already.
    """
    step, completion = commit.step, commit.completion
    if completion is not None and await fences.wished_stop(
        tx, task_id=commit.task_id, epoch=commit.epoch
    ):
        raise stale(commit)
    number = await fences.advance(
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
    for query, parameters in commit.rows:
        await tx.execute_many(query, parameters)
    if completion is not None:
        await endings.finish(
            tx,
            task_id=commit.task_id,
            epoch=commit.epoch,
            state=TaskState.COMPLETED,
            outcome=Ending.OK.value,
            output=completion.output,
            crashes=completion.crashes,
            losses=completion.losses,
            waited_us=completion.waited_us,
        )
    return number


def stale(commit: Commit) -> Stale:
    """What the caller of a commit is told whose epoch is not the task's any more."""
    return Stale(f"epoch {commit.epoch} no longer owns task {commit.task_id}; nothing was written")
