"""Tasks: create, wait for, watch, cancel."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from penstock.actions.sessions import Judges, begin
from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, Invalid
from penstock.domain.sessions import Session
from penstock.domain.tasks import SETTLED, TERMINAL, Delta, Event, LogLine, Task, TaskState
from penstock.kit.ids import new_id
from penstock.rules.access import check
from penstock.rules.tasks import answers as answers_to
from penstock.store import Store, Transaction, events, logs, sessions, tasks

_MOST = 500
_LONGEST_WAIT_SECONDS = 600.0
_LONGEST_DELAY_SECONDS = 366 * 86_400.0
_EVENTS = 500  # read at a time
_DELTAS = 1000  # that may wait for a slow reader; what comes on top is dropped, the oldest first
_POLL_SECONDS = 5.0  # a lost notification costs no more than this


class DeltaSource(Protocol):
    """Where the ephemeral part of a stream comes from."""

    def subscribe(self, task_id: str, listener: Callable[[Delta], None]) -> Callable[[], None]:
        """Call ``listener`` with every delta of a task; returns how to stop it."""
        ...


class TaskActions:
    """What may be done with tasks."""

    def __init__(self, store: Store, deltas: DeltaSource, judges: Judges) -> None:
        self._store = store
        self._deltas = deltas
        self._judges = judges
        self._changed = _Bell(store, "task")
        self._done = _Bell(store, "done")

    async def create(
        self,
        actor: Actor,
        *,
        agent: str,
        input: Any,  # noqa: A002 - what it is called in the API
        environment: str = "production",
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        close_session: bool = False,
        idempotency_key: str | None = None,
        delay_seconds: float = 0.0,
    ) -> Task:
        """Put a task into the queue; once this returns it is not lost any more.

        Without a session it begins one. The same idempotency key gives the same task.

        Raises:
            NotFound: no such session, or the agent is not deployed here.
            Conflict: the session is closed or closing, or belongs to another agent.
            Invalid: the delay is negative or longer than a year.
        """
        check(actor, "task.create")
        if not 0 <= delay_seconds <= _LONGEST_DELAY_SECONDS:
            raise Invalid("delay_seconds lies between 0 and a year")

        async def work(tx: Transaction) -> Task:
            if idempotency_key is not None:
                known = await tasks.by_key(tx, agent=agent, idempotency_key=idempotency_key)
                if known is not None:
                    return known
            if session_id is None:
                session = await begin(
                    tx,
                    self._judges,
                    agent=agent,
                    environment=environment,
                    user_id=user_id,
                    metadata=metadata or {},
                )
            else:
                session = await self._joined(tx, session_id, agent)
            return await tasks.add(
                tx,
                task_id=new_id("task"),
                session_id=session.id,
                agent=agent,
                environment=session.environment,
                release=session.release,
                given=input,
                delay_seconds=delay_seconds,
                close_session=close_session,
                idempotency_key=idempotency_key,
            )

        try:
            return await self._store.transact(work)
        except Conflict:
            # Two requests with one key at the same moment: the other one's task is the answer.
            if idempotency_key is None:
                raise
            return await self._store.transact(work)

    async def get(self, actor: Actor, task_id: str) -> Task:
        """One task.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.read")
        return await self._get(task_id)

    async def listing(
        self,
        actor: Actor,
        *,
        agent: str | None = None,
        session_id: str | None = None,
        state: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Task]:
        """Tasks from the newest to the oldest.

        Raises:
            Invalid: there is no such state.
        """
        check(actor, "task.read")
        if state is not None and state not in set(TaskState):
            raise Invalid(
                f"{state!r} is no state of a task", hint=f"One of: {', '.join(TaskState)}."
            )

        async def work(tx: Transaction) -> list[Task]:
            return await tasks.listing(
                tx,
                agent=agent,
                session_id=session_id,
                state=state,
                limit=min(limit, _MOST),
                before=before,
            )

        return await self._store.read(work)

    async def wait(self, actor: Actor, task_id: str, *, seconds: float) -> Task:
        """The task once it has ended or waits for a person, or as it is after ``seconds``.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.read")
        until = asyncio.get_running_loop().time() + min(seconds, _LONGEST_WAIT_SECONDS)
        with self._done.listen(task_id) as heard:
            while True:
                heard.clear()
                task = await self._get(task_id)
                left = until - asyncio.get_running_loop().time()
                if task.state in SETTLED or left <= 0:
                    return task
                await _rung(heard, min(left, _POLL_SECONDS))

    async def cancel(self, actor: Actor, task_id: str) -> Task:
        """End a task: at once if it waits, as soon as its worker hears of it if it runs.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.create")

        async def work(tx: Transaction) -> Task:
            return await tasks.cancel(tx, task_id)

        return await self._store.transact(work)

    async def resume(
        self,
        actor: Actor,
        task_id: str,
        *,
        answers: Mapping[str, Any] | None = None,
        answer: Any = None,
    ) -> Task:
        """Answer what a task waits for; it goes on from there, on any server.

        Args:
            actor: who answers.
            task_id: the waiting task.
            answers: by the id of what each one answers; all of them or some.
            answer: the only one, instead, when the task waits for one thing.

        Raises:
            NotFound: there is no such task.
            Conflict: it does not wait (any more), or not for this.
            Invalid: there is no answer, or one for several things.
        """
        check(actor, "task.resume")

        async def work(tx: Transaction) -> Task:
            task = await tasks.get(tx, task_id)
            given = answers_to(task, answers, answer)
            return await tasks.resume(tx, task=task, answers=given, said={"by": actor.name})

        return await self._store.transact(work)

    async def stream(
        self, actor: Actor, task_id: str, *, after: int = 0
    ) -> AsyncIterator[Event | Delta]:
        """Every durable event behind ``after``, in order, and deltas as they are said.

        It ends with the task. A reader that falls behind loses deltas, never events.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.read")
        await self._get(task_id)
        waiting: asyncio.Queue[Delta] = asyncio.Queue(_DELTAS)

        with self._changed.listen(task_id) as heard:

            def listen(delta: Delta) -> None:
                if waiting.full():
                    waiting.get_nowait()
                waiting.put_nowait(delta)
                heard.set()

            stop = self._deltas.subscribe(task_id, listen)
            try:
                while True:
                    heard.clear()
                    while not waiting.empty():
                        yield waiting.get_nowait()
                    found = await self._events(task_id, after, _EVENTS)
                    for event in found:
                        after = event.seq
                        yield event
                    if found and found[-1].kind == "finished":
                        return
                    if not found:
                        if (await self._get(task_id)).state in TERMINAL and not await self._events(
                            task_id, after, 1
                        ):
                            return
                        await _rung(heard, _POLL_SECONDS)
            finally:
                stop()

    async def events(
        self, actor: Actor, task_id: str, *, after: int = 0, limit: int = 1000
    ) -> list[Event]:
        """The durable events behind ``after``.

        Raises:
            NotFound: there is no such task.
        """
        check(actor, "task.read")
        await self._get(task_id)
        return await self._events(task_id, after, limit)

    async def logs(self, actor: Actor, task_id: str) -> list[LogLine]:
        """What the task's attempts printed.

        Raises:
            NotFound: there is no such task.
        """
        check(actor, "task.read")

        async def work(tx: Transaction) -> list[LogLine]:
            await tasks.get(tx, task_id)
            return await logs.of_task(tx, task_id)

        return await self._store.read(work)

    async def _joined(self, tx: Transaction, session_id: str, agent: str) -> Session:
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

    async def _get(self, task_id: str) -> Task:
        async def work(tx: Transaction) -> Task:
            return await tasks.get(tx, task_id)

        return await self._store.read(work)

    async def _events(self, task_id: str, after: int, limit: int) -> list[Event]:
        async def work(tx: Transaction) -> list[Event]:
            return await events.after(tx, task_id=task_id, after=after, limit=limit)

        return await self._store.read(work)


class _Bell:
    """Wakes those who wait for something of one task, out of a channel that tells of all."""

    def __init__(self, store: Store, channel: str) -> None:
        self._listening: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        store.subscribe(channel, self._ring)

    def listen(self, task_id: str) -> _Listening:
        """For a ``with``: an event that is set when something happens to the task."""
        return _Listening(self._listening, task_id)

    def _ring(self, task_id: str) -> None:
        for event in self._listening.get(task_id, ()):
            event.set()


class _Listening:
    """One listener's place."""

    def __init__(self, listening: defaultdict[str, set[asyncio.Event]], task_id: str) -> None:
        self._listening = listening
        self._task_id = task_id
        self._event = asyncio.Event()

    def __enter__(self) -> asyncio.Event:
        self._listening[self._task_id].add(self._event)
        return self._event

    def __exit__(self, *_: object) -> None:
        others = self._listening[self._task_id]
        others.discard(self._event)
        if not others:
            del self._listening[self._task_id]


async def _rung(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
