"""What a unit of work sees of the database, whichever database it is.

A unit of work is an ``async def work(tx)``. It may await *only* its transaction: on SQLite it is
driven to its end inside the writer thread, on PostgreSQL it runs on the event loop. It must not
touch the state of its caller except through what it returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

Row = Mapping[str, Any]
Value = str | int | float | bytes | None
Values = Value | Sequence[Value]  # a sequence is an array, which only PostgreSQL has

T = TypeVar("T")


class Transaction(Protocol):
    """One transaction: named queries and notifications that leave with the commit."""

    async def fetch_all(self, query: str, /, **parameters: Values) -> Sequence[Row]:
        """Every row the query returns."""
        ...

    async def fetch_one(self, query: str, /, **parameters: Values) -> Row | None:
        """The first row, or nothing."""
        ...

    async def execute(self, query: str, /, **parameters: Values) -> int:
        """Run a statement; the number of rows it changed."""
        ...

    async def execute_many(self, query: str, rows: Sequence[Mapping[str, Value]], /) -> None:
        """Run a statement once for every row of parameters, on one trip."""
        ...

    def notify(self, channel: str, payload: str) -> None:
        """Tell the subscribers of ``channel`` once this transaction is committed."""
        ...


Work = Callable[[Transaction], Awaitable[T]]


class Line(Protocol):
    """A way to the database of its own, for one thread with its own event loop."""

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work and commit it.

        Raises:
            Unavailable: the database did not answer; whether it was committed is not known.
        """
        ...

    async def close(self) -> None:
        """Give back what the line holds."""
        ...
