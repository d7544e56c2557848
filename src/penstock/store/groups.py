"""Group commit on PostgreSQL: commits that wait at the same moment share one transaction.

A commit that finds nothing under way is written at once and alone; while a group is under way
others gather, and go together when it has landed. So a lone write never waits for company, and
under load the round trips and the flush to disk are shared. A second lane opens only when the first
is held up, by somebody else's lock: two lanes flush one after the other and share half as much.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import Unavailable
from penstock.domain.tasks import Claim, Ending, TaskState
from penstock.store import endings, events, workflows
from penstock.store.commits import Commit, stale
from penstock.store.group_rows import FOLDED, folded, folds
from penstock.store.transaction import Row, Transaction, Value, Work
from penstock.store.workflows import Beginning

_LANES = 2
_MOST = 64  # commits in one transaction
_HELD_UP_SECONDS = 0.01

Transact = Callable[[Work[Any]], Awaitable[Any]]


@dataclass(eq=False, slots=True)
class _Member:
    """A commit, and who waits for it."""

    commit: Commit
    said: list[tuple[str, str]]  # kind, JSON: encoded by its caller, who alone hears if it cannot
    output: str | None  # of its end, JSON
    answer: asyncio.Future[int]

    @property
    def task_id(self) -> str:
        return self.commit.task_id

    @property
    def keeps(self) -> bool:
        """Whether it is a checkpoint's, or of what nodes wrote."""
        return folds(self.commit)

    @property
    def single(self) -> bool:
        """Whether one statement writes it."""
        return self.commit.plain or (
            self.keeps and all(query in FOLDED for query, _ in self.commit.rows)
        )


@dataclass(eq=False, slots=True)
class _Opening:
    """A workflow that begins, and who waits for that."""

    beginning: Beginning
    answer: asyncio.Future[Claim]

    @property
    def task_id(self) -> str:
        return self.beginning.task_id


_One = _Member | _Opening


