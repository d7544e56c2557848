"""Where an attempt runs: in a process of its own, or beside others in a shared one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import Any

from penstock.domain.errors import Unavailable
from penstock.inside.frames import FrameError
from penstock.runtime.outputs import Output
from penstock.runtime.processes import Child, Frame
from penstock.runtime.wardens import Warden

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
_WAITING_FRAMES = 256
_EVALUATION_SECONDS = 30.0
_DEAF_SECONDS = 0.75  # a limit of time is kept to within a second


class OwnHost:
    """A process that runs this attempt alone."""

    alone = True
    innocent = False

    def __init__(self, child: Child, warden: Warden) -> None:
        self._child = child
        self._warden = warden
        self._watching = False

    @property
    def pid(self) -> int | None:
        """The process, once the zygote has said which it is."""
        return self._child.pid

    @property
    def broken(self) -> tuple[str, float] | None:
        """The limit that ended the process, and how much of it had been used."""
        return self._warden.broken

    async def send(self, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        """Send a frame."""
        await self._child.send(header, blobs)

    async def receive(self) -> list[Frame]:
        """The next frames; none at the end."""
        return await self._child.receive()

    def kill(self) -> None:
        """End the process and all that it started."""
        self._child.kill()

    async def status(self, seconds: float) -> int | None:
        """The exit status; a process that does not end by itself is ended."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._child.exited)
        except TimeoutError:
            self.kill()
            return await self._child.exited

    def watch(self, output: Output) -> None:
        """Catch what the process prints."""
        self._watching = True
        output.watch("stdout", self._child.stdout)
        output.watch("stderr", self._child.stderr)

    def close(self) -> None:
        """Close the channel; the pipes belong to the output that reads them."""
        self._warden.release()
        self._child.close()


