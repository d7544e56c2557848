"""The record of every exchange: content-addressed, and on disk before its last byte is released.

An agent sends its whole history again at every step, so each message is kept once, under its own
digest; what was kept lately is remembered and not sent to the database again. What a record refers
to is never garbage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from penstock.domain.access import SYSTEM
from penstock.domain.errors import Unavailable
from penstock.domain.exchanges import Caller, Exchange, Usage
from penstock.gateway.budgets import Spent
from penstock.gateway.patience import Patience
from penstock.rules.chains import drifted
from penstock.store import Store, Transaction, audit, blobs, deletions, exchanges

log = logging.getLogger(__name__)

_REMEMBERED = 65_536  # digests, of 64 characters each
# How long a content is taken for kept; what nobody has sent for twice as long may be removed.
_KEPT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What is true once an exchange is on disk."""

    spent: Spent | None  # by its task in all; nothing if there is no such task
    late: bool  # a newer attempt has begun: the answer belongs to nobody


class Records:
    """Writes exchanges."""

    def __init__(self, store: Store, patience: Patience | None = None) -> None:
        self._store = store
        self._patience = patience or Patience(store)
        self._kept: OrderedDict[str, float] = OrderedDict()  # digest → when it was sent
        self._seen: dict[tuple[str, str], tuple[str | None, str | None]] = {}
        self._writing: set[asyncio.Task[Committed]] = set()

    async def commit(
        self, exchange: Exchange, contents: Mapping[str, bytes], *, limit_hit: str | None = None
    ) -> Committed:
        """Write an exchange with its contents and charge its task, in one transaction.

        An exchange that a newer attempt has overtaken is recorded as ``cut``: nobody received its
        answer, and the newer attempt, which may have asked again already, must not be given it.

        Raises:
            Unavailable: nothing was written.
        """
        kept = self._kept
        now = time.monotonic()
        old = now - _KEPT_SECONDS
        new = {d: c for d, c in contents.items() if kept.get(d, 0.0) <= old}
        caller = exchange.caller
        # An answer from the record was paid for, and counted, when it was first given.
        usage = Usage() if exchange.replayed_from else exchange.usage
        tokens = usage.input_tokens + usage.output_tokens

        uncertain = False

        async def work(tx: Transaction) -> Committed:
            if uncertain and await exchanges.has(tx, exchange.id):
                return await _landed(tx, caller)
            # First the task's row: its lock decides which attempt is the newer one.
            standing = await exchanges.charge(
                tx,
                task_id=caller.task_id,
                cost_nanos=exchange.cost_nanos,
                tokens=tokens,
                limit_hit=limit_hit,
            )
            if standing is None and await deletions.gone(
                tx, session_id=caller.session_id, task_id=caller.task_id
            ):
                # What it cost is counted; what was said is not kept.
                await exchanges.add(
                    tx, replace(exchange, request={}, response=None, request_digest="")
                )
                return Committed(spent=None, late=True)
            late = standing is not None and standing.epoch != caller.epoch
            await blobs.put(tx, new)
            overtaken = late and exchange.outcome == "ok"
            await exchanges.add(tx, replace(exchange, outcome="cut") if overtaken else exchange)
            return Committed(
                spent=None
                if standing is None
                else Spent(nanos=standing.cost_nanos, tokens=standing.tokens),
                late=late,
            )

        async def write() -> Committed:
            nonlocal uncertain
            try:
                return await self._store.transact(work)
            except Unavailable:
                uncertain = True  # the commit may have landed, and its answer been lost
                raise

        committed = await self._patience.until_there(write)
        await self._compare(exchange)
        for digest in contents:
            if digest in new:
                kept[digest] = now
            kept.move_to_end(digest)
        while len(kept) > _REMEMBERED:
            kept.popitem(last=False)
        return committed

    async def _compare(self, exchange: Exchange) -> None:
        """Note, once each, when a provider answers with another model than the release pins."""
        release, model = exchange.caller.release, exchange.model
        if model is None or exchange.model_returned is None:
            return
        now = (exchange.model_returned, exchange.fingerprint)
        before = self._seen.get((release, model))
        if before == now:
            return
        self._seen[release, model] = now
        said = drifted(model, *now, before[1] if before else None)
        if said is None:
            return
        log.warning("release %s of %s: %s", release[:12], exchange.caller.agent, said)

        async def note(tx: Transaction) -> None:
            await audit.add(
                tx,
                SYSTEM,
                "model.drift",
                object_kind="release",
                object_id=release,
                detail={
                    "agent": exchange.caller.agent,
                    "pinned": f"{exchange.provider}/{model}",
                    "returned": exchange.model_returned,
                    "fingerprint": exchange.fingerprint,
                    "exchange": exchange.id,
                    "reason": said,
                },
            )

        await self._store.transact(note)

    async def commit_whatever_happens(
        self,
        exchange: Exchange,
        contents: Mapping[str, bytes],
        *,
        settle: Callable[[Spent | None], None],
    ) -> Committed:
        """The same, also when the caller is cancelled meanwhile: what was paid for is written.

        ``settle`` is called at the end, with what the task has spent in all if that is known.
        """

        async def write() -> Committed:
            spent: Spent | None = None
            try:
                committed = await self.commit(exchange, contents)
                spent = committed.spent
            finally:
                settle(spent)
            return committed

        writing = asyncio.create_task(write())
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def content(self, digest: str) -> bytes:
        """A recorded content.

        Raises:
            NotFound: it was never recorded.
        """

        async def work(tx: Transaction) -> bytes:
            return await blobs.get(tx, digest)

        return await self._patience.read(work)

    async def close(self) -> None:
        """Wait for what is being written, but not for a store that is away."""
        self._patience.close()
        while self._writing:
            await asyncio.gather(*self._writing, return_exceptions=True)


async def _landed(tx: Transaction, caller: Caller) -> Committed:
    """What is true of an exchange that turned out to be on disk already."""
    standing = await exchanges.standing(tx, task_id=caller.task_id)
    if standing is None:
        return Committed(spent=None, late=True)
    return Committed(
        spent=Spent(nanos=standing.cost_nanos, tokens=standing.tokens),
        late=standing.epoch != caller.epoch,
    )
