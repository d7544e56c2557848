"""A process that takes many attempts side by side, for light agents that are trusted.

Sync agents run in a thread pool, async ones on one event loop. What a process of its own would
tell apart is told apart by the calling context: lines of output, and requests to the gateway.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.inside import context, host, tracebacks
from penstock.inside.attempts import Attempt, Waits
from penstock.inside.entrypoints import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.inside.channel import Channel
    from penstock.inside.entrypoints import Runner

_THREADS = 64
_LINE_LIMIT = 64 * 1024


def run_many(channel: Channel, runner: Runner, *, project: str) -> NoReturn:
    """Take orders until the supervisor closes the channel."""
    host.wait_for(_Shared(channel, runner, project).serve())
    host.end(0)


class _Shared:
    """The attempts of one process."""

    def __init__(self, channel: Channel, runner: Runner, project: str) -> None:
        self._channel = channel
        self._runner = runner
        self._project = project
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-attempt")
        self._running: dict[int, tuple[Attempt, asyncio.Task[None]]] = {}
        self._evaluating: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Start an attempt for every order; the reader thread ends the process at the end."""
        loop = asyncio.get_running_loop()
        frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Attributed(getattr(sys, name), name, self._channel))
        self._channel.start(lambda header: _into(loop, frames, header))
        while True:
            header = await frames.get()
            kind = header.get("t")
            if kind == "order":
                self._start(header)
            elif kind == "evaluate":
                task = asyncio.create_task(self._evaluate(header))
                self._evaluating.add(task)
                task.add_done_callback(self._evaluating.discard)
            elif kind == "cancel":
                self._stop(header["a"])
                self._channel.send({"t": "stopped", "a": header["a"]})

    def _start(self, order: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        number = order["a"]
        attempt = Attempt(
            order,
            self._channel,
            on_stale=partial(self._stop_soon, loop, number),
        )
        task = asyncio.create_task(self._attempt(attempt))
        self._running[number] = (attempt, task)
        task.add_done_callback(lambda _: self._running.pop(number, None))

    def _stop_soon(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Stop an attempt from whatever thread found out that it must."""
        loop.call_soon_threadsafe(self._stop, number)

    def _stop(self, number: int) -> None:
        """End an attempt where it next waits (async) or next asks for something (sync)."""
        if number in self._running:
            attempt, task = self._running[number]
            attempt.stopped = True
            task.cancel()

    async def _attempt(self, attempt: Attempt) -> None:
        """Run one attempt and report its end; a stopped one ends in silence."""
        context.enter(attempt, alone=False)
        try:
            if attempt.state is not None:
                output = await self._in_thread(partial(self._runner.look, attempt))
            elif self._runner.is_async:
                output = await self._runner.arun(attempt)
            else:
                output = await self._in_thread(partial(self._runner.run, attempt))
                if hasattr(output, "__await__") or hasattr(output, "__aiter__"):
                    output = await self._runner.finish(output, attempt)  # type: ignore[attr-defined]
            _close_output(attempt)
            if not attempt.stopped:
                await self._in_thread(partial(attempt.finish, output))
        except Waits as asked:
            _close_output(attempt)
            if not attempt.stopped:
                await self._in_thread(partial(attempt.wait, asked.waits))
        except BaseException as error:  # noqa: BLE001 - sys.exit ends an attempt, not its neighbours
            _close_output(attempt)
            if not attempt.stopped:
                host.report(attempt, error, self._project)

    async def _evaluate(self, header: dict[str, Any]) -> None:
        """Score a session's record with a function of the project."""
        answer: dict[str, Any] = {"t": "evaluated", "a": header["a"]}
        try:
            score = await self._score(header["function"], header["record"])
            answer |= {"ok": True, "score": score}
        except BaseException as error:  # noqa: BLE001 - whatever an evaluator does ends in a report
            answer |= {"ok": False, "error": tracebacks.describe(error, self._project)}
        self._channel.send(answer)

    async def _score(self, name: str, record: dict[str, Any]) -> float:
        """What an evaluator says of a record.

        Raises:
            ValueError: it says something else than a boolean or a number from 0 to 1.
        """
        function = resolve(name)
        if inspect.iscoroutinefunction(function):
            score = await function(record)
        else:
            score = await self._in_thread(partial(function, record))
        if not isinstance(score, bool | int | float) or not math.isfinite(score):
            raise ValueError(
                f"{name} returned {score!r}; an evaluator returns a boolean or a number"
            )
        if not 0 <= score <= 1:
            raise ValueError(f"{name} returned {score!r}; a score is from 0 to 1")
        return float(score)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Run sync code in the pool, in this context."""
        run = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, run, _contained, work)


def _contained(work: Callable[[], Any]) -> Any:
    """Call; a StopIteration, which a future cannot hold, becomes an ordinary error."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("the agent raised StopIteration") from error


def _close_output(attempt: Attempt) -> None:
    """Send the line an attempt has begun and not ended."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Attributed):
            stream.close_attempt(attempt.number)


def _into(
    loop: asyncio.AbstractEventLoop, frames: asyncio.Queue[dict[str, Any]], header: dict[str, Any]
) -> None:
    loop.call_soon_threadsafe(frames.put_nowait, header)


class _Attributed:
    """A text stream that sends each line of an attempt's output with the attempt's number."""

    def __init__(self, plain: Any, name: str, channel: Channel) -> None:
        self._plain = plain
        self._name = name
        self._channel = channel
        self._parts: dict[int, str] = {}
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Print for the current attempt; outside of one, to the process's own stream."""
        attempt = context.current()
        if attempt is None:
            return int(self._plain.write(text))
        with self._lock:
            whole = self._parts.pop(attempt.number, "") + text
            cut = len(whole) if len(whole) > _LINE_LIMIT else whole.rfind("\n") + 1
            if cut < len(whole):
                self._parts[attempt.number] = whole[cut:]
        if cut:
            self._send(attempt.number, whole[:cut])
        return len(text)

    def close_attempt(self, number: int) -> None:
        """Send what an attempt printed last, without a newline."""
        with self._lock:
            rest = self._parts.pop(number, "")
        if rest:
            self._send(number, rest)

    def writelines(self, lines: Any) -> None:
        """Print several lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held back but unfinished lines."""
        self._plain.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def _send(self, number: int, text: str) -> None:
        self._channel.send({"t": "log", "a": number, "stream": self._name, "text": text})
