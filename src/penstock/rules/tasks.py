"""What becomes of a task when an attempt at it has ended.

::

    queued ──claim──▶ running ──ok──────────────────────────▶ completed
     ▲  ▲ │             │ │ ├──the agent's error, a limit───▶ failed ◀──────waited too long──┐
     │  │ └──stopped────│─│─┼──stopped──────────────────────▶ cancelled ◀───stopped──────────┤
     │  └──died or lost─┘ │ └──died or lost too often───────▶ dead_lettered                  │
     │                    └────asks a person────────────────▶ waiting ───────────────────────┤
     └───────────────────────────────────answered────────────────────────────────────────────┘

    stopped: by a person                   outcome cancelled
             for a later message           outcome interrupted: what it committed stays
                                           outcome rolled_back: what it committed is gone

An error the agent raised is its answer and is not tried again: the author decides that with
``step(…, retry=…)``. What is tried again is what says nothing about the agent's answer: a process
that died, a worker that was lost. The two are counted apart. A task that keeps killing its process
is poison after ``attempts``; a worker may be lost for many reasons, so that cap lies higher, but
there is one: a task that takes its worker down each time must end as well. A committed step ends
that count: a task that gets on is no poison.

One limit may be tried again with more: an attempt that ran out of memory, when the release has a
larger resource class. That is one retry, and it counts as no crash.

A task that asks a person is not over: it keeps its place in its session, so that no later message
overtakes it, and holds no process, lease or time limit while it waits. The answers queue it again,
in the transaction that stores them; the next attempt is given them, and so is the one after it if
that one dies.

A task is stopped for a person, or for a later message of its session. The wish is kept with the
task, so whoever brings it to its end obeys it, its own worker or the reaper of another server: a
task with such a wish never goes back to the queue. What the agent ended by itself before the wish
reached it stands, unless it is to be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import Conflict, Invalid
from penstock.domain.tasks import (
    TERMINAL,
    Ending,
    MultitaskStrategy,
    ResourceClass,
    Stop,
    Task,
    TaskState,
    Wait,
)
from penstock.rules.tool_calls import check_answer

MOST_LOSSES = 10

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_EDIT = "edit:"  # how the ids of questions begin that an edit of the state has put

_STATES = {
    Ending.OK: TaskState.COMPLETED,
    Ending.CANCELLED: TaskState.CANCELLED,
    Ending.WAITING: TaskState.WAITING,
    Ending.ERROR: TaskState.FAILED,
    Ending.EXIT: TaskState.FAILED,
    Ending.TIMEOUT: TaskState.FAILED,
    Ending.CPU: TaskState.FAILED,
    Ending.MEMORY: TaskState.FAILED,
    Ending.PROCESSES: TaskState.FAILED,
    Ending.FILES: TaskState.FAILED,
    Ending.OUTPUT: TaskState.FAILED,
    Ending.BUDGET: TaskState.FAILED,
    Ending.TOKENS: TaskState.FAILED,
    Ending.STEPS: TaskState.FAILED,
    Ending.INTERRUPTED: TaskState.CANCELLED,
    Ending.ROLLED_BACK: TaskState.CANCELLED,
}

_STOPPED = {
    Stop.CANCEL: Ending.CANCELLED,
    Stop.INTERRUPT: Ending.INTERRUPTED,
    Stop.ROLLBACK: Ending.ROLLED_BACK,
}
_BECAUSE = {
    Ending.CANCELLED: ("Cancelled", "cancelled"),
    Ending.INTERRUPTED: ("Interrupted", "stopped for a later message of its session"),
    Ending.ROLLED_BACK: ("RolledBack", "stopped and undone for a later message of its session"),
}
_NOT_ITS_OWN = frozenset({Ending.CANCELLED, Ending.CRASH, Ending.LOST})


@dataclass(frozen=True, kw_only=True, slots=True)
class After:
    """The next state of a task, with its counters."""

    state: TaskState
    crashes: int
    losses: int
    delay_seconds: float = 0.0  # before the next attempt, when the state is queued
    resource_class: ResourceClass | None = None  # of the next attempt; None: as it was


def after_attempt(task: Task, ending: Ending, *, attempts: int, larger: bool = False) -> After:
    """What an attempt's ending makes of its task.

    Args:
        task: as it was claimed.
        ending: how the attempt ended.
        attempts: how many processes the task may kill.
        larger: whether there is a resource class with more memory than the attempt had.
    """
    if ending is Ending.MEMORY and larger:
        return After(
            state=TaskState.QUEUED,
            crashes=task.crashes,
            losses=task.losses,
            resource_class=ResourceClass.LARGE,
        )
    if ending is Ending.CRASH:
        crashes = task.crashes + 1
        if crashes >= attempts:
            return After(state=TaskState.DEAD_LETTERED, crashes=crashes, losses=task.losses)
        return After(
            state=TaskState.QUEUED,
            crashes=crashes,
            losses=task.losses,
            delay_seconds=_delay_seconds(crashes),
        )
    if ending is Ending.LOST:
        losses = task.losses + 1
        if losses >= MOST_LOSSES:
            return After(state=TaskState.DEAD_LETTERED, crashes=task.crashes, losses=losses)
        # The first worker that is lost says nothing; where several were, something is wrong.
        return After(
            state=TaskState.QUEUED,
            crashes=task.crashes,
            losses=losses,
            delay_seconds=_delay_seconds(losses - 1) if losses > 1 else 0.0,
        )
    return After(state=_STATES[ending], crashes=task.crashes, losses=task.losses)


def _delay_seconds(count: int) -> float:
    """How long to wait after so many failures, one being the first."""
    return min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** (count - 1))


def handed_back(task: Task) -> After:
    """What becomes of a task whose worker gives it back of its own will: nothing counts."""
    return After(state=TaskState.QUEUED, crashes=task.crashes, losses=task.losses)


def answers(task: Task, given: Mapping[str, Any] | None, answer: Any) -> dict[str, Any]:
    """What the next attempt of a waiting task is told, by what it waits for.

    Args:
        task: as it waits.
        given: answers by the id of what they answer; all or some of them.
        answer: the one answer, when there are none by id.

    Raises:
        Conflict: the task does not wait, or not for this.
        Invalid: there is no answer, one for several things, or one that says nothing about an
            interrupted tool call.
    """
    if task.state is not TaskState.WAITING:
        raise Conflict(
            f"task {task.id} is {task.state.value}; it waits for nobody",
            hint="Somebody else may have answered; its events say who.",
        )
    waits = [wait.id for wait in task.waits]
    if given is None:
        if len(waits) != 1:
            raise Invalid(
                f"task {task.id} waits for {len(waits)} things; say which this answers",
                hint=f'Send {{"answers": {{id: answer}}}} with some of: {", ".join(waits)}.',
            )
        given = {waits[0]: answer}
    if not given:
        raise Invalid("there is no answer", hint=f"It waits for: {', '.join(waits)}.")
    if unknown := sorted(given.keys() - set(waits)):
        why = "The state of its session was edited meanwhile. " if _is_edited(task) else ""
        raise Conflict(
            f"task {task.id} does not wait for {', '.join(unknown)}",
            hint=f"{why}It waits for: {', '.join(waits)}.",
        )
    for wait in task.waits:
        if wait.kind == "tool" and wait.id in given:
            check_answer(given[wait.id])
    return dict(given)


def leave_after_edit(checkpoint_id: str | None) -> Wait:
    """What a waiting task asks instead once somebody has edited the state it asked of."""
    return Wait(
        id=f"{_EDIT}{checkpoint_id}", kind="interrupt", value={"state_edited": checkpoint_id}
    )


def _is_edited(task: Task) -> bool:
    return any(wait.id.startswith(_EDIT) for wait in task.waits)


def is_repeated(
    last: Mapping[str, Any] | None, *, by: str, answers: Mapping[str, Any] | None, answer: Any
) -> bool:
    """Whether these answers are those that a task was last given, by the same one.

    Args:
        last: what the task's last event ``resumed`` says, if it has one.
        by: who answers.
        answers: by the id of what they answer.
        answer: the one answer, when there are none by id.
    """
    if last is None or last["by"] != by:
        return False
    known = last["answers"]
    if answers is None:
        return len(known) == 1 and is_same_json(next(iter(known.values())), answer)
    return is_same_json(known, dict(answers))


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two values are one as JSON, where ``true`` is not ``1``."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(
        other, order="deterministic"
    )


def makes_way(strategy: MultitaskStrategy) -> Stop | None:
    """What a new task stops those before it for, if it does."""
    if strategy is MultitaskStrategy.INTERRUPT:
        return Stop.INTERRUPT
    return Stop.ROLLBACK if strategy is MultitaskStrategy.ROLLBACK else None


def stopped(stop: Stop) -> Ending:
    """The outcome of a task that was stopped for this."""
    return _STOPPED[stop]


def under_stop(after: After, ending: Ending, stop: Stop | None) -> tuple[After, Ending]:
    """What an attempt's ending makes of a task that somebody wants stopped.

    Args:
        after: what it would make of it otherwise.
        ending: how the attempt ended.
        stop: what the task is to be stopped for, as it stands when its end is committed.
    """
    if stop is None:
        return after, ending
    its_own = after.state in TERMINAL and ending not in _NOT_ITS_OWN
    if its_own and stop is not Stop.ROLLBACK:
        return after, ending
    ending = stopped(stop)
    return After(state=_STATES[ending], crashes=after.crashes, losses=after.losses), ending


def because(ending: Ending) -> dict[str, str] | None:
    """The error of a task that was stopped; nothing when its ending is its own."""
    if ending not in _BECAUSE:
        return None
    kind, message = _BECAUSE[ending]
    return {"type": kind, "message": message, "traceback": ""}


def undone(ending: Ending) -> bool:
    """Whether a task that ended like this leaves nothing behind in its session."""
    return ending is Ending.ROLLED_BACK
