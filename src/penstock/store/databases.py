"""What a store stands on, whichever database it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from penstock.store.backups import Snapshot
from penstock.store.commits import Commit
from penstock.store.transaction import Line, Work

T = TypeVar("T")

Deliver = Callable[[str, str], None]  # channel, payload; on the store's event loop


class Database(Protocol):
    """What a store stands on."""

    vectors: str | None  # which extension compares vectors, while it is open

    async def transact(self, work: Work[T]) -> T:
        """Run ``work`` and commit it."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on one snapshot."""
        ...

    async def commit(self, commit: Commit) -> int:
        """Write a commit; the task's committed steps."""
        ...

    async def glance(self, work: Work[T]) -> T:
        """Run ``work``, which is one statement that reads."""
        ...

    def line(self) -> Line:
        """A way to write from another thread's event loop."""
        ...

    async def scrub(self) -> bool:
        """Let the bytes of deleted rows go from the disk too; whether they are gone."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Everything as it is at one moment."""
        ...

    async def close(self) -> None:
        """Finish what is queued and disconnect."""
        ...
