"""Begins workflows, runs them, and takes over those that have lost their process."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import uvloop

from penstock.domain.errors import Conflict, Invalid, PenstockError, Unavailable
from penstock.domain.tasks import TERMINAL, Claim, Ending, Task
from penstock.inside import context, tracebacks
from penstock.inside.attempts import Attempt, Stopped
from penstock.inside.attempts import Waits as Asked
from penstock.inside.frameworks.plain import PlainRunner
from penstock.inside.values import jsonable
from penstock.kit import presence
from penstock.kit.clock import steady_seconds
from penstock.kit.crossings import Crossing
from penstock.kit.ids import new_id
from penstock.kit.loops import Loop
from penstock.kit.threads import LoopThread
from penstock.library.placeholder import release
from penstock.library.runs import Run, WorkflowFailed, no_person, outcome
from penstock.rules.tasks import is_same_json
from penstock.runtime.heartbeats import BEAT_SECONDS, LEASE_SECONDS, Heartbeat
from penstock.runtime.reapers import Reaper, given_back
from penstock.store import Store, Transaction, tasks, workers
from penstock.store import workflows as rows

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_POLL_SECONDS = 1.0
_STEP_SECONDS = 1.0  # for those that were told to stop
_THREADS = 64
_SHOWN = 200  # characters of an input, in an error

_Key = tuple[str, int]  # task, epoch


class Handle:
    """A workflow that was started."""

    def __init__(self, task_id: str, outcome: Coroutine[Any, Any, Any]) -> None:
        self.id = task_id
        self._outcome: asyncio.Task[Any] = asyncio.create_task(outcome, name=f"workflow-{task_id}")

    async def result(self) -> Any:
        """What the workflow returned, waited for.

        Raises:
            WorkflowFailed: it failed in another process, or was cancelled.
            Exception: what it raised in this one.
        """
        return await asyncio.shield(self._outcome)


class Workflows:
    """The workflows of one program on one database; use it with ``async with``."""

    def __init__(
        self, database: str | Path, *, concurrency: int = 64, drain_seconds: float = 10.0
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            database: ``postgresql://…``, or the directory of an embedded SQLite database, which
                one program has open at a time.
            concurrency: how many workflows that have lost their process run here at once.
            drain_seconds: how long leaving waits for workflows that run.
        """
        text = str(database)
        shared = text.startswith(("postgresql://", "postgres://"))
        self._store = Store(home=Path() if shared else Path(text), url=text if shared else None)
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._functions: dict[str, PlainRunner] = {}
        self._names: dict[Callable[..., Any], str] = {}
        self._running: dict[_Key, Run] = {}
        self._ours: set[_Key] = set()  # from before they may be on record to the end of their run
        self._looked_at = 0.0
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-workflow")
        self._thread = LoopThread("penstock-workflows", self._live, uvloop.new_event_loop)
        self._ready: Future[None] = Future()
        self._release = ""
        self._draining = False
        self._user: asyncio.AbstractEventLoop | None = None
        self._own: Crossing | None = None
        self._heart = Heartbeat(
            self._store,
            register=self._register,
            draining=lambda: self._draining,
            stop_attempts=self._stop_all,
            on_change=lambda: None,
        )
        self._claims = Loop("claims", self._claim, seconds=_POLL_SECONDS)

    def workflow(self, function: F) -> F:
        """Make a function one whose runs are taken over when they have lost their process.

        It is known by its module and name: another program that is to take over must have it
        under the same ones.

        Raises:
            Invalid: another function has this name.
        """
        self._known(function)
        return function

    async def run(self, function: Callable[..., Any], given: Any, *, id: str | None = None) -> Any:  # noqa: A002 - what it is called in the API
        """Run a workflow to its end and return what it returned; see :meth:`start`."""
        handle = await self.start(function, given, id=id)
        return await handle.result()

    async def start(
        self,
        function: Callable[..., Any],
        given: Any,
        *,
        id: str | None = None,  # noqa: A002 - what it is called in the API
    ) -> Handle:
        """Put a workflow on record and begin it; once this returns it is not lost any more.

        Args:
            function: sync or async. It is called with ``given``, or, if that is an object whose
                members are its parameters, with those.
            given: the input; JSON.
            id: of the workflow. One that was started before is not started again: the handle is
                that of the first.

        Raises:
            Invalid: another function has this name, or the input is not JSON.
            Conflict: the workflow of this id was begun with another input.
            Unavailable: the database does not answer.
        """
        name, runner = self._known(function)
        if self._own is None:
            raise Invalid("the workflows are not open", hint="async with workflows: …")
        key = (new_id("task"), 1)
        self._ours.add(key)
        try:
            claim = await self._aside(self._begin(key[0], name, given, id))
        except BaseException:
            self._ours.discard(key)  # if it is on record all the same, it is found there
            raise
        if isinstance(claim, Task):
            self._ours.discard(key)
            return Handle(claim.id, self._awaited(claim.id))
        return Handle(claim.task.id, self._execute(claim, runner))

    async def __aenter__(self) -> Self:
        self._user = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._thread.start()
        await asyncio.wrap_future(self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let what runs come to its end for a while; the rest goes on in another life."""
        self._draining = True
        await self._idle(self._drain_seconds)
        self._stop_all("the program leaves")
        await self._idle(_STEP_SECONDS)
        await self._thread.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ in the caller's loop

    async def _idle(self, seconds: float) -> None:
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    def _known(self, function: Callable[..., Any]) -> tuple[str, PlainRunner]:
        name = self._names.get(function)
        if name is None:
            name = f"{function.__module__}.{function.__qualname__}"
            if name in self._functions:
                raise Invalid(
                    f"there is another workflow {name}", hint="Give the function its own name."
                )
            self._functions[name] = PlainRunner(function)
            self._names[function] = name
        return name, self._functions[name]

    async def _aside(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._own is not None
        return await self._own.call(work)

    async def _execute(self, claim: Claim, runner: PlainRunner) -> Any:
        """Run a workflow that is ours, and commit its end."""
        key = (claim.task.id, claim.epoch)
        run = Run(self._store, claim, self._own)
        self._running[key] = run
        try:
            attempt = await self._attempt(run) if claim.epoch > 1 else run.attempt([])
            context.enter(attempt, alone=False)
            try:
                output = await self._call(attempt, runner)
            except Stopped:
                if self._draining:
                    raise Unavailable(
                        f"the program leaves; workflow {claim.task.id} goes on in its next life"
                    ) from None
                # Nobody takes it over while our worker lives, so what is still ours is given back.
                await self._aside(run.give_back())
                return await self._awaited(claim.task.id)
            except Asked as error:
                await self._aside(run.end(Ending.ERROR, error=no_person()))
                raise WorkflowFailed(no_person()["message"]) from error
            except Exception as error:
                await self._aside(run.end(Ending.ERROR, error=tracebacks.describe(error, "")))
                raise
            await self._aside(run.end(Ending.OK, output=jsonable(output)))
            return output
        finally:
            self._running.pop(key, None)
            self._ours.discard(key)
            if self._draining and not self._running:
                self._empty.set()

    async def _call(self, attempt: Attempt, runner: PlainRunner) -> Any:
        if runner.is_async:
            return await runner.arun(attempt)
        loop = asyncio.get_running_loop()
        run = contextvars.copy_context().run
        return await loop.run_in_executor(self._pool, run, runner.run, attempt)

    async def _attempt(self, run: Run) -> Attempt:
        return run.attempt(await self._aside(run.journal.replay()))

    async def _awaited(self, task_id: str) -> Any:
        """The outcome of a workflow that somebody else runs, or has run."""
        return outcome(await self._aside(self._settled(task_id)))

    # ------------------------------------------------------------ in the thread

    async def _live(self, stopping: asyncio.Event) -> None:
        try:
            await self._open()
        except BaseException as error:
            self._ready.set_exception(error)
            raise
        self._ready.set_result(None)
        try:
            await stopping.wait()
        finally:
            await self._close()

    async def _open(self) -> None:
        self._own = Crossing(asyncio.get_running_loop())
        await self._store.open()
        try:
            self._release = await self._store.transact(release)
        except Conflict:  # another program has put it on record at this moment
            self._release = await self._store.transact(release)
        self._store.subscribe("queue", lambda _: self._claims.wake())
        self._store.subscribe("done", self._ring)
        self._store.subscribe("cancel", self._cancel)
        self._reaper = Reaper(self._store, chance=random.Random())  # noqa: S311 - not a secret
        await self._heart.start()
        self._claims.start()
        self._reaper.start()

    async def _close(self) -> None:
        await self._claims.stop()
        await self._reaper.stop()
        await self._heart.stop()

        async def leave(tx: Transaction) -> None:
            for task in await tasks.of_worker(tx, worker_id=self._heart.worker_id):
                await given_back(tx, task=task)
            await workers.remove(tx, self._heart.worker_id)

        with contextlib.suppress(PenstockError):
            await self._store.transact(leave)
        await self._store.close()

    async def _register(self, tx: Transaction, worker_id: str) -> None:
        await workers.register(
            tx,
            worker_id=worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            lease_seconds=LEASE_SECONDS,
            capacity=0,  # it takes nothing from the servers' queue
            kind=workers.WorkerKind.PROGRAM,
            process=presence.of_this_process(),
        )

    async def _begin(self, task_id: str, name: str, given: Any, key: str | None) -> Claim | Task:
        """A workflow that is ours to run; or the one that is on record already."""

        async def known(tx: Transaction) -> Task | None:
            assert key is not None
            found = await tasks.by_key(tx, agent=name, idempotency_key=key)
            return None if found is None else found[0]

        try:
            beginning = rows.beginning(
                task_id=task_id,
                session_id=new_id("ses"),
                function=name,
                release=self._release,
                given=given,
                key=key,
                worker_id=self._heart.worker_id,
            )
            return await self._store.begin(beginning)
        except TypeError as error:
            raise Invalid(f"the input of a workflow is JSON: {error}") from None
        except Conflict:
            found = None if key is None else await self._store.glance(known)
            if found is None:
                raise
            if not is_same_json(found.input, msgspec.json.decode(beginning.given)):
                raise Conflict(
                    f"workflow {key!r} of {name} is on record with another input",
                    hint=f"It began with {_shortened(found.input)}. An id stands for one input: use"
                    " another id, or leave it out.",
                ) from None
            return found

    async def _claim(self) -> None:
        """Take over what has lost its process and is known here."""
        if self._draining or not self._heart.trusted:
            return
        worker_id = self._heart.worker_id
        functions = list(self._functions)
        try:
            if steady_seconds() - self._looked_at > BEAT_SECONDS:
                await self._look()
            free = self._concurrency - len(self._running)
            if free <= 0 or not functions:
                return
            claims = await self._store.transact(
                partial(rows.claim, worker_id=worker_id, functions=functions, limit=free)
            )
        except Unavailable as error:
            log.warning("no workflow is taken over: %s", error)
            self._reaper.disturb()
            return
        assert self._user is not None
        self._ours.update((claim.task.id, claim.epoch) for claim in claims)
        for claim in claims:
            runner = self._functions[claim.task.agent]
            going_on = asyncio.run_coroutine_threadsafe(self._execute(claim, runner), self._user)
            going_on.add_done_callback(partial(_logged, claim.task.id))

    async def _look(self) -> None:
        """Give back what is owned and not known here, and stop what somebody wants stopped.

        The answer to a claim, or to what put a workflow on record, may be lost on its way from the
        database. No claim is under way while this runs.
        """
        owned = await self._store.read(partial(tasks.of_worker, worker_id=self._heart.worker_id))
        for task in owned:
            if (task.id, task.epoch) not in self._ours:
                log.warning("workflow %s was taken without our knowing; it is given back", task.id)
                await self._store.transact(partial(given_back, task=task))
            elif task.cancel_requested:
                self._cancel(task.id)
        self._looked_at = steady_seconds()

    def _cancel(self, task_id: str) -> None:
        """Let a workflow take no more step; giving it back then ends it."""
        for key, run in tuple(self._running.items()):
            if key[0] == task_id:
                run.stop()

    async def _settled(self, task_id: str) -> Task:
        """A workflow once it has ended."""
        heard = asyncio.Event()
        listening = self._bells.setdefault(task_id, set())
        listening.add(heard)
        try:
            while True:
                heard.clear()
                with contextlib.suppress(Unavailable):
                    task = await self._store.glance(partial(tasks.get, task_id=task_id))
                    if task.state in TERMINAL:
                        return task
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await heard.wait()
        finally:
            listening.discard(heard)
            if not listening:
                self._bells.pop(task_id, None)

    def _ring(self, task_id: str) -> None:
        for event in self._bells.get(task_id, ()):
            event.set()

    def _stop_all(self, why: str) -> None:
        """Let no workflow take one more step: its lease is in danger, or the program leaves."""
        for run in tuple(self._running.values()):
            log.info("workflow %s stops at its next step: %s", run.task_id, why)
            run.stop()


def _shortened(given: Any) -> str:
    text = msgspec.json.encode(given).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _logged(task_id: str, going_on: Future[Any]) -> None:
    if not going_on.cancelled() and (error := going_on.exception()) is not None:
        log.error("workflow %s, taken over, has failed", task_id, exc_info=error)
