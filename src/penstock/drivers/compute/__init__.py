"""Compute: where replicas run. A driver starts and drains them; how many is not its say."""

from __future__ import annotations

from typing import Protocol


class Compute(Protocol):
    """Replicas that are started here."""

    async def count(self) -> int:
        """Replicas that are up or on their way up; those that drain are not counted."""
        ...

    async def scale(self, replicas: int) -> None:
        """Start or drain replicas until there are so many; returns before they are ready or gone.

        Raises:
            Unavailable: one cannot be started; says why.
        """
        ...

    async def close(self) -> None:
        """Drain all replicas and wait until they are gone."""
        ...
