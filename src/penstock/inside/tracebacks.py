"""Errors of an agent as its author wants to read them: their own lines, not ours."""

from __future__ import annotations

import os
import traceback
from typing import Any

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH120, PTH100 - strings, as in frames
_IMPORTING = f"{os.sep}importlib{os.sep}__init__.py"
_LIMIT = 16_384
_TAIL = 2


def describe(error: BaseException, project: str) -> dict[str, Any]:
    """What a finish or failed frame says of an error.

    Returns ``kind`` ("exit" for ``sys.exit``), ``type``, ``message``, ``traceback`` (trimmed, with
    paths relative to the project) and ``where``: ``file:line`` of the author's own last line, or
    null when there is none. An error that task groups have wrapped alone is told as itself.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    root = os.path.join(os.path.realpath(project), "")  # noqa: PTH118 - strings, as in frames
    summary = traceback.TracebackException.from_exception(error, capture_locals=False)
    shown, where = _frames(list(summary.stack), root)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{_relative(error.filename, root)}:{error.lineno}"
    last = "".join(summary.format_exception_only()).replace(root, "")
    text = f"Traceback (most recent call last):\n{shown}{last}" if shown else last
    cause = error.__cause__
    if cause is not None and cause is not error:
        text += f"caused by {''.join(traceback.format_exception_only(cause))}"
    for part in _parts(error):
        text += f"one of them: {''.join(traceback.format_exception_only(part))}"
    is_exit = isinstance(error, SystemExit | KeyboardInterrupt)
    return {
        "kind": "exit" if is_exit else "error",
        "type": type(error).__name__,
        "message": _message(error),
        "traceback": text[-_LIMIT:],
        "where": where,
    }


def _message(error: BaseException) -> str:
    """The error's own words; an error's ``__str__`` may itself fail."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever an agent's error class does
        text = ""
    if isinstance(error, SystemExit):
        return f"the agent called sys.exit({text})"
    if parts := _parts(error):
        text = f"{text}: {'; '.join(_message(part) for part in parts)}"
    return text[:_LIMIT]


def _parts(error: BaseException) -> tuple[BaseException, ...]:
    """The errors of a group."""
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _frames(stack: list[traceback.FrameSummary], root: str) -> tuple[str, str | None]:
    """The stack with only the author's lines, the last few of others, and gaps counted."""
    own = [
        frame
        for frame in stack
        if not frame.filename.startswith((_OURS, "<frozen "))
        and not frame.filename.endswith(_IMPORTING)
    ]
    mine = [number for number, frame in enumerate(own) if _is_of(frame.filename, root)]
    where = f"{_relative(own[mine[-1]].filename, root)}:{own[mine[-1]].lineno}" if mine else None
    keep = set(mine) | set(range(max(0, len(own) - _TAIL), len(own)))
    lines, hidden = [], 0
    for number, frame in enumerate(own):
        if number not in keep:
            hidden += 1
            continue
        if hidden:
            lines.append(f"  ... {hidden} more of libraries\n")
            hidden = 0
        name = _relative(frame.filename, root)
        lines.append(f'  File "{name}", line {frame.lineno}, in {frame.name}\n')
        if frame.line:
            lines.append(f"    {frame.line}\n")
    return "".join(lines), where


def _is_of(filename: str, root: str) -> bool:
    """Whether a file is the project's own code, not a package installed below it."""
    path = os.path.realpath(filename)
    return path.startswith(root) and "site-packages" not in path


def _relative(filename: str, root: str) -> str:
    """A path as the author writes it, when it is in the project."""
    path = os.path.realpath(filename)
    return path.removeprefix(root) if path.startswith(root) else filename
