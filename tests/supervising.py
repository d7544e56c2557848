"""A supervisor without a process or a database: the real decisions over a dictionary."""

from __future__ import annotations

import contextvars
from dataclasses import replace

from penstock.domain.tool_calls import ToolCall
from penstock.inside import context
from penstock.inside.attempts import Attempt
from penstock.runtime.tool_calls import ToolCalls


class Calls(ToolCalls):
    """The decisions, over a dictionary."""

    async def _find(self, made):
        return self._journal.calls.get((made.place, made.request, made.number))

    async def _keep(self, call):
        self._journal.keep(call)


class Records:
    """What the attempts of one task have on record; also the journal of each of them."""

    def __init__(self):
        self.task_id = "task_1"
        self.base = 0
        self.calls: dict[tuple[str, str, int], ToolCall] = {}
        self.steps: list[dict] = []
        self.commits = 0
        self.epoch = 0

    def keep(self, call):
        self.commits += 1
        known = self.calls.get((call.place, call.request, call.number))
        begun = known.begun_us if known and call.state != "begun" else self.commits
        self.calls[call.place, call.request, call.number] = replace(call, begun_us=begun)

    def attempt(self, answers=None, **order) -> Attempt:
        """The next attempt at the task."""
        self.epoch += 1
        channel = Channel(self, Calls(self, epoch=self.epoch, answers=answers or {}))
        given = {"a": 1, "task": self.task_id, "steps": self.steps, **order}
        return Attempt(given, channel, on_stale=lambda: None)

    def run(self, work, answers=None, **order):
        """Run ``work`` as the code of the next attempt."""
        attempt = self.attempt(answers, **order)

        def inner():
            context.enter(attempt, alone=False)
            return work()

        return contextvars.copy_context().run(inner)

    def states(self):
        """Tool and state of every call."""
        return sorted((call.tool, call.state.value) for call in self.calls.values())


class Channel:
    """Answers at once what an attempt asks."""

    def __init__(self, records: Records, calls: ToolCalls):
        self._records = records
        self._calls = calls
        self.asked: list[dict] = []
        self.sent: list[dict] = []

    def call(self, header, blobs=()):
        self.asked.append(header)
        if header["op"] == "step.commit":
            done = {"key": header["key"], "output": header["output"]}
            self._records.steps = [*self._records.steps, done]
        if not header["op"].startswith("tool."):
            return {"ok": True}, []
        answer = _at_once(self._calls.answer(header, list(blobs)))
        return answer.header, list(answer.blobs)

    async def acall(self, header, blobs=()):
        return self.call(header, blobs)

    def send(self, header, blobs=()):
        self.sent.append(header)

    send_soon = send


def _at_once(work):
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")
