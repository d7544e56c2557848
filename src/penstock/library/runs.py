"""One attempt at a workflow: its journal, the channel its code speaks through, and its end."""

from __future__ import annotations

import contextlib
from typing import Any

from penstock.domain.errors import Conflict, PenstockError, Stale
from penstock.domain.releases import Limits
from penstock.domain.tasks import Claim, Ending, Task, TaskState
from penstock.inside.attempts import Attempt
from penstock.kit.crossings import Crossing
from penstock.rules.limits import Terms
from penstock.rules.tasks import After, after_attempt, handed_back
from penstock.runtime.calls import answer_call
from penstock.runtime.journals import Journal, Said
from penstock.store import Store

_TERMS = Terms(own=Limits(), caps={}, limits=Limits())


class WorkflowFailed(PenstockError):
    """A workflow that another process ran, or an earlier life of this one, has failed."""

    code = "workflow_failed"


class Run:
    """One attempt at a workflow: its journal, and the channel its code speaks through."""

    def __init__(self, store: Store, claim: Claim, own: Crossing | None) -> None:
        assert own is not None
        self.task_id = claim.task.id
        self.journal = Journal(store, claim, _TERMS)
        self._claim = claim
        self._own = own
        self._said: Said = []
        self._attempt: Attempt | None = None
        self._stopped = False

    def attempt(self, steps: list[dict[str, Any]]) -> Attempt:
        """The attempt as the workflow's code sees it."""
        task = self._claim.task
        order = {
            "a": 1,
            "task": task.id,
            "session": task.session_id,
            "input": task.input,
            "resume": self._claim.epoch > 1,
            "steps": steps,
        }
        channel: Any = self  # its calls, without a socket
        self._attempt = Attempt(order, channel, on_stale=lambda: None)
        self._attempt.stopped = self._stopped
        return self._attempt

    def stop(self) -> None:
        """Raise at the next step."""
        self._stopped = True
        if self._attempt is not None:
            self._attempt.stopped = True

    def call(self, header: dict[str, Any], _blobs: Any = ()) -> Any:
        """Answer a call, holding up this thread."""
        return self._own.hold(self._answer(header))

    async def acall(self, header: dict[str, Any], _blobs: Any = ()) -> Any:
        """Answer a call, leaving the caller's event loop free."""
        return await self._own.call(self._answer(header))

    def send(self, header: dict[str, Any], _blobs: Any = ()) -> None:
        """Keep an event for the next commit; nobody listens to the rest."""
        if header["t"] == "event":
            self._said.append((str(header["kind"]), header["data"]))

    async def end(
        self, ending: Ending, *, output: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        """Commit the end; one that is another's by now is left alone."""
        await self._end(after_attempt(self._claim.task, ending, attempts=1), ending, output, error)

    async def give_back(self) -> None:
        """Let another attempt go on; one that somebody has cancelled ends with that."""
        error = {"type": "Lost", "message": "the attempt was stopped", "traceback": ""}
        await self._end(handed_back(self._claim.task), Ending.LOST, None, error)

    async def _end(
        self, after: After, ending: Ending, output: Any, error: dict[str, Any] | None
    ) -> None:
        with contextlib.suppress(Stale):
            await self.journal.end(
                after, ending, output=output, error=error, said=self._take(), printed=(),
                waited_us=0,
            )  # fmt: skip

    async def _answer(self, header: dict[str, Any]) -> Any:
        try:
            answer = await answer_call(self.journal, header, [], said=self._take)
        except Stale as error:
            return {"ok": False, "error": {"type": "stale", "message": str(error)}}, []
        except (Conflict, KeyError, TypeError, ValueError) as error:
            return {"ok": False, "error": {"type": "invalid", "message": str(error)}}, []
        return answer.header, list(answer.blobs)

    def _take(self) -> Said:
        said, self._said = self._said, []
        return said


def outcome(task: Task) -> Any:
    """What a workflow that has ended returned.

    Raises:
        WorkflowFailed: it did not complete.
    """
    if task.state is TaskState.COMPLETED:
        return task.output
    error = task.error or {}
    kind, message = error.get("type", task.outcome), error.get("message", "")
    raise WorkflowFailed(f"workflow {task.id} has failed: {kind}: {message}")


def no_person() -> dict[str, Any]:
    """What a workflow is told that asks a person."""
    message = "ask() needs a server: in a library nobody could answer"
    return {"type": "WorkflowFailed", "message": message, "traceback": ""}
