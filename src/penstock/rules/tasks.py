"""What becomes of a task when an attempt at it has ended.

::

    queued ──claim──▶ running ──ok──────────────────────────▶ completed
      ▲                 │ ├────the agent's error, a limit───▶ failed
      │                 │ ├────cancelled────────────────────▶ cancelled
      └──died or lost───┘ └────died or lost too often───────▶ dead_lettered

An error the agent raised is its answer and is not tried again: the author decides that with
``step(…, retry=…)``. What is tried again is what says nothing about the agent's answer: a process
that died, a worker that was lost. The two are counted apart. A task that keeps killing its process
is poison after ``attempts``; a worker may be lost for many reasons, so that cap lies higher, but
there is one: a task that takes its worker down each time must end as well. A committed step ends
that count: a task that gets on is no poison.

One limit may be tried again with more: an attempt that ran out of memory, when the release has a
larger resource class. That is one retry, and it counts as no crash.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.tasks import Ending, ResourceClass, Task, TaskState

MOST_LOSSES = 10

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0

_STATES = {
    Ending.OK: TaskState.COMPLETED,
    Ending.CANCELLED: TaskState.CANCELLED,
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
}


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
        delay = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** (crashes - 1))
        return After(
            state=TaskState.QUEUED, crashes=crashes, losses=task.losses, delay_seconds=delay
        )
    if ending is Ending.LOST:
        losses = task.losses + 1
        state = TaskState.DEAD_LETTERED if losses >= MOST_LOSSES else TaskState.QUEUED
        return After(state=state, crashes=task.crashes, losses=losses)
    return After(state=_STATES[ending], crashes=task.crashes, losses=task.losses)


def handed_back(task: Task) -> After:
    """What becomes of a task whose worker gives it back of its own will: nothing counts."""
    return After(state=TaskState.QUEUED, crashes=task.crashes, losses=task.losses)
