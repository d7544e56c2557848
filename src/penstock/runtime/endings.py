"""How an attempt ended: in its process's own words, in its exit status, or by a limit."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from penstock.domain.tasks import Ending, Task, TaskState, Wait
from penstock.rules.limits import Broken, Terms, ending_of, error_of
from penstock.rules.tasks import After
from penstock.store import Transaction, endings, environments, steps, tasks, waiting

_KINDS = {"exit": Ending.EXIT}
_NAMES = {
    Ending.CANCELLED: "Cancelled",
    Ending.CRASH: "Crash",
    Ending.LOST: "Lost",
}
_TOO_MANY_FILES = "[Errno 24]"

# Limits that end the work, not the process: what it came to is kept.
_PARTIAL = ("cost", "tokens", "steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """The end of an attempt."""

    ending: Ending
    output: Any = None  # of one that a limit ended, as far as it came
    error: Mapping[str, Any] | None = None
    broken: Broken | None = None
    waits: tuple[Wait, ...] = ()  # what a person is asked


def reported(finish: Mapping[str, Any], terms: Terms) -> Over:
    """The end that a process reports."""
    if finish["ok"]:
        waits = msgspec.convert(finish.get("waits") or (), tuple[Wait, ...])
        size = len(msgspec.json.encode(waits or finish["output"]))
        if size > terms.limits.output_bytes:
            return of_limit(terms.broken("output", size))
        if waits:
            return Over(ending=Ending.WAITING, waits=waits)
        return Over(ending=Ending.OK, output=finish["output"])
    error = finish["error"]
    kind, message = error.get("type"), error.get("message") or ""
    partial = finish.get("partial")
    if partial is not None and len(msgspec.json.encode(partial)) > terms.limits.output_bytes:
        partial = None
    if kind == "MemoryError" and terms.limits.memory_bytes is not None:
        return of_limit(terms.broken("memory", terms.limits.memory_bytes, message), cause=error)
    if kind == "OSError" and message.startswith(_TOO_MANY_FILES):
        return of_limit(terms.broken("files", terms.limits.open_files, message), cause=error)
    return Over(ending=_KINDS.get(error.get("kind"), Ending.ERROR), output=partial, error=error)


def of_limit(broken: Broken, *, output: Any = None, cause: Mapping[str, Any] | None = None) -> Over:
    """The end of an attempt that broke a limit."""
    return Over(ending=ending_of(broken), output=output, error=cause, broken=broken)


def stopped(ending: Ending, reason: str) -> Over:
    """The end of an attempt that was ended from outside."""
    return Over(ending=ending, error=_error(_NAMES.get(ending, "Stopped"), reason))


def unreported(status: int | None, terms: Terms) -> Over:
    """The end of a process that said nothing."""
    if status is None:
        return stopped(Ending.LOST, "the process went down with its zygote")
    seconds = terms.limits.cpu_seconds
    if status == -signal.SIGXCPU and seconds is not None:
        return of_limit(terms.broken("cpu", seconds))
    what = f"exit status {status}"
    if status < 0:
        what = f"signal {-status} ({_signal_name(-status)})"
    return stopped(Ending.CRASH, f"the process ended without a result: {what}")


async def named(tx: Transaction, task: Task, over: Over, terms: Terms) -> Over:
    """An end with all that is said of it: which limit, whose, and what the work came to."""
    broken = over.broken
    if broken is None and over.ending is Ending.ERROR:
        # The agent's error is how it took the gateway's refusal.
        hit = await tasks.limit_hit(tx, task.id)
        if hit in _PARTIAL:
            now = await tasks.get(tx, task.id)
            broken = terms.broken(hit, now.cost_nanos if hit == "cost" else now.tokens)
    if broken is None:
        return over if over.ending is Ending.OK else replace(over, output=None)
    added = await environments.get(tx, task.agent, task.environment)
    output = None
    if broken.limit in _PARTIAL:
        output = over.output
        if output is None and (done := await steps.journal(tx, task.id)):
            output = {"steps": done}
    return Over(
        ending=ending_of(broken),
        output=output,
        error=error_of(broken, terms, overlay=added.overlay, cause=over.error),
        broken=broken,
    )


async def become(
    tx: Transaction,
    task: Task,
    after: After,
    over: Over,
    terms: Terms,
    *,
    waited_us: int,
    waits: Sequence[Wait],
) -> None:
    """Make of a task what its attempt's ending makes of it: over, waiting, or back in the queue.

    Raises:
        Stale: another attempt owns the task.
    """
    owned: dict[str, Any] = {"task_id": task.id, "epoch": task.epoch}
    if after.state is TaskState.QUEUED:
        await endings.requeue(
            tx,
            **owned,
            crashes=after.crashes,
            losses=after.losses,
            delay_seconds=after.delay_seconds,
            why=_why(after, over),
            resource_class=after.resource_class,
        )
    elif after.state is TaskState.WAITING:
        await waiting.wait(tx, **owned, waits=waits, wait_seconds=terms.limits.wait_seconds)
    else:
        await endings.finish(
            tx,
            **owned,
            state=after.state,
            outcome=over.ending.value,
            output=over.output,
            error=over.error,
            crashes=after.crashes,
            losses=after.losses,
            waited_us=waited_us,
        )


def _why(after: After, over: Over) -> dict[str, Any]:
    """What the event of a task that is tried again says."""
    why: dict[str, Any] = {"outcome": over.ending.value, "error": over.error}
    if after.resource_class is not None:
        why["resource_class"] = after.resource_class.value
    return why


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "traceback": ""}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
