"""Leases of loops that one server at a time runs."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from penstock.domain.errors import Unavailable
from penstock.kit.ids import new_id
from penstock.store import Store, leases

log = logging.getLogger(__name__)


class Leadership:
    """A server's claim to a lease, for as long as it asks for it again."""

    def __init__(
        self, store: Store, name: str, *, lease_seconds: float, renew_seconds: float = 0.0
    ) -> None:
        """Claim nothing yet.

        Args:
            store: where the lease is.
            name: of the lease.
            lease_seconds: how long it lasts when it is not renewed.
            renew_seconds: for so long after a renewal it is taken for one's own unasked.
        """
        self._store = store
        self._name = name
        self._holder = new_id("ctl")
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._renew_at = 0.0  # by the event loop's clock; before it the lease is one's own

    async def held(self) -> bool:
        """Take the lease or renew it; whether it is this server's.

        Raises:
            Unavailable: the store does not answer.
        """
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return True
        epoch = await self._store.transact(
            partial(
                leases.acquire, name=self._name, holder=self._holder, seconds=self._lease_seconds
            )
        )
        self._renew_at = 0.0 if epoch is None else now + self._renew_seconds
        return epoch is not None

    async def give_up(self) -> None:
        """Let another server lead at once; if the store does not answer, when the lease is over."""
        self._renew_at = 0.0
        try:
            await self._store.transact(
                partial(leases.release, name=self._name, holder=self._holder)
            )
        except Unavailable as error:
            log.warning("the lease %r runs out by itself: %s", self._name, error)
