"""What a stream carries: which modes there are, where a reader goes on, how large an item may be.

Two kinds of things travel. **Events** are durable: each has the next number of its task, and a
reader gets every one exactly once, whatever breaks. **Deltas** are ephemeral: tokens, and whatever
else is of use only while it is said. A delta names its (epoch, step); ``step.restarted`` says that
what an earlier epoch said of that step is void.

========== ========= ==========================================================================
mode       kind      what
========== ========= ==========================================================================
events     events    a task's own life: started, step, step.restarted, requeued, finished
updates    events    what each node wrote (``update``)
messages   deltas    a model's tokens with where they come from; a generator's texts
custom     deltas    what nodes write with a stream writer; a generator's other items
values     deltas    the whole state after each step
debug      deltas    all that LangGraph tells of its tasks and checkpoints
========== ========= ==========================================================================

A task says what it was created to say, and nothing more: modes nobody asked for cost nothing. The
events of its own life are always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.domain.errors import Invalid
from penstock.domain.tasks import Pulse, Streaming

EVENTS = "events"
UPDATES = "updates"
MODES = (EVENTS, UPDATES, "messages", "custom", "values", "debug")

EVENT_BYTES = 256 << 10  # of one event's data; more is replaced by a mark that says how much it was
DELTA_BYTES = 64 << 10

_SHOWN = 400  # characters of what was cut
_MARK_BYTES = 1024  # a member smaller than this is not worth a mark

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_UPDATE = "update"


def streaming(modes: Sequence[str] | None, *, subgraphs: bool) -> Streaming:
    """What a new task is asked to say; without modes the usual.

    Raises:
        Invalid: there is no such mode.
    """
    chosen = Streaming().modes if modes is None else tuple(dict.fromkeys(modes))
    _check(chosen)
    return Streaming(modes=chosen, subgraphs=subgraphs)


def shown(modes: Sequence[str], made: Streaming) -> frozenset[str]:
    """The modes a reader sees; without a wish those that the task was made with.

    Raises:
        Invalid: there is no such mode, or the task does not say it.
    """
    if not modes:
        return frozenset((EVENTS, *made.modes))
    _check(modes)
    missing = [mode for mode in modes if mode not in (EVENTS, *made.modes)]
    if missing:
        raise Invalid(
            f"this task does not stream {', '.join(missing)}; it was made with"
            f" {', '.join(made.modes) or 'events only'}",
            hint='Name the modes when the task is made: {"stream_mode": ["values", "messages"]}.',
        )
    return frozenset((EVENTS, *modes))


def mode_of(kind: str) -> str:
    """The mode that an event of a kind belongs to."""
    return UPDATES if split_kind(kind)[0] == _UPDATE else EVENTS


def split_kind(kind: str) -> tuple[str, list[str]]:
    """An event's name, and the namespace of the subgraph that it comes from."""
    name, *namespace = kind.split("|")
    return name, namespace


def begin_behind(header: str | None, after: int, pulse: Pulse) -> int:
    """The event behind which a reader goes on: that of ``Last-Event-ID`` if it sent one.

    Events are kept as long as their task, so no number is too old.

    Raises:
        Invalid: it is no number, or the task has no such event.
    """
    number = after
    if header is not None and (text := header.strip()):  # an empty one is how a browser says none
        if not (text.isascii() and text.isdigit()):
            raise Invalid(
                f"Last-Event-ID {text[:40]!r} is no number of an event",
                hint="Send the id of the last event you have, or leave the header out to begin"
                " at the first.",
            )
        number = int(text[:20])
    if not 0 <= number <= pulse.events:
        raise Invalid(
            f"the task has no event {number}; its last is {pulse.events}",
            hint="Was the id another task's? Leave it out to begin at the first event.",
        )
    return number


def bounded(text: bytes, most: int) -> bytes:
    """JSON that is no larger than ``most`` bytes: what is too large leaves a mark.

    Of an object the largest members go first, so that the small ones, which say what it is about,
    stay.
    """
    if len(text) <= most:
        return text
    value = _decode(text)
    if isinstance(value, dict):
        sizes = {name: len(_encode(member)) for name, member in value.items()}
        left = len(text)
        for name in sorted(sizes, key=lambda name: -sizes[name]):
            if left <= most or sizes[name] < _MARK_BYTES:
                break
            value[name] = _mark(_encode(value[name]))
            left -= sizes[name] - _MARK_BYTES
        if len(shorter := _encode(value)) <= most:
            return shorter
    return _encode(_mark(text))


def _mark(text: bytes) -> dict[str, Any]:
    """What stands for a value that was too large."""
    return {
        "truncated": True,
        "bytes": len(text),
        "begins": text[:_SHOWN].decode("utf-8", "replace"),
    }


def _check(modes: Sequence[str]) -> None:
    for mode in modes:
        if mode not in MODES:
            raise Invalid(
                f"there is no stream mode {mode!r}", hint=f"One or more of: {', '.join(MODES)}."
            )
