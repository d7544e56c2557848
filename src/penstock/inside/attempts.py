"""One attempt at a task, as the code inside the agent's process sees it."""

from __future__ import annotations

import collections
import inspect
import json
import threading
from typing import TYPE_CHECKING, Any

from penstock.inside.channel import Refused
from penstock.inside.frames import FrameError
from penstock.inside.values import jsonable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.inside.channel import Channel, Reply

_USUAL_MODES = ("updates", "messages", "custom")


class Stopped(BaseException):
    """This attempt may not go on: another owner has the task, or it was cancelled.

    Not an ``Exception``: an agent's own ``except Exception`` must not keep it running.
    """


class Waits(BaseException):
    """This attempt ends here: what it asks, a person answers before the next one.

    Not an ``Exception``, for the reason that :class:`Stopped` is none.
    """

    def __init__(self, waits: Sequence[dict[str, Any]]) -> None:
        super().__init__("the task waits for a person")
        self.waits = list(waits)


class Attempt:
    """An order, its journal, and its way to the supervisor.

    ``on_stale`` is called when the supervisor says that another owner has the task: a process with
    one attempt ends there, a shared one raises :class:`Stopped`.
    """

    def __init__(
        self, order: dict[str, Any], channel: Channel, *, on_stale: Callable[[], None]
    ) -> None:
        self.number: int = order["a"]
        self.task: str = order.get("task", "")
        self.session: str = order.get("session", "")
        self.input: Any = order.get("input")
        self.resume: bool = bool(order.get("resume"))
        self.token: str = order.get("token") or ""
        self.state: dict[str, Any] | None = order.get("state")  # a wish about it
        self.answers: dict[str, Any] = order.get("answers") or {}
        self.interrupt: Callable[[Any], Any] | None = None  # a framework's own way to ask
        self.stopped = False
        self.partial: Callable[[], Any] | None = None  # what the work has come to so far
        stream = order.get("stream") or {}
        self.modes = frozenset(stream.get("modes", _USUAL_MODES))  # what the task is to stream
        self.subgraphs: bool = bool(stream.get("subgraphs"))
        self._channel = channel
        self._on_stale = on_stale
        self._journal = {done["key"]: done["output"] for done in order.get("steps") or ()}
        self._asked: list[dict[str, Any]] = []
        self._occurrences: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()

    def call(self, op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Reply:
        """Ask the supervisor, blocking this thread.

        Raises:
            Refused: the supervisor says no.
            Stopped: this attempt may not go on (in a shared process).
        """
        self._check()
        return self._accept(self._channel.call({**fields, "a": self.number, "op": op}, blobs))

    async def acall(self, op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Reply:
        """Ask the supervisor, leaving the event loop free; raises like :meth:`call`."""
        self._check()
        header = {**fields, "a": self.number, "op": op}
        return self._accept(await self._channel.acall(header, blobs))

    def event(self, kind: str, data: Any, namespace: Sequence[str] = ()) -> None:
        """Report a durable event; it is committed with the next step.

        One that no frame can hold leaves a mark in its place.
        """
        name = "|".join((kind, *namespace))
        self._report({"t": "event", "kind": name, "data": jsonable(data)})

    def delta(self, data: Any, mode: str = "custom", namespace: Sequence[str] = ()) -> None:
        """Report an item of the stream that nobody keeps, if the task is to stream its mode."""
        if mode in self.modes:
            header = {"t": "delta", "mode": mode, "data": jsonable(data)}
            self._report({**header, "ns": list(namespace)} if namespace else header)

    def finish(self, output: Any) -> None:
        """Report the end of the attempt and what it returned."""
        if self._asked:  # the agent has caught what ask() raised
            self.wait(())
            return
        self._channel.send(
            {"t": "finish", "a": self.number, "ok": True, "output": jsonable(output)}
        )

    def wait(self, waits: Sequence[dict[str, Any]]) -> None:
        """Report the end of the attempt and what a person is asked before the next one."""
        if self._asked:
            # What was answered and not reached again is kept; what is asked may be asked alone.
            for key in [key for key in self.answers if key not in self._journal]:
                self._keep_answer(key)
        self._channel.send(
            {
                "t": "finish",
                "a": self.number,
                "ok": True,
                "output": None,
                "waits": jsonable([*self._asked, *waits]),
            }
        )

    def attachment(self, known: str) -> tuple[str, bytes, str, str]:
        """See :func:`penstock.inside.attachments.attachment`."""
        try:
            header, (content,) = self.call("attachment.get", attachment=known)
        except Refused as error:
            raise LookupError(str(error)) from None
        return header["attachment"], content, header["content_type"], header["filename"]

    def ask(self, question: Any) -> Any:
        """See :func:`penstock.inside.context.ask`."""
        if self.interrupt is not None:
            return self.interrupt(question)
        self._check()
        key = self._key("ask")
        if key in self._journal:
            self.call("step.replayed", key=key)
            return self._journal[key]
        if key in self.answers:
            return self._keep_answer(key)
        self._asked.append({"id": key, "kind": "interrupt", "value": jsonable(question)})
        raise Waits(())

    def _keep_answer(self, key: str) -> Any:
        """Journal an answer, once."""
        with self._counting:
            new = key not in self._journal
            answer = self._journal.setdefault(key, self.answers[key])
        if new:
            self.call("step.commit", key=key, output=answer)
        return answer

    def fail(self, error: dict[str, Any]) -> None:
        """Report the end of the attempt, why it failed, and how far it came."""
        finish = {"t": "finish", "a": self.number, "ok": False, "error": error}
        if self.partial is not None:
            try:
                self._channel.send({**finish, "partial": jsonable(self.partial())})
            except Exception:  # noqa: BLE001 - what an agent's state holds is no reason to say nothing
                self._channel.send(finish)
            return
        self._channel.send(finish)

    def step(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See :func:`penstock.inside.context.step`."""
        key = self._key(name)
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004 - an object's async __call__, not callability
        ):
            return self._async_step(key, fn, args, kwargs)
        if key in self._journal:
            # The supervisor counts along: a model call behind this step is known by its place.
            self.call("step.replayed", key=key)
            return self._journal[key]
        output = _journaled(name, fn(*args, **kwargs))
        self.call("step.commit", key=key, output=output)
        return output

    async def _async_step(
        self, key: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A step whose function is async."""
        if key in self._journal:
            await self.acall("step.replayed", key=key)
            return self._journal[key]
        output = _journaled(key, await fn(*args, **kwargs))
        await self.acall("step.commit", key=key, output=output)
        return output

    def _key(self, name: str) -> str:
        """The name of a step, with how often it has come up."""
        with self._counting:
            self._occurrences[name] += 1
            return f"{name}#{self._occurrences[name]}"

    def _report(self, header: dict[str, Any]) -> None:
        try:
            self._send(header)
        except FrameError as error:
            mark = {"truncated": True, "error": str(error)}
            self._send({**header, "data": mark})

    def _send(self, header: dict[str, Any]) -> None:
        self._check()
        self._channel.send({**header, "a": self.number})

    def _check(self) -> None:
        if self.stopped:
            raise Stopped

    def _accept(self, reply: Reply) -> Reply:
        """The answer to a call, unless it is a refusal."""
        header = reply[0]
        if header.get("ok"):
            return reply
        error = header.get("error") or {}
        if error.get("type") == "stale":
            self.stopped = True
            self._on_stale()
            raise Stopped
        raise Refused(error.get("message") or "the supervisor refused a call")


def _journaled(name: str, output: Any) -> Any:
    """A step's result as its journal will give it back."""
    if inspect.isawaitable(output):
        if inspect.iscoroutine(output):
            output.close()
        raise TypeError(
            f"step {name!r}: give step() the async function itself, not a wrapper of it"
        )
    try:
        return json.loads(json.dumps(output, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"step {name!r} returned what JSON cannot hold: {error}") from error
