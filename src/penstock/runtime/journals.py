"""The writes of one attempt, every one of them under its fence, each landing exactly once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from penstock.domain.attachments import Attachment
from penstock.domain.errors import Conflict, NotFound, Stale
from penstock.domain.memories import MemoryScope
from penstock.domain.tasks import WORKFLOWS, Claim, Ending, TaskState, Wait
from penstock.rules.limits import Broken, Terms
from penstock.rules.tasks import After, because, under_stop
from penstock.runtime.endings import Over, become, named
from penstock.runtime.landings import Landings
from penstock.store import (
    Commit,
    Store,
    Transaction,
    Work,
    attachments,
    checkpoints,
    events,
    fences,
    logs,
    sessions,
    steps,
    tasks,
)
from penstock.store.checkpoints import Checkpoint, Write
from penstock.store.commits import Completion

T = TypeVar("T")

_BASES = 256  # checkpoints that are known to be there
_LATER = 4096  # events; more than one batch has

Said = list[tuple[str, Any]]


class StepRefused(Exception):
    """A limit of the task does not allow a step: there were enough, or its result is too large."""

    def __init__(self, message: str, broken: Broken) -> None:
        super().__init__(message)
        self.broken = broken


class Journal:
    """What an attempt has committed, and how it commits more.

    ``steps`` counts what the task has committed; ``place`` is where in the agent's work this one
    stands. They differ while a restarted plain function is led past its journaled steps: a model
    call it repeats there is known by its place, not by how far the task once was. ``base`` is the
    last checkpoint: where a framework would go on.

    What a database does not answer is asked again for as long as the attempt lives (``landings``):
    its worker ends it when the lease is in danger.
    """

    def __init__(self, store: Store, claim: Claim, terms: Terms) -> None:
        self._store = store
        self._landings = Landings(store, what=f"task {claim.task.id}")
        self._terms = terms
        self._task = claim.task
        self._epoch = claim.epoch
        self._lines = 0
        self._memory_scope: MemoryScope | None = None
        self.task_id = claim.task.id
        self.session_id = claim.task.session_id
        self.epoch = claim.epoch
        self.sealer = store.sealer
        self.blank = claim.blank  # until this attempt commits something of a framework's
        self._bases: dict[tuple[str, str], tuple[int, bytes]] = {}  # depth and seal, by place
        self.steps = claim.task.steps
        self.place = 0 if claim.epoch == 1 else claim.task.steps
        self.base = self.place

    async def commit_step(self, key: str, output: Any, said: Said) -> None:
        """Commit a step with the events before it.

        Raises:
            Stale: another attempt owns the task.
            Conflict: this step is on record already.
            StepRefused: the task may commit no more, or none of this size.
        """
        self._may_step()
        commit = steps.of(
            task_id=self._task.id, epoch=self._epoch, key=key, output=output, said=said
        )
        self._may_keep(commit)
        write = partial(self._store.commit, commit)
        self.steps = await self._landings.land(write, self._step_landed(key))
        self.place += 1

    async def commit_checkpoint(
        self,
        checkpoint: Checkpoint,
        said: Said,
        *,
        leans: bool = False,
        stored: Mapping[bytes, bytes] | None = None,
        writes: Sequence[Write] = (),
    ) -> None:
        """Commit a framework's checkpoint with the events and the nodes' writes before it.

        Raises:
            Stale: another attempt owns the task.
            StepRefused: the task may commit no more.
            Conflict: its parent is not there.
            Damaged: a content is not what its key says.
        """
        self._may_step()
        self.blank = False
        base = await self._base(checkpoint) if leans or checkpoint.depth else None
        commit, seal = checkpoints.of(
            checkpoint,
            sealer=self.sealer,
            session_id=self.session_id,
            epoch=self._epoch,
            release=self._task.release,
            said=said,
            base=base,
            stored=stored,
            writes=writes,
        )
        key = checkpoints.step_key(checkpoint)
        try:
            self.steps = await self._landings.land(
                lambda: self._store.commit(commit), self._step_landed(key)
            )
        except Conflict as error:
            raise Conflict(
                f"checkpoint {checkpoint.checkpoint_id} cannot be kept: {error}"
            ) from error
        self.place += 1
        self.base = self.steps
        self.remember(checkpoint, seal)

    def remember(self, checkpoint: Checkpoint, seal: bytes) -> None:
        """Know a checkpoint that the next ones may stand on."""
        place = (checkpoint.namespace, checkpoint.checkpoint_id)
        self._bases[place] = (checkpoint.depth, seal)
        if len(self._bases) > _BASES:
            del self._bases[next(iter(self._bases))]

    async def _base(self, checkpoint: Checkpoint) -> bytes:
        """The seal of the parent that a checkpoint stands on or leans on.

        Raises:
            Conflict: it is not there.
        """
        namespace, parent = checkpoint.namespace, checkpoint.parent_id

        async def work(tx: Transaction) -> tuple[int, bytes] | None:
            return await checkpoints.base(
                tx, session_id=self.session_id, namespace=namespace, checkpoint_id=parent
            )

        found = self._bases.get((namespace, parent or "")) or await self._landings.read(work)
        if found is None or checkpoint.depth not in (0, found[0] + 1):
            raise Conflict(
                f"checkpoint {checkpoint.checkpoint_id} stands on {parent}, which is not there"
            )
        return found[1]

    async def commit_writes(
        self, writes: Sequence[Write], stored: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Keep what nodes wrote on top of checkpoints.

        Raises:
            Stale: another attempt owns the task.
            Damaged: a content is not what its key says.
        """
        self.blank = False
        commit = checkpoints.of_writes(
            writes,
            sealer=self.sealer,
            session_id=self.session_id,
            task_id=self.task_id,
            epoch=self._epoch,
            stored=stored,
        )
        await self._landings.land(lambda: self._store.commit(commit), None)  # may be done twice

    async def commit(self, work: Work[None]) -> None:
        """Commit something of the task's that is no step.

        Args:
            work: begins by passing the fence, and may run twice.

        Raises:
            Stale: another attempt owns the task.
        """
        await self._landings.transact(work, None)  # what is there already is left or replaced

    async def commit_events(self, said: Said) -> None:
        """Keep events that must not wait for a step.

        Raises:
            Stale: another attempt owns the task.
        """
        before = await self._landings.read(self._last_event)

        async def work(tx: Transaction) -> None:
            if not await self._are_there(tx, said, before):
                await fences.advance(tx, task_id=self._task.id, epoch=self._epoch, said=said)

        await self._landings.transact(work, None)

    async def fenced(self, work: Work[None]) -> None:
        """Do ``work`` if the task is still ours, in the same transaction.

        Raises:
            Stale: another attempt owns the task; nothing was written.
        """

        async def both(tx: Transaction) -> None:
            await fences.advance(tx, task_id=self._task.id, epoch=self._epoch)
            await work(tx)

        await self.commit(both)

    async def memory_scope(self) -> MemoryScope:
        """Whose memory the task may reach."""
        if self._memory_scope is None:
            task = self._task
            session = await self._landings.read(partial(sessions.get, session_id=task.session_id))
            self._memory_scope = MemoryScope(
                agent=task.agent, environment=task.environment, user_id=session.user_id
            )
        return self._memory_scope

    @property
    def compares_vectors(self) -> bool:
        """Whether the database can be asked what is near a vector."""
        return self._store.vectors is not None

    async def commit_logs(self, pieces: Sequence[tuple[str, str]]) -> None:
        """Keep what was printed."""
        first = self._lines + 1
        self._lines += len(pieces)

        async def work(tx: Transaction) -> bool:
            await logs.append(
                tx, task_id=self._task.id, epoch=self._epoch, first=first, pieces=pieces
            )
            return True

        # Pieces are numbered: they are there if these are.
        await self._landings.transact(work, _there)

    async def end(
        self,
        after: After,
        ending: Ending,
        *,
        output: Any,
        error: Mapping[str, Any] | None,
        said: Said,
        printed: Sequence[tuple[str, str]],
        waited_us: int,
        broken: Broken | None = None,
        waits: Sequence[Wait] = (),
    ) -> None:
        """Commit what the attempt's ending makes of the task: over, or back in the queue.

        Args:
            after: the task's next state.
            ending: how the attempt ended.
            output: of the attempt; of one that a limit ended, as far as it came.
            error: of the attempt.
            said: events before the end.
            printed: what was printed before the end.
            waited_us: what the attempt waited for its process.
            broken: the limit that ended it, if one did.
            waits: what a person is asked, if that is how it ended.

        Raises:
            Stale: another attempt owns the task.
        """
        if after.state is TaskState.COMPLETED and not self._task.stateless:
            # The usual end is data, which a database may take together with others'.
            completion = Completion(
                output=output,
                crashes=after.crashes,
                losses=after.losses,
                waited_us=waited_us,
                accounted=self._task.environment != WORKFLOWS,
            )
            with contextlib.suppress(Stale):  # or somebody wants it stopped
                await self._complete(completion, said, printed)
                return

        async def work(tx: Transaction) -> bool:
            stop = await fences.wished_stop(tx, task_id=self._task.id, epoch=self._epoch)
            then, how = under_stop(after, ending, stop)
            over = Over(ending=how, output=output, error=because(how) or error, broken=broken)
            if how is ending:
                over = await named(tx, self._task, over, self._terms)
            else:
                over = replace(over, output=None, broken=None)
            if said:
                await fences.advance(tx, task_id=self._task.id, epoch=self._epoch, said=said)
            if printed:
                await logs.append(
                    tx,
                    task_id=self._task.id,
                    epoch=self._epoch,
                    first=self._lines + 1,
                    pieces=printed,
                )
            await become(tx, self._task, then, over, self._terms, waited_us=waited_us, waits=waits)
            return True

        await self._landings.transact(work, self._end_landed())

    async def _complete(
        self, completion: Completion, said: Said, printed: Sequence[tuple[str, str]]
    ) -> None:
        lines = logs.rows(
            task_id=self.task_id, epoch=self.epoch, first=self._lines + 1, pieces=printed
        )
        commit = Commit(
            task_id=self.task_id,
            epoch=self.epoch,
            said=said,
            completion=completion,
            rows=[("logs.add", lines)] if lines else (),
        )

        async def write() -> bool:
            await self._store.commit(commit)
            return True

        await self._landings.land(write, self._end_landed())

    async def replay(self) -> list[dict[str, Any]]:
        """The steps that earlier attempts have committed; the place is at the last checkpoint."""

        async def work(tx: Transaction) -> tuple[list[dict[str, Any]], int]:
            journaled = await steps.journal(tx, self._task.id)
            return journaled, await steps.last_checkpoint(tx, self._task.id)

        journaled, self.place = await self._landings.read(work)
        self.base = self.place
        return journaled

    def pass_replayed(self) -> None:
        """The agent has been led past a journaled step."""
        self.place += 1

    async def read(self, work: Work[T]) -> T:
        """What a unit of work finds on one snapshot; it may not write."""
        return await self._landings.read(work)

    def _may_step(self) -> None:
        most = self._terms.limits.steps
        if most is not None and self.steps >= most:
            raise StepRefused(
                f"the task has committed {self.steps} steps, its limit",
                self._terms.broken("steps", self.steps),
            )

    def _may_keep(self, commit: Commit) -> None:
        assert commit.step is not None
        size = len(commit.step.output)
        if size > self._terms.limits.output_bytes:
            what = f"the result of step {commit.step.key}"
            raise StepRefused(
                f"{what} has {size} bytes, more than a result may have",
                self._terms.broken("output", size, what),
            )

    async def attachment(self, attachment_id: str) -> tuple[Attachment, bytes]:
        """A file of the task's session, with its content.

        Raises:
            ValueError: the session has none of this id.
        """

        async def work(tx: Transaction) -> tuple[Attachment, bytes]:
            return await attachments.content(
                tx, session_id=self._task.session_id, attachment_id=attachment_id
            )

        try:
            return await self._store.read(work)
        except NotFound as error:
            raise ValueError(error.message) from None

    async def _last_event(self, tx: Transaction) -> int:
        return (await tasks.get(tx, self._task.id)).events

    async def _are_there(self, tx: Transaction, said: Said, before: int) -> bool:
        """Whether these events stand behind event ``before``: an earlier try has landed."""
        if await self._last_event(tx) == before:
            return False
        later = await events.after(tx, task_id=self._task.id, after=before, limit=_LATER)
        wanted = msgspec.json.decode(msgspec.json.encode(said))
        mine = [[event.kind, event.data] for event in later if event.epoch == self._epoch]
        return any(mine[at : at + len(wanted)] == wanted for at in range(len(mine)))

    def _step_landed(self, key: str) -> Work[int | None]:
        async def work(tx: Transaction) -> int | None:
            return await steps.number(tx, task_id=self._task.id, key=key, epoch=self._epoch)

        return work

    def _end_landed(self) -> Work[bool | None]:
        async def work(tx: Transaction) -> bool | None:
            task = await tasks.find(tx, self._task.id)
            if task is None or task.epoch != self._epoch or task.state is TaskState.RUNNING:
                return None
            return True

        return work


async def _there(_: Transaction) -> bool:
    return True
