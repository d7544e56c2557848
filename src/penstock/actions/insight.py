"""Insight: the record of model calls, the audit, and the numbers for monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.domain.access import Actor, AuditEntry
from penstock.domain.exchanges import Exchange
from penstock.domain.rollouts import Rollout
from penstock.domain.tasks import TaskState
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, exchanges, rollouts, tasks, workers
from penstock.store.exchanges import Totals
from penstock.store.workers import WorkerRow

_MOST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """What monitoring sees."""

    tasks: tuple[tuple[str, str, TaskState, int], ...]  # agent, environment, state, count
    exchanges: tuple[Totals, ...]
    rollouts: tuple[Rollout, ...]
    workers: tuple[WorkerRow, ...]
    vectors: str | None  # the extension that compares those of memories


class InsightActions:
    """What may be looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def exchanges(self, actor: Actor, task_id: str) -> Sequence[Exchange]:
        """Every model call of a task.

        Raises:
            NotFound: there is no such task.
        """
        check(actor, "exchange.read")

        async def work(tx: Transaction) -> Sequence[Exchange]:
            await tasks.get(tx, task_id)
            return await exchanges.of_task(tx, task_id=task_id)

        return await self._store.read(work)

    async def audit(
        self,
        actor: Actor,
        *,
        object_kind: str | None = None,
        object_id: str | None = None,
        after: int = 0,
        limit: int = 200,
    ) -> list[AuditEntry]:
        """Audit entries in order, those behind the sequence number ``after``."""
        check(actor, "audit.read")

        async def work(tx: Transaction) -> list[AuditEntry]:
            return await audit.listing(
                tx,
                object_kind=object_kind,
                object_id=object_id,
                after=after,
                limit=min(limit, _MOST),
            )

        return await self._store.read(work)

    async def numbers(self, actor: Actor) -> Numbers:
        """Counts and sums over everything there is."""
        check(actor, "metrics.read")

        async def work(tx: Transaction) -> Numbers:
            return Numbers(
                tasks=tuple(await tasks.counts(tx)),
                exchanges=tuple(await exchanges.totals(tx)),
                rollouts=tuple(await rollouts.active(tx)),
                workers=tuple(await workers.listing(tx)),
                vectors=self._store.vectors,
            )

        return await self._store.read(work)

    @property
    def refusing(self) -> bool:
        """Whether the store answers, and has refused a write in the last seconds."""
        return self._store.refusing

    async def answers(self) -> bool:
        """Whether the store answers; needs no actor and tells nothing else."""

        async def work(tx: Transaction) -> bool:
            await workers.listing(tx)
            return True

        return await self._store.read(work)
