"""What tasks leave in their session: checkpoints, what nodes wrote on them, journaled steps."""

from __future__ import annotations

from penstock.store import checkpoint_histories
from penstock.store.transaction import Transaction


async def undo(tx: Transaction, *, session_id: str, task_id: str) -> None:
    """Take out of a session what its latest task has put into it: it is as it was before.

    Nothing stands on the checkpoints of that task: the next one of the session has not begun.
    """
    which = {"session_id": session_id, "task_id": task_id}
    await tx.execute("checkpoints.remove_writes_of_task", **which)
    await tx.execute("contents.undo_checkpoints", **which)
    await tx.execute("contents.undo_steps", task_id=task_id)


async def forget(tx: Transaction, *, session_id: str, task_id: str) -> None:
    """Take everything out of a session that was made for one task."""
    await checkpoint_histories.delete_session(tx, session_id)
    await tx.execute("contents.undo_steps", task_id=task_id)
