"""Group commit on PostgreSQL: commits that wait at the same moment share one transaction.

There is no timer. A commit that finds a lane free is written at once and alone; while the lanes
are busy others gather, and whichever lane is free next takes them all. So a lone write never
waits for company, and under load the round trips and the flush to disk are shared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.errors import Unavailable
from penstock.store import events
from penstock.store.commits import Commit, stale
from penstock.store.transaction import Transaction, Value, Work

_LANES = 2
_MOST = 64  # commits in one transaction

Transact = Callable[[Work[Any]], Awaitable[Any]]


@dataclass(eq=False, slots=True)
class _Member:
    """A commit, and who waits for it."""

    commit: Commit
    said: list[tuple[str, str]]  # kind, JSON: encoded by its caller, who alone hears if it cannot
    answer: asyncio.Future[int]


class Groups:
    """The commits of one process."""

    def __init__(self, transact: Transact, single: Transact) -> None:
        """Write through ``transact``, or through ``single`` what is a single statement."""
        self._transact = transact
        self._single = single
        self._waiting: deque[_Member] = deque()
        self._busy: set[str] = set()  # tasks that a lane is writing to: theirs is a sequence
        self._lanes: set[asyncio.Task[None]] = set()

    async def commit(self, commit: Commit) -> int:
        """Write a commit; the task's committed steps.

        Raises:
            Stale: the epoch no longer owns the task; nothing was written.
            Conflict: the step is on record already.
            Unavailable: the database did not answer; the commit may have landed.
        """
        said = [(kind, events.text(data)) for kind, data in commit.said]
        member = _Member(commit, said, asyncio.get_running_loop().create_future())
        self._waiting.append(member)
        if len(self._lanes) < _LANES:
            lane = asyncio.create_task(self._work(), name="group-commit")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await member.answer

    async def close(self) -> None:
        """Finish what is under way."""
        while self._lanes:
            await asyncio.wait(tuple(self._lanes))

    async def _work(self) -> None:
        while group := self._take():
            self._busy.update(group)
            try:
                await self._write(list(group.values()))
            finally:
                self._busy.difference_update(group)

    def _take(self) -> dict[str, _Member]:
        """Those who wait, one of each task; whoever was cancelled meanwhile is left out."""
        group: dict[str, _Member] = {}
        later: list[_Member] = []
        while self._waiting and len(group) < _MOST:
            member = self._waiting.popleft()
            if member.answer.done():
                continue
            task_id = member.commit.task_id
            if task_id in group or task_id in self._busy:
                later.append(member)
            else:
                group[task_id] = member
        self._waiting.extendleft(reversed(later))
        return group

    async def _write(self, group: list[_Member]) -> None:
        async def work(tx: Transaction) -> dict[str, int]:
            return await _apply(tx, group)

        plain = all(member.commit.plain for member in group)
        with _answering(group):
            try:
                passed = await (self._single if plain else self._transact)(work)
            except Unavailable:
                raise  # whether it landed is not known: each caller reads that for itself
            except Exception:
                if len(group) == 1:
                    raise
                # One of them cannot be written, and the whole was undone.
                await self._one_by_one(group)
                return
            for member in group:
                if member.answer.done():
                    continue
                number = passed.get(member.commit.task_id)
                if number is None:
                    member.answer.set_exception(stale(member.commit))
                else:
                    member.answer.set_result(number)

    async def _one_by_one(self, group: list[_Member]) -> None:
        for member in group:
            await self._write([member])


@contextlib.contextmanager
def _answering(group: list[_Member]) -> Iterator[None]:
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
    commits = [member.commit for member in group]
    said = [
        (member.commit.task_id, place, kind, text)
        for member in group
        for place, (kind, text) in enumerate(member.said, 1)
    ]
    steps = [(commit.task_id, commit.step) for commit in commits if commit.step is not None]
    rows = await tx.fetch_all(
        "commits.apply",
        tasks=[commit.task_id for commit in commits],
        epochs=[commit.epoch for commit in commits],
        steps=[0 if commit.step is None else 1 for commit in commits],
        events=[len(commit.said) for commit in commits],
        said_by=[task_id for task_id, _, _, _ in said],
        places=[place for _, place, _, _ in said],
        kinds=[kind for _, _, kind, _ in said],
        data=[text for _, _, _, text in said],
        step_of=[task_id for task_id, _ in steps],
        keys=[step.key for _, step in steps],
        step_kinds=[step.kind for _, step in steps],
        outputs=[step.output for _, step in steps],
    )
    passed = {str(row["id"]): int(row["steps"]) for row in rows}
    together: dict[str, list[Mapping[str, Value]]] = {}
    for commit in commits:
        number = passed.get(commit.task_id)
        if number is None:
            continue
        if commit.said:
            tx.notify("task", commit.task_id)
        for query, parameters in commit.rows(number):
            together.setdefault(query, []).extend(parameters)
    for query, parameters in together.items():
        await tx.execute_many(query, parameters)
    return passed