class Groups:
    """The commits of one process."""

    def __init__(
        self, transact: Transact, single: Transact, *, lanes: int = _LANES, most: int = _MOST
    ) -> None:
        """Write through ``transact``, or through ``single`` what is a single statement.

        Up to ``lanes`` transactions of up to ``most`` commits are under way at once.
        """
        self._transact = transact
        self._single = single
        self._most = most
        self._waiting: deque[_One] = deque()
        self._busy: set[str] = set()  # tasks that a lane is writing to: theirs is a sequence
        self._most_lanes = lanes
        self._lanes: set[asyncio.Task[None]] = set()
        self._working = 0  # lanes that will look for what waits once more
        self._turn = 0  # of the lanes: how many groups were begun
        self._watched = False

    async def commit(self, commit: Commit) -> int:
        """Write a commit; the task's committed steps.

        Raises:
            Stale: the epoch no longer owns the task; nothing was written.
            Conflict: the step is on record already.
            Unavailable: the database did not answer; the commit may have landed.
        """
        said = [(kind, events.text(data)) for kind, data in commit.said]
        output = None
        if commit.completion is not None:
            state, given = TaskState.COMPLETED, commit.completion.output
            kind, data = events.finished(state, Ending.OK.value, output=given)
            said.append((kind, events.text(data)))
            output = None if given is None else msgspec.json.encode(given).decode()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._enter(_Member(commit, said, output, answer))
        return await answer

    async def begin(self, beginning: Beginning) -> Claim:
        """Put a workflow on record; see ``workflows.begin``."""
        answer: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._enter(_Opening(beginning, answer))
        return await answer

    async def close(self) -> None:
        """Finish what is under way."""
        while self._lanes:
            await asyncio.wait(tuple(self._lanes))

    def _enter(self, one: _One) -> None:
        self._waiting.append(one)
        if not self._working or self._most == 1:
            self._open()
        elif not self._watched:
            self._watch()

    def _watch(self) -> None:
        self._watched = True
        asyncio.get_running_loop().call_later(_HELD_UP_SECONDS, self._look, self._turn)

    def _look(self, turn: int) -> None:
        """Open another lane if somebody waits and none has moved since ``turn``."""
        self._watched = False
        if self._waiting:
            if self._turn == turn:
                self._open()
            self._watch()

    def _open(self) -> None:
        if self._working < self._most_lanes:
            self._working += 1
            lane = asyncio.create_task(self._work(), name="group-commit")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _work(self) -> None:
        try:
            while group := self._take():
                self._turn += 1
                self._busy.update(group)
                try:
                    await self._write(list(group.values()))
                finally:
                    self._busy.difference_update(group)
                await asyncio.sleep(0)  # who has just been answered may have more
        finally:
            self._working -= 1

    def _take(self) -> dict[str, _One]:
        """Those who wait, one of each task; whoever was cancelled meanwhile is left out."""
        group: dict[str, _One] = {}
        later: list[_One] = []
        while self._waiting and len(group) < self._most:
            one = self._waiting.popleft()
            if one.answer.done():
                continue
            if one.task_id in group or one.task_id in self._busy:
                later.append(one)
            else:
                group[one.task_id] = one
        self._waiting.extendleft(reversed(later))
        return group

    async def _write(self, group: list[_One]) -> None:
        members = [one for one in group if isinstance(one, _Member)]
        openings = [one for one in group if isinstance(one, _Opening)]

        async def work(tx: Transaction) -> tuple[dict[str, Claim], dict[str, int]]:
            begun = await workflows.begin_all(tx, [one.beginning for one in openings])
            return begun, await _apply(tx, members)

        single = (
            all(member.single for member in members)
            and len({member.keeps for member in members}) <= 1
            and not (members and openings)
        )
        with _answering(group):
            try:
                begun, passed = await (self._single if single else self._transact)(work)
            except Unavailable:
                raise  # whether it landed is not known: each caller reads that for itself
            except Exception:
                if len(group) == 1:
                    raise
                # One of them cannot be written, and the whole was undone.
                await self._one_by_one(group)
                return
            for opening in openings:
                if not opening.answer.done():
                    opening.answer.set_result(begun[opening.task_id])
            for member in members:
                if member.answer.done():
                    continue
                number = passed.get(member.task_id)
                if number is None:
                    member.answer.set_exception(stale(member.commit))
                else:
                    member.answer.set_result(number)

    async def _one_by_one(self, group: list[_One]) -> None:
        for member in group:
            await self._write([member])


@contextlib.contextmanager
def _answering(group: list[_One]) -> Iterator[None]:
    """Whatever goes wrong is everyone's answer; nobody is left waiting."""
    try:
        yield
    except asyncio.CancelledError:
        error = Unavailable("the server stops; whether the write landed is not known")
        for member in group:
            if not member.answer.done():
                member.answer.set_exception(error)
        raise
    except Exception as error:  # noqa: BLE001 - it belongs to those who wait
        for member in group:
            if not member.answer.done():
                member.answer.set_exception(error)


async def _apply(tx: Transaction, group: list[_Member]) -> dict[str, int]:
    """Write commits of different tasks; the committed steps of each that passed its fence.

    Raises:
        Conflict: a step is on record already; nothing was written.
    """
    keeping = [member for member in group if member.keeps]
    others = [member for member in group if not member.keeps]
    passed = [*(await _keep(tx, keeping)), *(await _write_others(tx, others))]
    rows = {str(row["id"]): row for row in passed}
    together: dict[str, list[Mapping[str, Value]]] = {}
    for member in group:
        if member.task_id not in rows:
            continue
        if member.said:
            tx.notify("task", member.task_id)
        for query, parameters in member.commit.rows:
            if query not in FOLDED or not member.keeps:
                together.setdefault(query, []).extend(parameters)
    for query, parameters in together.items():
        await tx.execute_many(query, parameters)
    ended = [one for one in group if one.commit.completion is not None and one.task_id in rows]
    await _settle(tx, [(one, rows[one.task_id]) for one in ended])
    return {task_id: int(row["steps"]) for task_id, row in rows.items()}


