"""Notices on PostgreSQL: word of a commit, to this process at once and to the others in batches.

A notice is a wake-up and never the truth, so it is not part of the transaction: PostgreSQL lets
commits that notify pass one by one, each with its flush to disk. What is lost with a process that
dies in between is found by polling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from penstock.kit.ids import new_id

log = logging.getLogger(__name__)

_CHANNEL = "penstock"
_NOBODY = "-"  # a sender that is told, too
_PAUSE_SECONDS = 0.002  # between two batches: under load they are shared, alone nothing waits
_ANSWER_SECONDS = 10.0  # then the connection is made again
_MOST = 10_000  # that are kept for a connection which is not there

Notice = tuple[str, str]  # channel, payload


async def send(connection: Any, notices: Iterable[Notice], *, sender: str = _NOBODY) -> None:
    """Tell every process of this database, except the sender."""
    batch = [f"{sender} {channel} {payload}" for channel, payload in notices]
    if batch:
        await connection.execute(
            "select pg_notify($1, n) from unnest($2::text[]) n",
            _CHANNEL,
            batch,
            timeout=_ANSWER_SECONDS,
        )


class Notices:
    """What one process tells the others, and hears from them."""

    def __init__(self, deliver: Callable[[str, str], None]) -> None:
        """Hand what is heard to ``deliver``, on the event loop."""
        self._deliver = deliver
        self._me = new_id("srv")
        self._pending: dict[Notice, None] = {}  # in order, each once
        self._some = asyncio.Event()

    def tell(self, notices: Iterable[Notice]) -> None:
        """Deliver here, and leave for the others."""
        for notice in notices:
            self._pending[notice] = None
            self._deliver(*notice)
        if self._pending:
            self._some.set()
        if len(self._pending) > _MOST:
            self._pending.clear()

    async def exchange(self, connection: Any) -> None:
        """Listen and speak on a connection for as long as it lives."""
        self._pending.clear()
        await connection.add_listener(_CHANNEL, self._heard)
        while True:
            self._some.clear()
            batch = tuple(self._pending)
            self._pending.clear()
            if batch:
                await send(connection, batch, sender=self._me)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                await self._some.wait()

    def _heard(self, _connection: Any, _pid: int, _channel: str, message: object) -> None:
        sender, _, notice = str(message).partition(" ")
        if sender != self._me:
            channel, _, payload = notice.partition(" ")
            try:
                self._deliver(channel, payload)
            except Exception as error:  # noqa: BLE001 - whoever may connect may say anything here
                log.warning("a notice on channel %r makes no sense: %r", channel, error)
