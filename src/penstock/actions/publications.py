"""Publishing beside others who publish."""

from __future__ import annotations

from typing import TypeVar

from penstock.domain.errors import Conflict
from penstock.store import Store, Work

T = TypeVar("T")

_TRIES = 5


async def published(store: Store, work: Work[T]) -> T:
    """What a transaction returns that publishes, tried again when somebody took its number.

    Raises:
        Conflict: others keep publishing at the same moment, or what it publishes is taken, and
            stays taken.
    """
    for _ in range(_TRIES - 1):
        try:
            return await store.transact(work)
        except Conflict as error:
            if error.hint is not None:
                raise
    return await store.transact(work)
