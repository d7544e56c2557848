"""One attempt at a task, from its order to its end.

The agent's process says what it has done; everything it says becomes true only by a commit under
the task's epoch. An attempt that finds its epoch gone stops in silence: whatever happens to the
task now is another's to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from penstock.domain.errors import Conflict, Damaged, Stale, Unavailable
from penstock.domain.exchanges import Caller
from penstock.domain.releases import Limits
from penstock.domain.tasks import Claim, Delta, Ending, Task
from penstock.inside.frames import FrameError
from penstock.rules.limits import Broken, Terms, has_larger
from penstock.rules.tasks import After, after_attempt, handed_back
from penstock.runtime.calls import Answer, answer_call
from penstock.runtime.endings import Over, of_limit, reported, stopped, unreported
from penstock.runtime.journals import Journal, Said, StepRefused
from penstock.runtime.outputs import Output
from penstock.runtime.tool_calls import ToolCalls
from penstock.store import Store

log = logging.getLogger(__name__)

_SAID_MOST = 512  # events that may wait for the next step
_PRINT_SECONDS = 1.0
_EXIT_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
_LATE_SECONDS = 0.5


class Host(Protocol):
    """The process that runs an attempt: its own, or one it shares."""

    @property
    def alone(self) -> bool:
        """Whether the process ends with the attempt."""
        ...

    @property
    def pid(self) -> int | None:
        """The process, if the attempt has it for itself."""
        ...

    @property
    def broken(self) -> tuple[str, float] | None:
        """The limit that ended the process, and how much of it had been used."""
        ...

    @property
    def innocent(self) -> bool:
        """Whether the process was ended for what another attempt in it did."""
        ...

    async def send(self, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        """Send a frame to the attempt."""
        ...

    async def receive(self) -> list[tuple[dict[str, Any], list[bytes]]]:
        """The attempt's next frames; none when there will be no more."""
        ...

    def kill(self) -> None:
        """End the attempt at once."""
        ...

    async def status(self, seconds: float) -> int | None:
        """The exit status, waited for; None when the process went down with others."""
        ...

    def watch(self, output: Output) -> None:
        """Let what is printed go to ``output``."""
        ...

    def close(self) -> None:
        """Give back what the attempt held."""
        ...


