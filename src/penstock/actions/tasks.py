"""Tasks: create, wait for, watch, cancel."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.actions.sessions import Judges
from penstock.actions.streams import DeltaSource, Following, Reader
from penstock.actions.submissions import Submission, Submissions
from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, Invalid
from penstock.domain.queues import QueueLimits
from penstock.domain.tasks import SETTLED, Event, LogLine, Task, TaskState
from penstock.rules.access import check
from penstock.rules.streams import begin_behind, shown
from penstock.rules.tasks import answers as answers_to
from penstock.rules.tasks import is_repeated
from penstock.store import Store, Transaction, endings, events, logs, tasks, waiting

_MOST = 500
_LONGEST_WAIT_SECONDS = 600.0
_POLL_SECONDS = 5.0  # a lost notification costs no more than this
_MOMENT_SECONDS = 0.1


class TaskActions:
    """What may be done with tasks."""

    def __init__(
        self,
        store: Store,
        deltas: DeltaSource,
        judges: Judges,
        limits: QueueLimits | None = None,
    ) -> None:
        self._store = store
        self._following = Following(store, deltas)
        self._submissions = Submissions(store, judges, limits or QueueLimits())
        self._done = _Bell(store, "done")
        self._closing = False

    def close(self) -> None:
        """Give those that wait their task as it is: the server is about to end."""
        self._closing = True
        self._done.ring_all()

    async def create(self, actor: Actor, asked: Submission) -> Task:
        """Put a task into the queue; once this returns it is not lost any more.

        Without a session it begins one. The same request under the same idempotency key gives the
        same task.

        Raises:
            NotFound: no such session, or the agent is not deployed here.
            Conflict: the session is closed or closing, belongs to another agent, or is busy and
                that was to be refused; or the idempotency key stands for another request.
            Invalid: what is asked for cannot be had together, or lies beyond a year.
            Exhausted: too many tasks wait already; says when to try again.
        """
        check(actor, "task.create")
        return await self._submissions.take(asked)

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

    async def wait(
        self, actor: Actor, task_id: str, *, seconds: float, begun: bool = False
    ) -> Task:
        """The task once it has ended or waits for a person, or as it is after ``seconds``.

        It is also given as it is when the server stops; another one may be asked on. ``begun``
        says that the task has just been put into the queue: looking at it can wait a moment.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.read")
        until = asyncio.get_running_loop().time() + min(seconds, _LONGEST_WAIT_SECONDS)
        with self._done.listen(task_id) as heard:
            if begun:
                await _rung(heard, min(seconds, _MOMENT_SECONDS))
            while True:
                heard.clear()
                task = await self._get(task_id)
                left = until - asyncio.get_running_loop().time()
                if task.state in SETTLED or left <= 0 or self._closing:
                    return task
                await _rung(heard, min(left, _POLL_SECONDS))

    async def cancel(self, actor: Actor, task_id: str) -> Task:
        """End a task: at once if it waits, as soon as its worker hears of it if it runs.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.create")

        async def work(tx: Transaction) -> Task:
            return await endings.cancel(tx, task_id)

        return await self._store.transact(work)

    async def abandon(self, actor: Actor, task_id: str) -> Task:
        """End a task because its client has hung up, unless it waits for a person.

        Whoever was told the question leaves to look for the answer.

        Raises:
            NotFound: there is none of this id.
        """
        check(actor, "task.create")

        async def work(tx: Transaction) -> Task:
            task = await tasks.get(tx, task_id)
            if task.state is TaskState.WAITING:
                return task
            return await endings.cancel(tx, task_id)

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

        The last answers once more, from who gave them, change nothing and are no conflict.

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
            try:
                given = answers_to(task, answers, answer)
                return await waiting.resume(tx, task=task, answers=given, said={"by": actor.name})
            except Conflict:
                # The same again: whoever asks has not heard that it was taken.
                last = await events.last(tx, task_id=task_id, kind="resumed")
                if is_repeated(last, by=actor.name, answers=answers, answer=answer):
                    return await tasks.get(tx, task_id)
                raise

        return await self._store.transact(work)

    async def stream(
        self,
        actor: Actor,
        task_id: str,
        *,
        after: int = 0,
        last_event_id: str | None = None,
        modes: Sequence[str] = (),
    ) -> Reader:
        """A reader of the task's events behind ``after``, and of its deltas as they are said.

        It must be closed. A reader that falls behind loses deltas, never events.

        Args:
            actor: who asks.
            task_id: which task.
            after: the last event the reader has; 0 = none.
            last_event_id: the same as a client says it when it comes back; it wins.
            modes: what to read of what the task says; all of it if empty.

        Raises:
            NotFound: there is none of this id.
            Invalid: the task has no such event, or does not stream such a mode.
        """
        check(actor, "task.read")
        pulse = await self._following.pulse(task_id)
        return self._following.reader(
            task_id,
            pulse,
            after=begin_behind(last_event_id, after, pulse),
            modes=shown(modes, pulse.stream),
        )

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

    async def logs(self, actor: Actor, task_id: str, *, after: str | None = None) -> list[LogLine]:
        """What the task's attempts printed, behind a line named ``EPOCH.NUMBER`` if one is.

        Raises:
            NotFound: there is no such task.
            Invalid: ``after`` names no line.
        """
        check(actor, "task.read")
        epoch, _, number = (after or "0.0").partition(".")
        if not (epoch.isdecimal() and number.isdecimal()):
            raise Invalid(
                f"{after!r} names no line", hint="EPOCH.NUMBER of the last line you have."
            )

        async def work(tx: Transaction) -> list[LogLine]:
            await tasks.get(tx, task_id)
            return await logs.of_task(tx, task_id, after=(int(epoch), int(number)))

        return await self._store.read(work)

    async def _get(self, task_id: str) -> Task:
        async def work(tx: Transaction) -> Task:
            return await tasks.get(tx, task_id)

        return await self._store.glance(work)

    async def _events(self, task_id: str, after: int, limit: int) -> list[Event]:
        async def work(tx: Transaction) -> list[Event]:
            return await events.after(tx, task_id=task_id, after=after, limit=limit)

        return await self._store.glance(work)


class _Bell:
    """Wakes those who wait for something of one task, out of a channel that tells of all."""

    def __init__(self, store: Store, channel: str) -> None:
        self._listening: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        store.subscribe(channel, self._ring)

    def listen(self, task_id: str) -> _Listening:
        """For a ``with``: an event that is set when something happens to the task."""
        return _Listening(self._listening, task_id)

    def ring_all(self) -> None:
        """Wake everybody."""
        for ringing in self._listening.values():
            for event in ringing:
                event.set()

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
