"""Looks at sessions' states and edits them, in a process of each session's own release.

A state is packed by the framework; nobody on the server reads it. So a wish goes, as a short order,
to a process of the release, one for many wishes, and what that process would write is kept back
until it has ended: then it is committed in one transaction, if nothing has happened meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from penstock.domain.errors import Conflict, Invalid, NotFound, Unavailable
from penstock.domain.releases import Limits
from penstock.domain.sessions import Session
from penstock.domain.states import State, StateWish
from penstock.domain.tasks import Task, TaskState
from penstock.rules.tasks import leave_after_edit
from penstock.runtime import checkpoints as desk
from penstock.runtime.hosts import SharedHost, SharedProcess, end_idle
from penstock.runtime.journals import Said
from penstock.runtime.processes import Frame
from penstock.runtime.zygotes import Zygotes
from penstock.store import Store, Transaction, Work, checkpoints, sessions, tasks, waiting
from penstock.store.checkpoints import Checkpoint, Write
from penstock.store.transaction import Value

T = TypeVar("T")

_SECONDS = 30.0
_EDIT = "edit"  # the task of a checkpoint that no task has written
_REFUSED = ("InvalidUpdateError", "KeyError", "LookupError", "TypeError", "ValueError")


class States:
    """Answers wishes about states, in one long-lived process per release."""

    def __init__(self, store: Store, zygotes: Zygotes) -> None:
        self._store = store
        self._zygotes = zygotes
        self._processes: dict[tuple[str, str], SharedProcess] = {}
        self._starting = asyncio.Lock()

    async def stop(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            await process.close()
        self._processes.clear()

    async def ask(self, session: Session, wish: StateWish) -> State | list[State]:
        """What a session's framework says to a wish; an edit is committed when this returns.

        Raises:
            Conflict: an edit, and a task runs or has changed the state meanwhile; or the agent
                keeps no state.
            NotFound: there is no such checkpoint.
            Invalid: the framework refuses the wish; says why.
            Unavailable: its process does not answer.
        """
        edit = _Desk(self._store, session)
        await edit.begin(wish)
        process = await self._process(session.release, session.environment)
        host = process.attempt()
        try:
            async with asyncio.timeout(_SECONDS):
                await host.send(_order(session, wish))
                finish = await _serve(host, edit)
        except TimeoutError:
            raise Unavailable(f"the agent did not answer in {_SECONDS:.0f} s") from None
        finally:
            host.kill()  # nothing, after its last word; else it would wait for an answer for ever
            host.close()
        if not finish["ok"]:
            raise _refused(finish["error"])
        found: State | list[State] = finish["output"]
        await edit.commit_all()
        return found

    async def _process(self, release: str, environment: str) -> SharedProcess:
        async with self._starting:
            await end_idle(self._processes)
            process = self._processes.get((release, environment))
            if process is None or not process.alive:
                child = await self._zygotes.fork(release, environment, Limits(), shared=True)
                process = self._processes[release, environment] = SharedProcess(child)
            return process


class _Desk:
    """Where what an edit writes lies until it is committed."""

    def __init__(self, store: Store, session: Session) -> None:
        self._store = store
        self._session = session
        self._base: str | None = None  # the latest checkpoint, when the edit began
        self._rows: list[tuple[str, Sequence[Mapping[str, Value]]]] = []  # in their order
        self._seals: dict[tuple[str, str], bytes] = {}
        self.session_id = session.id
        self.sealer = store.sealer
        self.task_id = _EDIT
        self.epoch = 0
        self.blank = False

    async def begin(self, wish: StateWish) -> None:
        """See whether the wish can be asked, and from where an edit starts."""

        async def work(tx: Transaction) -> None:
            known = wish.checkpoint_id
            if known is not None and not await checkpoints.exists(tx, self.session_id, known):
                raise NotFound(f"session {self.session_id} has no checkpoint {known}")
            self._base = await checkpoints.latest(tx, self.session_id)

        await self._store.read(work)
        if wish.kind == "edit":
            holder = await self._store.transact(self._holder)
            self.task_id = _EDIT if holder is None else holder.id

    async def commit_checkpoint(
        self,
        checkpoint: Checkpoint,
        said: Said,  # noqa: ARG002 - an edit says nothing
        *,
        leans: bool = False,
        stored: Mapping[bytes, bytes] | None = None,
        writes: Sequence[Write] = (),
    ) -> None:
        """Keep a checkpoint for the end."""
        commit, seal = checkpoints.of(
            checkpoint,
            sealer=self.sealer,
            session_id=self.session_id,
            epoch=self.epoch,
            release=self._session.release,
            said=(),
            base=await self._below(checkpoint) if leans or checkpoint.depth else None,
            stored=stored,
            writes=writes,
        )
        self._rows += commit.rows
        self.remember(checkpoint, seal)

    async def commit_writes(
        self, writes: Sequence[Write], stored: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Keep what nodes wrote for the end."""
        commit = checkpoints.of_writes(
            writes,
            sealer=self.sealer,
            session_id=self.session_id,
            task_id=self.task_id,
            epoch=self.epoch,
            stored=stored,
        )
        self._rows += commit.rows

    async def commit(self, work: Work[None]) -> None:  # noqa: ARG002 - refused whatever it is
        """Refuse: an edit consists of checkpoints.

        Raises:
            ValueError: always.
        """
        raise ValueError("a state is edited by checkpoints")

    def remember(self, checkpoint: Checkpoint, seal: bytes) -> None:
        """Know a checkpoint that the next ones may stand on."""
        self._seals[checkpoint.namespace, checkpoint.checkpoint_id] = seal

    async def _below(self, checkpoint: Checkpoint) -> bytes:
        """The seal of the parent that a checkpoint stands on or leans on."""
        namespace, parent = checkpoint.namespace, checkpoint.parent_id or ""
        if (seal := self._seals.get((namespace, parent))) is not None:
            return seal

        async def work(tx: Transaction) -> tuple[int, bytes] | None:
            return await checkpoints.base(
                tx, session_id=self.session_id, namespace=namespace, checkpoint_id=parent
            )

        found = await self._store.read(work)
        if found is None:
            raise Conflict(f"checkpoint {parent} is not there any more")
        return found[1]

    async def read(self, work: Work[T]) -> T:
        """Look something up, on one snapshot."""
        return await self._store.read(work)

    async def commit_all(self) -> None:
        """Commit what was written, if nothing has happened since the beginning.

        Raises:
            Conflict: a task runs, or has changed the state.
        """
        if self._rows:
            await self._store.transact(self._commit)

    async def _commit(self, tx: Transaction) -> None:
        holder = await self._holder(tx)
        task_id = _EDIT if holder is None else holder.id
        if task_id != self.task_id or await checkpoints.latest(tx, self.session_id) != self._base:
            raise Conflict(
                f"the state of session {self.session_id} has changed meanwhile",
                hint="Look at it again, and repeat the edit if it is still wanted.",
            )
        for query, parameters in self._rows:
            await tx.execute_many(query, parameters)
        edited = await checkpoints.latest(tx, self.session_id)
        if holder is not None and holder.state is TaskState.WAITING and edited != self._base:
            # What it asked, it asked of a state that is gone: a person says when it goes on.
            await waiting.ask_instead(tx, task=holder, waits=[leave_after_edit(edited)])

    async def _holder(self, tx: Transaction) -> Task | None:
        """The task that goes on from an edit: the one that waits, if one does.

        Raises:
            Conflict: a task runs.
        """
        await sessions.lock(tx, self.session_id)
        found = None
        for task in await tasks.hold(tx, self.session_id):
            if task.state is TaskState.RUNNING:
                raise Conflict(
                    f"task {task.id} runs in session {self.session_id}",
                    hint="Wait for it or cancel it; a state is edited between tasks.",
                )
            if task.state is TaskState.WAITING or task.epoch > 0:
                found = task
        return found


