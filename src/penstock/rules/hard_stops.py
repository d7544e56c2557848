"""Stops beside the statistics: rules that act on arrival, within seconds.

A hard stop looks at the latest *finished tasks*, folded or not. It fires on an unbroken run of bad
tasks of the candidate; what follows depends on stable in the same window, which begins with the
first task of that run:

* stable is clearly free of the same trouble → roll back;
* stable has it too, or has too few finished tasks to tell → hold (``signal``), until the
  candidate's run is broken or stable turns out to be free of it.

"Clearly free" is ``(bad + 2) / (finished + 4)`` below the rule's share with at least
``LEAST_STABLE_TASKS`` finished, so that a provider that fails on both arms does not look like a
bad candidate by luck: with both arms failing 40 % of all tasks for ever, a seeded run of 1.8
million candidate tasks was rolled back twice; at 15, 30, 50 and 70 % never.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from penstock.domain.rollouts import FinishedTask, HardStopFacts

LEAST_STABLE_TASKS = 20


class Stop(StrEnum):
    """The rules."""

    CRASHES = "crashes"  # tasks that did not complete
    COST_CAP = "cost_cap"  # tasks stopped by their cost limit


_RUN = {Stop.CRASHES: 10, Stop.COST_CAP: 6}  # unbroken bad tasks of the candidate that fire
_SHARE = {Stop.CRASHES: 0.25, Stop.COST_CAP: 0.10}  # stable must be below it


@dataclass(frozen=True, kw_only=True, slots=True)
class Fired:
    """A hard stop that fired, with what it saw."""

    stop: Stop
    roll_back: bool  # stable is clearly free of it; otherwise hold
    run: int  # unbroken bad tasks of the candidate
    since_us: int  # end of the first of them
    stable_bad: int
    stable_finished: int


def fired(facts: HardStopFacts) -> Fired | None:
    """The hard stop that has fired; one that rolls back before one that only holds."""
    held: Fired | None = None
    for stop in Stop:
        run = _run(facts.candidate, stop)
        if run < _RUN[stop]:
            continue
        since_us = facts.candidate[-run].finished_us
        window = [task for task in facts.stable if task.finished_us >= since_us]
        bad = sum(_is_bad(task, stop) for task in window)
        share = (bad + 2) / (len(window) + 4)
        free = len(window) >= LEAST_STABLE_TASKS and share < _SHARE[stop]
        found = Fired(
            stop=stop,
            roll_back=free,
            run=run,
            since_us=since_us,
            stable_bad=bad,
            stable_finished=len(window),
        )
        if free:
            return found
        held = held or found
    return held


def _run(tasks: tuple[FinishedTask, ...], stop: Stop) -> int:
    """How many tasks at the end are bad without a break."""
    run = 0
    for task in reversed(tasks):
        if not _is_bad(task, stop):
            break
        run += 1
    return run


def _is_bad(task: FinishedTask, stop: Stop) -> bool:
    return task.cost_capped if stop is Stop.COST_CAP else task.failed
