"""What the gateway remembers of the tasks whose calls it serves.

Little, and bounded: the money in flight, and which recorded answers a restarted attempt has been
given again. Everything in it can be read from the store again, so idle tasks are forgotten, the
one unheard of for the longest time first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import islice

from penstock.domain.errors import Stale
from penstock.domain.exchanges import Caller
from penstock.gateway.budgets import Budget, Spent
from penstock.gateway.patience import Patience
from penstock.store import Transaction, exchanges
from penstock.store.exchanges import Repeatable

_Key = tuple[int | str, str]  # the part of the agent's work that asks; request digest


class TaskState:
    """One task in one epoch."""

    __slots__ = ("_loading", "_recorded", "_store", "budget", "calls", "epoch", "task_id")

    def __init__(self, store: Patience, task_id: str, epoch: int, budget: Budget) -> None:
        self._store = store
        self.task_id = task_id
        self.epoch = epoch
        self.budget = budget
        self.calls = 0  # in flight
        self._recorded: dict[_Key, deque[Repeatable]] = {}
        self._loading: dict[_Key, asyncio.Task[deque[Repeatable]]] = {}

    async def take(self, caller: Caller, request_digest: str) -> Repeatable | None:
        """The record that answers this call, if an earlier epoch made it; each is given once."""
        if self.epoch <= 1:
            return None
        key = (_part(caller), request_digest)
        recorded = self._recorded.get(key)
        if recorded is None:
            loading = self._loading.get(key)
            if loading is None:
                loading = asyncio.create_task(self._load(key, caller))
                self._loading[key] = loading
            # Equal calls at the same time wait for one reading; a caller that leaves must not
            # take it away from the others.
            recorded = await asyncio.shield(loading)
        return recorded.popleft() if recorded else None

    def put_back(self, caller: Caller, request_digest: str, record: Repeatable) -> None:
        """Give back a record that could not be delivered."""
        self._recorded[_part(caller), request_digest].appendleft(record)

    async def _load(self, key: _Key, caller: Caller) -> deque[Repeatable]:
        _, request_digest = key

        async def work(tx: Transaction) -> list[Repeatable]:
            return await exchanges.repeatable(
                tx,
                task_id=self.task_id,
                step=caller.step,
                scope=caller.scope,
                request_digest=request_digest,
                epoch=self.epoch,
            )

        try:
            recorded = deque(await self._store.read(work))
            self._recorded[key] = recorded
        finally:
            self._loading.pop(key, None)
        return recorded


def _part(caller: Caller) -> int | str:
    """Where in the agent's work a call belongs: its scope, or else the steps behind it."""
    return caller.scope or caller.step


class Tasks:
    """The states of the tasks that were heard of last."""

    def __init__(self, store: Patience, *, keep: int = 4096) -> None:
        """Remember about ``keep`` tasks; those with calls in flight are never forgotten."""
        self._store = store
        self._keep = keep
        self._states: OrderedDict[str, TaskState] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Spent]] = {}

    def __len__(self) -> int:
        return len(self._states)

    async def of(self, caller: Caller) -> TaskState:
        """The state of the caller's task in the caller's epoch.

        Raises:
            Stale: the task has begun a newer attempt.
        """
        state = self._states.get(caller.task_id)
        if state is not None and state.epoch == caller.epoch:
            self._states.move_to_end(caller.task_id)
            return state
        if state is None:
            spent = await self._spent(caller.task_id)
            state = self._states.get(caller.task_id)  # an equal call may have come first
        else:
            spent = Spent()
        if state is None:
            state = self._remember(caller, Budget(spent))
        elif caller.epoch > state.epoch:
            # Calls of the last epoch may still be paid for: the money goes on, the rest is new.
            state = self._remember(caller, state.budget)
        elif caller.epoch < state.epoch:
            raise Stale("a newer attempt of this task has begun; this one must stop")
        return state

    def _remember(self, caller: Caller, budget: Budget) -> TaskState:
        state = TaskState(self._store, caller.task_id, caller.epoch, budget)
        self._states[caller.task_id] = state
        self._states.move_to_end(caller.task_id)
        self._forget()
        return state

    def _forget(self) -> None:
        surplus = len(self._states) - self._keep
        if surplus <= 0:
            return
        oldest_idle = (
            task_id
            for task_id, state in self._states.items()
            if not state.calls and state.budget.reserved == Spent()
        )
        newest = next(reversed(self._states))
        for task_id in list(islice(oldest_idle, surplus)):
            if task_id != newest:
                del self._states[task_id]

    async def _spent(self, task_id: str) -> Spent:
        async def work(tx: Transaction) -> Spent:
            standing = await exchanges.standing(tx, task_id=task_id)
            if standing is None:
                return Spent()
            return Spent(nanos=standing.cost_nanos, tokens=standing.tokens)

        async def load() -> Spent:
            try:
                return await self._store.read(work)
            finally:
                self._loading.pop(task_id, None)

        loading = self._loading.get(task_id)
        if loading is None:
            loading = self._loading[task_id] = asyncio.create_task(load())
        return await asyncio.shield(loading)
