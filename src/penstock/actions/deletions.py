"""Deletions: of sessions and tasks, with all that was said and done in them."""

from __future__ import annotations

from penstock.domain.access import Actor
from penstock.domain.errors import Conflict
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, deletions, sessions, tasks


class DeletionActions:
    """Removes what must not be kept any longer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def session(self, actor: Actor, session_id: str, *, force: bool = False) -> bool:
        """Delete a session with its tasks, its state and its attachments.

        What rollouts count of it stays, without content. With ``force`` what has not ended is
        cancelled first; the session is then deleted as soon as its last attempt is over.

        Returns:
            Whether it is gone already.

        Raises:
            NotFound: there is no such session.
            Conflict: a task of it has not ended, and ``force`` was not given.
        """
        check(actor, "session.delete")

        async def work(tx: Transaction) -> bool:
            await sessions.lock(tx, session_id)
            if not force:
                _ended(await deletions.live(tx, session_id), session_id)
            elif not await deletions.stop(tx, session_id):
                await _note(tx, actor, "session", session_id)
                return False
            await deletions.delete_session(tx, session_id)
            await _note(tx, actor, "session", session_id)
            return True

        return await self._store.transact(work)

    async def task(self, actor: Actor, task_id: str, *, force: bool = False) -> bool:
        """Delete a task: input, output, events, steps, logs and the record of its calls.

        What it left in its session's state stays there; that goes with the session.

        Returns:
            Whether it is gone already.

        Raises:
            NotFound: there is no such task.
            Conflict: it has not ended, and ``force`` was not given.
        """
        check(actor, "session.delete")

        async def work(tx: Transaction) -> bool:
            task = await tasks.get(tx, task_id)
            await sessions.lock(tx, task.session_id)
            if not force:
                found = await deletions.live(tx, task.session_id, task_id=task_id)
                _ended(found, task_id)
            elif not await deletions.stop(tx, task.session_id, task_id=task_id):
                await _note(tx, actor, "task", task_id)
                return False
            await deletions.delete_task(tx, task.session_id, task_id)
            await _note(tx, actor, "task", task_id)
            return True

        return await self._store.transact(work)


def _ended(live: list[str], what: str) -> None:
    if live:
        raise Conflict(
            f"{what} cannot be deleted: task {live[0]} has not ended",
            hint="Wait for it or cancel it, or delete with force: that cancels it first.",
        )


async def _note(tx: Transaction, actor: Actor, kind: str, found: str) -> None:
    await audit.add(tx, actor, f"{kind}.delete", object_kind=kind, object_id=found, detail={})
