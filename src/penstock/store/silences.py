"""Silence: a PostgreSQL that neither answers nor hangs up, told apart from one that works for long.

A network that swallows packets leaves connections open, and TCP takes many minutes to give them
up. A bound on each statement would do, if none were long on purpose: a large deletion is. So a
second connection asks what became of the first one's statement. Where nobody answers, or nothing
is being worked on, the answer will not come, and the connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import asyncpg

from penstock.store.queries import load

log = logging.getLogger(__name__)

SILENCE_SECONDS = 5.0  # without an answer before somebody asks, and for the one who asks
_UNDERWAY_SECONDS = 1.0  # an answer may be on its way while we ask


class Asked(Protocol):
    """What is asked over a connection."""

    answered: int  # statements so far


class Silences:
    """Drops connections whose answer will not come."""

    def __init__(
        self, url: str, options: Mapping[str, Any], *, pooled: bool, seconds: float
    ) -> None:
        """Look after ``seconds`` without an answer; behind a pooler, whether that answers."""
        self._url = url
        self._options = options
        self._pooled = pooled
        self._seconds = seconds
        self._busy = load("postgres")["connections.busy"].sql

    @contextlib.contextmanager
    def watched(self, connection: Any, asked: Asked) -> Iterator[None]:
        """Watch what is asked over a connection; ``asked`` counts its answers.

        When the connection is dropped, whoever waits for it gets the driver's error of a
        connection that has ended.
        """
        looking: asyncio.Task[None] | None = None

        def look() -> None:
            nonlocal looking
            looking = asyncio.ensure_future(self._look(connection, asked))

        timer = asyncio.get_running_loop().call_later(self._seconds, look)
        try:
            yield
        finally:
            timer.cancel()
            if looking is not None:
                looking.cancel()

    async def _look(self, connection: Any, asked: Asked) -> None:
        before = -1  # what was answered when somebody looked last
        while True:
            now = asked.answered
            if now == before or before < 0:
                if not await self._comes(connection.get_server_pid()):
                    await asyncio.sleep(min(_UNDERWAY_SECONDS, self._seconds))
                    if asked.answered == now:
                        log.warning("PostgreSQL is silent: a connection to it is dropped")
                        connection.terminate()
                        return
                now = asked.answered
            before = now
            await asyncio.sleep(self._seconds)

    async def _comes(self, pid: int) -> bool:
        """Whether an answer may still come over the connection of a server's process."""
        asking = None
        try:
            async with asyncio.timeout(self._seconds):
                asking = await asyncpg.connect(self._url, **self._options)
                return self._pooled or bool(await asking.fetchval(self._busy, pid))
        except asyncpg.InsufficientResourcesError:
            return True  # it has no room for one more that asks, and so it is there
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        finally:
            if asking is not None:
                asking.terminate()
