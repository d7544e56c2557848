"""One attempt at a task, as the code inside the agent's process sees it."""

from __future__ import annotations

import collections
import math
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

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


def is_of_tool(wait_id: str) -> bool:
    """Whether a question is about an interrupted tool call: its answer is the supervisor's."""
    return wait_id.startswith("tool_")


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
        self.stop_for: Callable[[dict[str, Any]], NoReturn] | None = None  # … and to stop for it
        self.stopped = False
        self.partial: Callable[[], Any] | None = None  # what the work has come to so far
        stream = order.get("stream") or {}
        self._user: str | None = None
        self.modes = frozenset(stream.get("modes", _USUAL_MODES))  # what the task is to stream
        self.subgraphs: bool = bool(stream.get("subgraphs"))
        self._channel = channel
        self._on_stale = on_stale
        self._journal = {done["key"]: done["output"] for done in order.get("steps") or ()}
        self._asked: list[dict[str, Any]] = []
        self._occurrences: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        self._until = time.monotonic() + (order.get("deadline_seconds") or math.inf)

    def check(self) -> None:
        """Nothing, while this attempt may go on.

        Raises:
            Stopped: it may not.
        """
        if self.stopped:
            raise Stopped

    def call(self, op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Reply:
        """Ask the supervisor, blocking this thread.

        Raises:
            Refused: the supervisor says no.
            Stopped: this attempt may not go on (in a shared process).
        """
        self.check()
        return self._accept(self._channel.call({**fields, "a": self.number, "op": op}, blobs))

    async def acall(self, op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Reply:
        """Ask the supervisor, leaving the event loop free; raises like :meth:`call`."""
        self.check()
        header = {**fields, "a": self.number, "op": op}
        return self._accept(await self._channel.acall(header, blobs))

    def begin_call(self, op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Future[Reply]:
        """Ask the supervisor and wait for nothing: the future has what :meth:`call` returns."""
        self.check()
        answer: Future[Reply] = Future()
        answer.set_running_or_notify_cancel()

        def accept(replied: Future[Reply]) -> None:
            try:
                answer.set_result(self._accept(replied.result()))
            except BaseException as error:  # noqa: BLE001 - it belongs to who asked
                answer.set_exception(error)

        self._channel.begin_call({**fields, "a": self.number, "op": op}, blobs).add_done_callback(
            accept
        )
        return answer

    @property
    def user(self) -> str | None:
        """Whose session the task belongs to."""
        if self._user is None:
            self._user = self.call("memory.user")[0]["user"] or ""
        return self._user or None

    def remember(self, ops: list[dict[str, Any]], blobs: Sequence[bytes] = ()) -> list[Any]:
        """Read and write the agent's memory; see ``inside/memories.py``.

        Raises:
            Refused: the supervisor says why not.
            TypeError: what is to be remembered is not JSON.
        """
        try:
            results: list[Any] = self.call("memory.batch", blobs, ops=ops)[0]["results"]
        except FrameError as error:
            raise TypeError(f"this cannot be remembered: {error}") from None
        return results

    async def aremember(self, ops: list[dict[str, Any]], blobs: Sequence[bytes] = ()) -> list[Any]:
        """The same, leaving the event loop free."""
        try:
            reply = await self.acall("memory.batch", blobs, ops=ops)
        except FrameError as error:
            raise TypeError(f"this cannot be remembered: {error}") from None
        results: list[Any] = reply[0]["results"]
        return results

    def event(self, kind: str, data: Any, namespace: Sequence[str] = ()) -> None:
        """Report a durable event; it is committed with the next step.

        One that no frame can hold leaves a mark in its place.
        """
        name = "|".join((kind, *namespace))
        self._report({"t": "event", "kind": name, "data": jsonable(data)}, soon=True)

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
        if self._asked and self.interrupt is None:
            # What was answered and not reached again is kept; what is asked may be asked alone.
            for key in [key for key in self.answers if key not in self._journal]:
                if not is_of_tool(key):
                    self._keep_answer(key)
        asked = {wait["id"]: wait for wait in [*waits, *self._asked]}
        self._channel.send(
            {
                "t": "finish",
                "a": self.number,
                "ok": True,
                "output": None,
                "waits": jsonable(list(asked.values())),
            }
        )

    def attachment(self, known: str) -> tuple[str, bytes, str, str]:
        """See :func:`penstock.inside.attachments.attachment`."""
        try:
            header, (content,) = self.call("attachment.get", attachment=known)
        except Refused as error:
            raise LookupError(str(error)) from None
        return header["attachment"], content, header["content_type"], header["filename"]

    @property
    def is_asking(self) -> bool:
        """Whether a person is asked something: the attempt then ends with that."""
        return bool(self._asked)

    def ask(self, question: Any, scope: str) -> Any:
        """See :func:`penstock.inside.context.ask`; ``scope`` is the part of the work that asks."""
        if self.interrupt is not None:
            return self.interrupt(question)
        self.check()
        key = self.step_key("ask", scope)
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

    def wait_for(self, wait: dict[str, Any]) -> NoReturn:
        """End the attempt, because a person must say what became of an interrupted call."""
        self._asked.append(wait)  # also when the agent catches what is raised here
        if self.stop_for is not None:
            self.stop_for(wait)
        raise Waits([wait])

    def step_key(self, name: str, scope: str) -> str:
        """The journal's key of the step that is reached now, in a part of the agent's work."""
        key = f"{scope}/{name}" if scope else name
        with self._counting:
            self._occurrences[key] += 1
            return f"{key}#{self._occurrences[key]}"

    def has_journaled(self, key: str) -> bool:
        """Whether an earlier attempt has committed a step."""
        return key in self._journal

    def journaled(self, key: str) -> Any:
        """What a step gave that an earlier attempt has committed."""
        return self._journal[key]

    def last_journaled(self, prefix: str) -> Any:
        """What the last committed step gave whose key is a name behind ``prefix``; None without."""
        found = None
        for key, output in self._journal.items():
            if key.startswith(prefix) and "/" not in key[len(prefix) :]:
                found = output
        return found

    def seconds_left(self) -> float:
        """How long the attempt may still take."""
        return self._until - time.monotonic()

    def _report(self, header: dict[str, Any], *, soon: bool = False) -> None:
        self.check()
        send = self._channel.send_soon if soon else self._channel.send
        header["a"] = self.number
        try:
            send(header)
        except FrameError as error:
            send({**header, "data": {"truncated": True, "error": str(error)}})

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