async def _serve(host: SharedHost, edit: _Desk) -> dict[str, Any]:
    """Answer what the framework asks until it has done what was wished."""
    while frames := await host.receive():
        for header, blobs in frames:
            if header["t"] == "finish":
                return header
            if header["t"] == "call":
                await _answer(host, edit, (header, blobs))
    raise Unavailable("the process that looks at states has ended")


async def _answer(host: SharedHost, edit: _Desk, frame: Frame) -> None:
    header, blobs = frame
    reply = {"t": "reply", "id": header["id"]}
    try:
        answer = await desk.answer(edit, header, blobs, said=[])
    except (Conflict, KeyError, TypeError, ValueError) as error:
        wrong = {"type": "invalid", "message": str(error)}
        await host.send({**reply, "ok": False, "error": wrong})
    else:
        await host.send({**reply, **answer.header}, tuple(answer.blobs))


def _order(session: Session, wish: StateWish) -> dict[str, Any]:
    return {
        "t": "order",
        "task": _EDIT,
        "session": session.id,
        "agent": session.agent,
        "release": session.release,
        "input": None,
        "state": msgspec.to_builtins(wish),
    }


def _refused(error: Mapping[str, Any]) -> Conflict | Invalid | Unavailable:
    kind, message = error.get("type"), error.get("message") or ""
    if kind == "Stateless":
        return Conflict(message, hint="Only LangGraph graphs keep a state between tasks.")
    if kind in _REFUSED:
        return Invalid(f"the graph refuses this: {message}")
    return Unavailable(f"the state cannot be read: {kind}: {message}")