class Attempt:
    """A claim being worked on."""

    def __init__(
        self,
        store: Store,
        claim: Claim,
        *,
        terms: Terms,
        claimed_at: float,
        publish: Callable[[Delta], None],
        on_modules: Callable[[list[str]], None],
        owned: Callable[[], bool] = lambda: True,
    ) -> None:
        """``owned()`` says whether the worker's lease can be trusted at this moment."""
        self.task: Task = claim.task
        self.epoch = claim.epoch
        self._claim = claim
        self._terms = terms
        self._publish = publish
        self._on_modules = on_modules
        self._owned = owned
        self._journal = Journal(store, claim, terms)
        self._tool_calls = ToolCalls(self._journal, epoch=claim.epoch, answers=claim.answers)
        self._output = Output(limit_bytes=terms.limits.output_bytes)
        self._said: Said = []
        self._host: Host | None = None
        self._ending: Ending | None = None  # what we did to it, if anything
        self._reason = ""
        self._broken: Broken | None = None  # the limit that ended it
        self._leave_at_step = False
        self._claimed_at = claimed_at  # by the event loop's clock
        self._waited_us = 0

    @property
    def pid(self) -> int | None:
        """The attempt's own process, once it runs."""
        return None if self._host is None else self._host.pid

    @property
    def limits(self) -> Limits:
        """What it may use."""
        return self._terms.limits

    @property
    def owner(self) -> str | None:
        """The name under which its worker took the task."""
        return self.task.worker_id

    @property
    def caller(self) -> Caller:
        """Who this is, for the gateway."""
        task = self.task
        return Caller(
            task_id=task.id,
            session_id=task.session_id,
            agent=task.agent,
            environment=task.environment,
            release=task.release,
            epoch=self.epoch,
            step=self._journal.place,
        )

    # ------------------------------------------------------------ from outside

    def cancel(self) -> None:
        """End it: somebody asked for that."""
        self._stop(Ending.CANCELLED, "cancelled")

    def lose(self, reason: str) -> None:
        """End it because its worker may not own the task any more; safe in any thread."""
        if self._ending is None:
            self._ending, self._reason = Ending.LOST, reason
        if self._host is not None and self._host.alone:
            self._host.kill()  # a shared process is its worker's to end

    def hand_back(self, *, at_step: bool) -> None:
        """Give the task back to the queue, at once or when its next step is committed."""
        if at_step:
            self._leave_at_step = True
        else:
            self._stop(Ending.LOST, "the worker is stopping")

    # ------------------------------------------------------------ life

    async def run(self, host: Host, *, token: str) -> None:
        """Work on the task until it has ended, or is another's."""
        self._host = host
        host.watch(self._output)
        printing = asyncio.create_task(self._print(), name=f"logs-{self.task.id}")
        seconds = self._terms.limits.time_seconds
        # A process of its own has a warden that does not depend on this loop.
        after = seconds + _LATE_SECONDS if host.alone else seconds
        deadline = asyncio.get_running_loop().call_later(after, self._expire)
        try:
            finish = None if self._ending else await self._serve(host, token)
        except Stale as error:
            log.info("%s", error)
            host.kill()
            return
        finally:
            deadline.cancel()
            printing.cancel()
        await self._conclude(host, finish)

    async def abandon(self, error: Exception, *, ours: bool | None = None) -> None:
        """End an attempt that never got a process.

        Args:
            error: what stood in the way.
            ours: whether it was this machine's fault, so that the task is better off elsewhere,
                or later; None: it was if the error says that something was not there.
        """
        failure = {"type": type(error).__name__, "message": str(error), "traceback": ""}
        if isinstance(failure_output := getattr(error, "output", None), str):
            failure["traceback"] = failure_output
        # A process that did not start, or has just ended, says nothing about the task.
        lost = isinstance(error, Unavailable) if ours is None else ours
        ending = Ending.LOST if lost else Ending.CRASH
        await self._commit_end(Over(ending=ending, error=failure))

    async def _serve(self, host: Host, token: str) -> dict[str, Any] | None:
        """Answer the process until it reports its end; None if it ended without a report."""
        replay = await self._journal.replay() if self.epoch > 1 else []
        await self._tell(host, self._order(replay, token))
        now = asyncio.get_running_loop().time()
        self._waited_us = int((now - self._claimed_at) * 1_000_000)
        while True:
            try:
                frames = await host.receive()
            except FrameError as error:
                self._stop(Ending.CRASH, f"the process sent no frame: {error}")
                return None
            if not frames:
                return None
            for header, blobs in frames:
                if header["t"] == "finish":
                    return header
                await self._on_frame(host, header, blobs)

    async def _on_frame(self, host: Host, header: dict[str, Any], blobs: list[bytes]) -> None:
        match header["t"]:
            case "delta":
                self._publish(
                    Delta(
                        task_id=self.task.id,
                        epoch=self.epoch,
                        step=self._journal.steps,
                        mode=str(header.get("mode", "custom")),
                        namespace=tuple(map(str, header.get("ns") or ())),
                        data=header["data"],
                    )
                )
            case "event":
                self._said.append((str(header["kind"]), header["data"]))
                if len(self._said) >= _SAID_MOST:
                    await self._journal.commit_events(self._take_said())
            case "log":
                self._output.add(header["stream"], header["text"])
            case "call":
                await self._on_call(host, header, blobs)
            case "modules":
                self._on_modules(header["names"])

    async def _on_call(self, host: Host, header: dict[str, Any], blobs: list[bytes]) -> None:
        reply = {"t": "reply", "a": header["a"], "id": header["id"]}
        before = self._journal.steps
        try:
            if header["op"].startswith("tool."):
                answer = await self._tool_calls.answer(header, blobs)
            else:
                answer = await answer_call(self._journal, header, blobs, said=self._take_said)
        except Stale as error:
            await host.send(
                {**reply, "ok": False, "error": {"type": "stale", "message": str(error)}}
            )
            raise
        except StepRefused as error:
            answer = self._refuse_step(error)
        except (Conflict, Damaged, KeyError, TypeError, ValueError) as error:
            answer = Answer({"ok": False, "error": {"type": "invalid", "message": str(error)}})
        if self._leave_at_step and self._journal.steps > before:
            # Unanswered: the process must not begin what the next owner will do.
            self._stop(Ending.LOST, "the worker is stopping")
            return
        await self._tell(host, {**reply, **answer.header}, tuple(answer.blobs))

    async def _tell(
        self, host: Host, header: dict[str, Any], blobs: tuple[bytes, ...] = ()
    ) -> None:
        """Let the process go on, unless this server has slept and another may have the task."""
        if self._owned():
            await host.send(header, blobs)
        else:
            self.lose("the lease could not be trusted")
            host.kill()

    async def _conclude(self, host: Host, finish: dict[str, Any] | None) -> None:
        """Say what has become of the attempt, then let its process go."""
        if self._broken is not None:
            output = (finish or {}).get("partial")
            over = of_limit(self._broken, output=output)
        elif finish is not None and self._ending is None:
            over = reported(finish, self._terms)
        else:
            over = await self._unreported(host)
        self._output.close() if finish is None else self._output.drain()
        try:
            await self._commit_end(over)
        except Stale as stale:
            log.info("%s", stale)
        if finish is not None and host.alone:
            await self._see_off(host)
        host.kill()
        self._output.close()

    async def _see_off(self, host: Host) -> None:
        """Take what a process says after its end, and do not wait for long."""
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                while frames := await host.receive():
                    for header, blobs in frames:
                        if header["t"] in ("modules", "log"):
                            await self._on_frame(host, header, blobs)
        except (TimeoutError, FrameError):
            return

    async def _commit_end(self, over: Over) -> None:
        await self._journal.end(
            self._after(over.ending),
            over.ending,
            output=over.output,
            error=over.error,
            said=self._take_said(),
            printed=self._output.take_last(),
            waited_us=self._waited_us,
            broken=over.broken,
            waits=over.waits,
        )

    def _after(self, ending: Ending) -> After:
        task = self.task
        if ending is Ending.LOST and self._ending is Ending.LOST:
            return handed_back(task)
        if self._journal.steps > task.steps:
            task = replace(task, losses=0)  # see rules/tasks: what gets on is no poison
        limits = self._terms.limits
        larger = has_larger(limits, task.resource_class)
        return after_attempt(task, ending, attempts=limits.attempts, larger=larger)

    # ------------------------------------------------------------ endings

    async def _unreported(self, host: Host) -> Over:
        if self._ending is not None:
            host.kill()
            return stopped(self._ending, self._reason)
        status = await host.status(_EXIT_SECONDS)
        if (broken := host.broken) is not None:
            return of_limit(self._terms.broken(*broken))
        if host.innocent:
            self._ending = Ending.LOST
            return stopped(Ending.LOST, "another attempt blocked the process that they shared")
        return unreported(status, self._terms)

    def _expire(self) -> None:
        self._break(self._terms.broken("time", self._terms.limits.time_seconds))

    def _break(self, broken: Broken) -> None:
        """End the attempt: it has broken a limit."""
        if self._ending is None and self._broken is None:
            self._broken = broken
        if self._host is not None:
            self._host.kill()

    def _refuse_step(self, refused: StepRefused) -> Answer:
        """No step more; the process may still say how far it came, but not for long."""
        if self._broken is None and self._ending is None:
            self._broken = refused.broken
            if self._host is not None:
                asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._host.kill)
        return Answer({"ok": False, "error": {"type": "limit", "message": str(refused)}})

    def _stop(self, ending: Ending, reason: str) -> None:
        if self._ending is None:
            self._ending, self._reason = ending, reason
        if self._host is not None:
            self._host.kill()

    # ------------------------------------------------------------ small things

    def _take_said(self) -> Said:
        said, self._said = self._said, []
        return said

    async def _print(self) -> None:
        """Commit what a long attempt prints while it runs."""
        while True:
            await asyncio.sleep(_PRINT_SECONDS)
            if pieces := self._output.take():
                await self._journal.commit_logs(pieces)

    def _order(self, replay: list[dict[str, Any]], token: str) -> dict[str, Any]:
        task = self.task
        return {
            "t": "order",
            "a": 1,
            "task": task.id,
            "session": task.session_id,
            "agent": task.agent,
            "release": task.release,
            "epoch": self.epoch,
            "input": task.input,
            "resume": self.epoch > 1,
            "steps": replay,
            "deadline_seconds": self._terms.limits.time_seconds,
            "answers": dict(self._claim.answers),
            "token": token,
            "stream": {"modes": task.stream.modes, "subgraphs": task.stream.subgraphs},
        }
