"""A new task on its way into the queue: its session, what it meets there, whether there is room."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import random
from typing import Any

from penstock.actions.sessions import Judges, begin
from penstock.domain.errors import Conflict, Exhausted
from penstock.domain.queues import ALL, QueueLimits, QueueLoad, QueueName
from penstock.domain.sessions import Session
from penstock.domain.tasks import MultitaskStrategy, Streaming, Task
from penstock.kit.ids import new_id
from penstock.rules.queues import is_full, retry_after_seconds
from penstock.rules.streams import streaming
from penstock.rules.submissions import check_together, due, request_digest
from penstock.rules.tasks import makes_way
from penstock.store import Store, Transaction, endings, queues, sessions, tasks

_RECOUNT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What is asked for with a new task."""

    agent: str
    input: Any
    environment: str = "production"
    session_id: str | None = None
    user_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    close_session: bool = False
    idempotency_key: str | None = None
    delay_seconds: float = 0.0
    run_at: str | None = None
    priority: int = 0
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE
    stateless: bool = False
    stream_mode: Sequence[str] | None = None  # what it streams; see ``rules/streams.py``
    subgraphs: bool = False

    @property
    def digest(self) -> str | None:
        """What is asked under the idempotency key, if there is one."""
        if self.idempotency_key is None:
            return None
        asked = {name: getattr(self, name) for name in self.__slots__}
        asked["metadata"] = dict(self.metadata or {})
        del asked["idempotency_key"]
        return request_digest(asked)


class Submissions:
    """The way into the queue."""

    def __init__(self, store: Store, judges: Judges, limits: QueueLimits) -> None:
        self._store = store
        self._judges = judges
        self._limits = limits
        self._recounted: dict[QueueName, float] = {}

    async def take(self, asked: Submission) -> Task:
        """The task that was asked for; see :meth:`TaskActions.create`."""
        run_at_us = due(
            delay_seconds=asked.delay_seconds,
            run_at=asked.run_at,
            now_us=time.time_ns() // 1000,
        )
        check_together(
            priority=asked.priority,
            strategy=asked.multitask_strategy,
            later=asked.delay_seconds > 0 or asked.run_at is not None,
            stateless=asked.stateless,
            session_id=asked.session_id,
        )
        wished = streaming(asked.stream_mode, subgraphs=asked.subgraphs)
        digest = asked.digest

        async def work(tx: Transaction) -> Task:
            known = await _known(tx, asked, digest)
            if known is not None:
                return known
            session = await self._session(tx, asked)
            return await tasks.add(
                tx,
                task_id=new_id("task"),
                session_id=session.id,
                agent=asked.agent,
                environment=session.environment,
                release=session.release,
                given=asked.input,
                delay_seconds=asked.delay_seconds,
                run_at_us=run_at_us,
                priority=asked.priority,
                close_session=asked.close_session or asked.stateless,
                stateless=asked.stateless,
                idempotency_key=asked.idempotency_key,
                request_digest=digest,
                stream=None if wished == Streaming() else wished,
                alone=asked.session_id is None,
                admit=self._admit((asked.agent, session.environment)),
            )

        try:
            return await self._store.transact(work)
        except Conflict:
            # Two requests with one key at the same moment: the other one's task is the answer.
            if asked.idempotency_key is None:
                raise
            return await self._store.transact(work)
        except _Full as full:
            if not await self._recount(full.queue):
                raise
            return await self._store.transact(work)

    async def _session(self, tx: Transaction, asked: Submission) -> Session:
        """The session the task belongs to, with what is in its way on its way out."""
        if asked.session_id is None:
            return await begin(
                tx,
                self._judges,
                agent=asked.agent,
                environment=asked.environment,
                user_id=asked.user_id,
                metadata=asked.metadata or {},
            )
        if makes_way(asked.multitask_strategy) is not None:
            await tasks.hold_first(tx, asked.session_id)
        session = await _joined(tx, asked.session_id, asked.agent)
        await _make_way(tx, session.id, asked.multitask_strategy)
        return session

    def _admit(self, queue: QueueName) -> _Door:
        return _Door(queue, self._limits)

    async def _recount(self, queue: QueueName) -> bool:
        """Count a queue that seems full, unless that was done just now; whether it was done."""
        now = time.monotonic()
        if now - self._recounted.get(queue, -_RECOUNT_SECONDS) < _RECOUNT_SECONDS:
            return False
        self._recounted[queue] = now

        async def work(tx: Transaction) -> int:
            return await queues.correct(tx, queue)

        await self._store.transact(work)
        return True