class SharedProcess:
    """A process that runs many attempts, and evaluates sessions."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._numbers = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[list[Frame]]] = {}
        self._evaluations: dict[int, asyncio.Future[float]] = {}
        self._output = Output(limit_bytes=1 << 20)
        self._output.watch("stdout", child.stdout)
        self._output.watch("stderr", child.stderr)
        self._cancels: set[asyncio.Task[None]] = set()
        self._stopping: set[int] = set()  # attempts that were told to end, and have not answered
        self._finished: set[int] = set()  # attempts that have said their last word by themselves
        self._clock = asyncio.get_running_loop().time
        self._used = self._clock()
        self.alive = True
        self.deaf = False  # it was ended because it heard nothing any more
        self._reader = asyncio.create_task(self._read(), name="shared-process")

    @property
    def busy(self) -> int:
        """Attempts and evaluations that have not ended."""
        return len(self._queues) + len(self._evaluations)

    @property
    def idle_seconds(self) -> float:
        """How long it has had nothing to do; 0 while it has."""
        return 0.0 if self.busy else self._clock() - self._used

    def attempt(self) -> SharedHost:
        """A place for one more attempt."""
        number = next(self._numbers)
        # Bounded: an attempt whose commits are slow slows the process down, not the server.
        self._queues[number] = asyncio.Queue(_WAITING_FRAMES)
        return SharedHost(self, number)

    async def evaluate(self, function: str, record: dict[str, Any]) -> float:
        """What an evaluator of the project says of a session.

        Raises:
            ValueError: the evaluator raised, or said something that is no score.
            TimeoutError: it said nothing in time; the process was ended.
            Unavailable: the process ended.
        """
        number = next(self._numbers)
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._evaluations[number] = answer
        if not self.alive:
            raise Unavailable("the evaluator's process has ended")
        frame = {"t": "evaluate", "a": number, "function": function, "record": record}
        try:
            await self._child.send(frame)
            async with asyncio.timeout(_EVALUATION_SECONDS):
                return await answer
        except TimeoutError:
            self.kill()
            raise TimeoutError(
                f"{function} gave no answer in {_EVALUATION_SECONDS:.0f} s"
            ) from None
        finally:
            self._evaluations.pop(number, None)
            self._used = self._clock()

    async def send(self, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        """Send a frame."""
        await self._child.send(header, blobs)

    async def receive(self, number: int) -> list[Frame]:
        """The next frames of one attempt; none when the process has ended."""
        queue = self._queues[number]
        if not self.alive and queue.empty():
            return []
        return await queue.get()

    def stop_attempt(self, number: int) -> None:
        """End an attempt at its next word; whoever reads its frames finds no more."""
        queue = self._queues.get(number)
        if queue is None:
            return
        _end_queue(queue)
        if number in self._stopping or number in self._finished:
            return
        self._stopping.add(number)
        task = asyncio.create_task(self._child.send({"t": "cancel", "a": number}))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)
        asyncio.get_running_loop().call_later(_DEAF_SECONDS, self._expect_stopped, number)

    def _expect_stopped(self, number: int) -> None:
        """A process whose loop does not even take a cancel is ended; its other attempts go on."""
        if number in self._stopping and self.alive:
            log.warning("a shared process is blocked by one of its attempts; it is ended")
            self.deaf = True
            self.kill()

    def release(self, number: int) -> None:
        """An attempt has left."""
        self._queues.pop(number, None)
        self._used = self._clock()
        self._finished.discard(number)

    async def status(self, seconds: float) -> int | None:
        """The exit status of the process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._child.exited)
        return None

    def kill(self) -> None:
        """End the process with all its attempts."""
        self._child.kill()

    async def close(self) -> None:
        """End the process and wait until it is gone."""
        self.kill()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._end()

    async def _read(self) -> None:
        try:
            while frames := await self._child.receive():
                for header, blobs in frames:
                    await self._dispatch(header, blobs)
        except FrameError as error:
            log.warning("a shared process sent no frame: %s", error)
            self.kill()
        self._end()

    async def _dispatch(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        number = header.get("a", 0)
        if header["t"] == "stopped":
            self._stopping.discard(number)
            return
        if header["t"] == "evaluated":
            answer = self._evaluations.get(number)
            if answer is not None and not answer.done():
                if header["ok"]:
                    answer.set_result(float(header["score"]))
                else:
                    error = header["error"]
                    answer.set_exception(ValueError(f"{error['type']}: {error['message']}"))
            return
        queue = self._queues.get(number)
        if queue is not None:
            if header["t"] == "finish":
                self._finished.add(number)
            await queue.put([(header, blobs)])

    def _end(self) -> None:
        self.alive = False
        self._child.close()
        self._output.close()
        for queue in self._queues.values():
            _end_queue(queue)
        for answer in self._evaluations.values():
            if not answer.done():
                answer.set_exception(Unavailable("the evaluator's process has ended"))


async def end_idle(processes: dict[tuple[str, str], SharedProcess]) -> None:
    """End shared processes that have had nothing to do for long: their releases can go then."""
    for key, process in tuple(processes.items()):
        if process.idle_seconds > IDLE_SECONDS:
            del processes[key]
            await process.close()


def _end_queue(queue: asyncio.Queue[list[Frame]]) -> None:
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait([])


class SharedHost:
    """One attempt's place in a shared process."""

    alone = False
    pid = None
    broken = None

    def __init__(self, process: SharedProcess, number: int) -> None:
        self._process = process
        self._number = number

    @property
    def innocent(self) -> bool:
        """Whether the process was ended for what another attempt did."""
        return self._process.deaf

    async def send(self, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        """Send a frame, under the number this attempt has in its process."""
        await self._process.send({**header, "a": self._number}, blobs)

    async def receive(self) -> list[Frame]:
        """The attempt's next frames; none at the end."""
        return await self._process.receive(self._number)

    def kill(self) -> None:
        """Stop this attempt; its neighbours go on."""
        self._process.stop_attempt(self._number)

    async def status(self, seconds: float) -> int | None:
        """The exit status of the process that was shared."""
        return await self._process.status(seconds)

    def watch(self, output: Output) -> None:
        """Nothing: lines come as frames that name the attempt."""

    def close(self) -> None:
        """Leave the process."""
        self._process.release(self._number)