async def _keep(tx: Transaction, group: list[_Member]) -> Sequence[Row]:
    """Write commits with the rows of checkpoints, in one statement."""
    if not group:
        return ()
    return await tx.fetch_all(
        "commits.keep", **_told(group), **folded([member.commit for member in group])
    )


async def _write_others(tx: Transaction, group: list[_Member]) -> Sequence[Row]:
    if not group:
        return ()
    if len(group) == 1 and group[0].commit.completion is None:
        return await _single(tx, group[0])
    return await _all(tx, group)


async def _single(tx: Transaction, member: _Member) -> Sequence[Row]:
    commit, step = member.commit, member.commit.step
    return await tx.fetch_all(
        "commits.single",
        id=commit.task_id,
        epoch=commit.epoch,
        steps=0 if step is None else 1,
        events=len(member.said),
        kinds=[kind for kind, _ in member.said],
        data=[data for _, data in member.said],
        key=None if step is None else step.key,
        step_kind=None if step is None else step.kind,
        output=None if step is None else step.output,
    )


async def _all(tx: Transaction, group: list[_Member]) -> Sequence[Row]:
    ends = [member.commit.completion for member in group]
    return await tx.fetch_all(
        "commits.apply",
        **_told(group),
        ends=[0 if end is None else 1 for end in ends],
        task_outputs=[member.output for member in group],
        crashes=[0 if end is None else end.crashes for end in ends],
        losses=[0 if end is None else end.losses for end in ends],
    )


def _told(group: list[_Member]) -> dict[str, Sequence[Value]]:
    """The fences, the events and the steps of commits, column by column."""
    commits = [member.commit for member in group]
    said = [
        (member.task_id, place, kind, text)
        for member in group
        for place, (kind, text) in enumerate(member.said, 1)
    ]
    steps = [(commit.task_id, commit.step) for commit in commits if commit.step is not None]
    return {
        "tasks": [commit.task_id for commit in commits],
        "epochs": [commit.epoch for commit in commits],
        "steps": [0 if commit.step is None else 1 for commit in commits],
        "events": [len(member.said) for member in group],
        "said_by": [task_id for task_id, _, _, _ in said],
        "places": [place for _, place, _, _ in said],
        "kinds": [kind for _, _, kind, _ in said],
        "data": [text for _, _, _, text in said],
        "step_of": [task_id for task_id, _ in steps],
        "keys": [step.key for _, step in steps],
        "step_kinds": [step.kind for _, step in steps],
        "outputs": [step.output for _, step in steps],
    }


async def _settle(tx: Transaction, ended: list[tuple[_Member, Row]]) -> None:
    """Do for tasks that have ended what ``endings.finish`` does behind the end itself."""
    accounted: list[tuple[str, int, int]] = []
    closing: list[str] = []
    for member, row in ended:
        tx.notify("done", member.task_id)
        completion = member.commit.completion
        if completion is None or not completion.accounted:
            continue
        busy = 0 if row["busy_us"] is None else max(0, row["busy_us"] - completion.waited_us)
        accounted.append((row["session_id"], row["cost_nanos"], busy))
        if row["close_session"]:
            closing.append(row["session_id"])
    if not accounted:
        return
    held = [session_id for session_id, _, _ in accounted]
    await tx.execute(
        "commits.account",
        sessions=held,
        costs=[cost for _, cost, _ in accounted],
        busy=[busy for _, _, busy in accounted],
    )
    if await tx.execute("commits.promote", sessions=held):
        tx.notify("queue", "")  # the next of a session may begin
    for session_id in closing:
        await endings.close_with_last(tx, session_id)