class _Full(Exhausted):
    """A queue has no room."""

    def __init__(self, queue: QueueName, message: str, *, hint: str, seconds: int) -> None:
        super().__init__(message, hint=hint, retry_after_seconds=seconds)
        self.queue = queue


class _Door:
    """Lets a task into its queue, or says why not."""

    def __init__(self, queue: QueueName, limits: QueueLimits) -> None:
        self._queue = queue
        self._limits = limits
        self._chance = random()  # noqa: S311 - spreads those who come back

    def __call__(self, own: QueueLoad, every: QueueLoad) -> None:
        agent, environment = self._queue
        self._check(self._queue, own, self._limits.each, f"of {agent} in {environment}")
        self._check(ALL, every, self._limits.total, "of this installation")

    def _check(self, queue: QueueName, load: QueueLoad, limit: int, whose: str) -> None:
        if not is_full(load, limit=limit):
            return
        seconds = retry_after_seconds(load, limit=limit, chance=self._chance)
        raise _Full(
            queue,
            f"the queue {whose} is full: {limit} tasks wait to begin",
            hint=f"Nothing was kept. Try again in {seconds} s; more workers drain it faster,"
            " PENSTOCK_QUEUE_LIMIT makes it longer.",
            seconds=seconds,
        )


async def _known(tx: Transaction, asked: Submission, digest: str | None) -> Task | None:
    """The task that was made of this request before."""
    if asked.idempotency_key is None:
        return None
    found = await tasks.by_key(tx, agent=asked.agent, idempotency_key=asked.idempotency_key)
    if found is None:
        return None
    task, before = found
    if before is not None and before != digest:
        raise Conflict(
            f"the idempotency key {asked.idempotency_key!r} stands for another request: that of"
            f" task {task.id}",
            hint="A key belongs to one request with all its fields. Use a new key for a new one.",
        )
    return task


async def _joined(tx: Transaction, session_id: str, agent: str) -> Session:
    """A session that takes one more task."""
    session = await sessions.lock(tx, session_id)
    if session.agent != agent:
        raise Conflict(
            f"session {session_id} belongs to agent {session.agent}, not {agent}",
            hint="A session stays with its agent; leave session_id out to begin a new one.",
        )
    _, closing = await tasks.live_in_session(tx, session_id)
    if session.state != "open" or closing:
        raise Conflict(
            f"session {session_id} is closed", hint="Leave session_id out to begin a new one."
        )
    return session


async def _make_way(tx: Transaction, session_id: str, strategy: MultitaskStrategy) -> None:
    """Do what the strategy says with the tasks the new one would have to wait for."""
    if strategy is MultitaskStrategy.ENQUEUE:
        return
    why = makes_way(strategy)
    ahead = await tasks.in_the_way(tx, session_id, limit=1 if why is None else None)
    if why is None:
        if ahead:
            first = ahead[0]
            raise Conflict(
                f"session {session_id} is busy: task {first.id} is {first.state.value}",
                hint=f"Wait for it, end it (penstock task cancel {first.id}), or ask for"
                " multitask_strategy enqueue, interrupt or rollback.",
            )
        return
    for task in reversed(ahead):  # the first one last: none of the others must take its place
        await endings.stop(tx, task.id, why)
