"""Logs: what attempts wrote to stdout and stderr."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.domain.tasks import LogLine
from penstock.store.transaction import Transaction, Value


def rows(
    *, task_id: str, epoch: int, first: int, pieces: Sequence[tuple[str, str]]
) -> list[dict[str, Value]]:
    """What ``logs.add`` is run with for pieces of (stream, text), numbered from ``first``."""
    return [
        {
            "task_id": task_id,
            "epoch": epoch,
            "number": number,
            "stream": stream,
            "text": text.replace("\x00", "\ufffd"),  # PostgreSQL keeps no NUL in a text
        }
        for number, (stream, text) in enumerate(pieces, first)
    ]


async def append(
    tx: Transaction, *, task_id: str, epoch: int, first: int, pieces: Sequence[tuple[str, str]]
) -> None:
    """Keep pieces of (stream, text), numbered from ``first``.

    There is no fence: what a late attempt printed was printed, and its epoch says whose it is.
    """
    lines = rows(task_id=task_id, epoch=epoch, first=first, pieces=pieces)
    await tx.execute_many("logs.add", lines)


async def of_task(
    tx: Transaction, task_id: str, *, after: tuple[int, int] = (0, 0)
) -> list[LogLine]:
    """What the attempts of a task printed behind the (epoch, number) of a line, in order."""
    epoch, number = after
    return [
        LogLine(
            task_id=row["task_id"],
            epoch=row["epoch"],
            number=row["number"],
            stream=row["stream"],
            text=row["text"],
            created_us=row["created_us"],
        )
        for row in await tx.fetch_all("logs.of_task", task_id=task_id, epoch=epoch, number=number)
    ]
