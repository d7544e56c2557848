"""Queues: how many tasks have come and have left; exact, and cheap to ask."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.domain.queues import ALL, QueueLoad, QueueName
from penstock.store.transaction import Row, Transaction

_WINDOW_SECONDS = 10.0  # of the drain rate; the last one and the present one count


async def arrive(tx: Transaction, queue: QueueName) -> tuple[QueueLoad, QueueLoad]:
    """Count one more task; how full its queue is with it, and how full all of them are.

    To be done last in a transaction: until the commit nobody else gets into the queue.
    """
    return await _count(tx, queue), await _count(tx, ALL)


async def depart(tx: Transaction, numbers: Mapping[QueueName, int]) -> None:
    """Count tasks that have begun, or have ended before that."""
    total = sum(numbers.values())
    if not total:
        return
    # Always in this order, so that two that do this at once do not wait for each other.
    for queue, number in (*sorted(numbers.items()), (ALL, total)):
        await tx.execute(
            "queues.depart",
            agent=queue[0],
            environment=queue[1],
            number=number,
            window_us=int(_WINDOW_SECONDS * 1_000_000),
        )


async def load(tx: Transaction, queue: QueueName) -> QueueLoad:
    """How full a queue is, and how fast it drains."""
    row = await tx.fetch_one("queues.get", agent=queue[0], environment=queue[1])
    if row is None:
        return QueueLoad(waiting=0, departed=0, period_us=0)
    return _record(row)


async def correct(tx: Transaction, queue: QueueName) -> int:
    """Count the tasks of a queue one by one, keep the number, and return it."""
    agent, environment = queue
    await tx.execute("queues.hold_arrivals", agent=agent, environment=environment)
    await tx.execute("queues.hold_departures", agent=agent, environment=environment)
    row = await tx.fetch_one("queues.count", agent=agent, environment=environment)
    assert row is not None
    waiting = int(row["waiting"])
    await tx.execute("queues.correct", agent=agent, environment=environment, waiting=waiting)
    return waiting


async def _count(tx: Transaction, queue: QueueName) -> QueueLoad:
    agent, environment = queue
    row = await tx.fetch_one("queues.arrive", agent=agent, environment=environment)
    if row is None:
        await tx.execute("queues.know", agent=agent, environment=environment)
        await tx.execute("queues.know_departures", agent=agent, environment=environment)
        row = await tx.fetch_one("queues.arrive", agent=agent, environment=environment)
    assert row is not None
    return _record(row)


def _record(row: Row) -> QueueLoad:
    return QueueLoad(
        waiting=int(row["waiting"]),
        departed=int(row["departed"]),
        period_us=int(row["period_us"]),
    )
