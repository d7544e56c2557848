"""Workers: who runs tasks, and letting one of them leave."""

from __future__ import annotations

from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, NotFound
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, workers
from penstock.store.workers import WorkerKind, WorkerRow


class WorkerActions:
    """What may be done with workers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def listing(self, actor: Actor) -> list[WorkerRow]:
        """Every worker, the oldest first."""
        check(actor, "metrics.read")
        return await self._store.read(workers.listing)

    async def drain(self, actor: Actor, worker_id: str) -> None:
        """Let a worker take nothing new, finish or hand back what it has, and end its process.

        Raises:
            NotFound: there is no worker of this name.
            Conflict: it is a program that runs workflows of its own.
        """
        check(actor, "worker.drain")

        async def work(tx: Transaction) -> None:
            if await workers.kind(tx, worker_id) is WorkerKind.PROGRAM:
                raise Conflict(
                    f"{worker_id} is a program that runs workflows of its own",
                    hint="Stop that program: it leaves as it stops, and others go on with its"
                    " workflows. penstock workers says where it runs.",
                )
            if not await workers.ask_to_drain(tx, worker_id):
                raise NotFound(
                    f"there is no worker {worker_id}", hint="They are listed by: penstock workers"
                )
            await audit.add(
                tx, actor, "worker.drain", object_kind="worker", object_id=worker_id, detail={}
            )

        await self._store.transact(work)
