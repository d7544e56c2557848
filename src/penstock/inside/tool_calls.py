"""The journal of an attempt's tool calls: intent before, result after.

Every call of a tool asks the supervisor first. It is told to make the call, under a key that is the
same at every attempt; or it is given what an earlier attempt's call returned; or the attempt ends,
because only a person can say what became of a call that was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from penstock.inside import context, encodings, fingerprints
from penstock.inside.attempts import Attempt, Stopped
from penstock.inside.step_runs import asks_a_person

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from penstock.inside.channel import Reply

_SHOWN_BYTES = 64 * 1024

_warned: set[str] = set()

_inside: ContextVar[Tool | None] = ContextVar("penstock_tool", default=None)


class ToolFailed(Exception):
    """A person has said that an interrupted call of this tool failed."""


class Tool:
    """What is called, as its framework has it.

    ``names`` are those under which the same call comes by again further in: a framework's tool
    object runs the function it was made of.
    """

    __slots__ = ("effect", "name", "names", "retry")

    def __init__(self, name: str, declared: dict[str, str], names: Sequence[str] = ()) -> None:
        self.name = name
        self.names = frozenset((name, *names))
        self.effect = declared["effect"]
        self.retry = declared["retry"]


def call(tool: Tool, arguments: Any, make: Callable[[], Any], *, server: str = "") -> Any:
    """Call a tool once per task.

    Args:
        tool: which.
        arguments: what tells this request from others; also what a person is shown.
        make: does it.
        server: where the tool is, for tools of a server.

    Raises:
        ToolFailed: a person has said that it failed.
        Waits: a person must say what became of it.
        BaseException: what ``make`` raises.
    """
    attempt = context.current()
    if attempt is None or _is_inside_of(tool):
        return make()
    this = _Call(attempt, tool, arguments, server)
    if this.is_settled(attempt.call("tool.begin", **this.intent)):
        return this.result
    try:
        with this.entered():
            result = make()
    except BaseException as error:
        if (end := this.raised(error)) is not None:
            attempt.call("tool.end", **end)
        raise
    if hasattr(result, "__await__"):
        return _finish(this, result)
    end, blobs = this.returned(result)
    attempt.call("tool.end", blobs, **end)
    return result


async def acall(
    tool: Tool, arguments: Any, make: Callable[[], Awaitable[Any]], *, server: str = ""
) -> Any:
    """The same for a tool that is awaited; see :func:`call`."""
    attempt = context.current()
    if attempt is None or _is_inside_of(tool):
        return await make()
    this = _Call(attempt, tool, arguments, server)
    if this.is_settled(await attempt.acall("tool.begin", **this.intent)):
        return this.result
    return await _finish(this, make)


async def _finish(this: _Call, making: Any) -> Any:
    """Await a call that may be made, and report its end."""
    attempt = this.attempt
    try:
        with this.entered():
            result = await (making() if callable(making) else making)
    except BaseException as error:
        if (end := this.raised(error)) is not None:
            await attempt.acall("tool.end", **end)
        raise
    end, blobs = this.returned(result)
    await attempt.acall("tool.end", blobs, **end)
    return result


class _Call:
    """One call, from its intent to its end."""

    def __init__(self, attempt: Attempt, tool: Tool, arguments: Any, server: str) -> None:
        self.attempt = attempt
        self.tool = tool
        self.result: Any = None
        self._number = 0
        self._key: str | None = None
        self._scope = ""
        said = fingerprints.plain(arguments)
        self.intent = {
            "tool": tool.name,
            "effect": tool.effect,
            "retry": tool.retry,
            "scope": context.scope(),
            "request": fingerprints.digest(tool.name, server, said),
            "arguments": _shown(said),
        }

    def is_settled(self, reply: Reply) -> bool:
        """Whether the call must not be made; ``result`` is then what it returned before.

        Raises:
            ToolFailed: a person has said that it failed.
            Waits: a person must say what became of it.
        """
        header, blobs = reply
        match header["do"]:
            case "return":
                self.result = encodings.unpack(header["encoding"], blobs[0])
                return True
            case "fail":
                raise ToolFailed(f"{self.tool.name}: {header['error']['message']}")
            case "wait":
                self.attempt.wait_for(header["wait"])
        self._number, self._key, self._scope = header["call"], header["key"], header["scope"]
        return False

    @contextlib.contextmanager
    def entered(self) -> Generator[None, None, None]:
        """Be inside of the call: what is done there belongs to it."""
        scope = context.descend(self._scope)
        key = context.hold_key(self._key)
        tool = _inside.set(self.tool)
        try:
            yield
        finally:
            _inside.reset(tool)
            context.drop_key(key)
            context.ascend(scope)

    def returned(self, result: Any) -> tuple[dict[str, Any], list[bytes]]:
        """The report of a call that has returned."""
        packed = encodings.pack(result)
        end = {"call": self._number, "state": "done"}
        if packed is None:
            _warn(self.tool.name, result)
            return end, []
        return {**end, "encoding": packed[0]}, [packed[1]]

    def raised(self, error: BaseException) -> dict[str, Any] | None:
        """The report of a call that has raised; None if that says nothing about it."""
        if asks_a_person(error):
            return {"call": self._number, "state": "suspended"}
        if not isinstance(error, Exception) or isinstance(error, Stopped):
            return None  # it was cut off, not ended
        said = {"type": type(error).__name__, "message": _text_of(error)[:_SHOWN_BYTES]}
        return {"call": self._number, "state": "raised", "error": said}


def _is_inside_of(tool: Tool) -> bool:
    """Whether this very call was journaled further out, under another object's name."""
    outer = _inside.get()
    return outer is not None and not outer.names.isdisjoint(tool.names)


def _shown(arguments: Any) -> Any:
    """Arguments as a person is shown them; very large ones only begin."""
    text = json.dumps(arguments)
    if len(text) <= _SHOWN_BYTES:
        return arguments
    return {"begins": text[:_SHOWN_BYTES], "bytes": len(text)}


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - whatever an agent's error class does
        return ""


def _warn(name: str, result: Any) -> None:
    """Say once per tool that its results cannot be kept."""
    if name in _warned:
        return
    _warned.add(name)
    kind = type(result)
    print(  # noqa: T201 - the agent's log
        f"penstock: what the tool {name} returns ({kind.__module__}.{kind.__qualname__}) cannot be"
        " kept. It is called once per attempt; after a restart its result is not known.",
        file=sys.stderr,
    )
