"""Crews and flows under the journal, on a stand-in that has the classes and methods of CrewAI.

``tests/e2e/test_real_crewai.py`` runs the package itself; it is large, so that is a target of its own.
"""

from __future__ import annotations

import asyncio
import sys
import textwrap

import pytest

from penstock.inside import context
from penstock.inside.frameworks import crewai, hooks
from supervising import Records

FAKE = {
    "__init__": "from crewai.task import Task\nfrom crewai.crew import Crew\n",
    "tasks/__init__": "",
    "tasks/task_output": """
        from pydantic import BaseModel
        class TaskOutput(BaseModel):
            name: str
            raw: str
            agent: str = "agent"
            json_dict: dict | None = None
            pydantic: BaseModel | None = None
            messages: list = []
    """,
    "task": """
        import hashlib, threading, contextvars
        from concurrent.futures import Future
        from crewai.tasks.task_output import TaskOutput
        class Task:
            name = output = output_pydantic = None
            def __init__(self, description, work, name=None, output_pydantic=None):
                self.description, self.work, self.name = description, work, name
                self.output_pydantic = output_pydantic
            @property
            def key(self):
                return hashlib.md5(self.description.encode()).hexdigest()
            def execute_sync(self, agent, given, tools):
                return self._execute_core(agent, given, tools)
            async def aexecute_sync(self, agent, given, tools):
                return await self._aexecute_core(agent, given, tools)
            def execute_async(self, agent, given, tools):
                future = Future()
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(
                    self._execute_task_async, agent, given, tools, future)).start()
                return future
            def _execute_task_async(self, agent, given, tools, future):
                try:
                    future.set_result(self._execute_core(agent, given, tools))
                except Exception as error:
                    future.set_exception(error)
            def _execute_core(self, agent, given, tools):
                result = self.work(given)
                pydantic = result if self.output_pydantic else None
                raw = result.model_dump_json() if pydantic else result
                self.output = TaskOutput(
                    name=self.description, raw=raw, pydantic=pydantic, messages=[object])
                return self.output
            async def _aexecute_core(self, agent, given, tools):
                return self._execute_core(agent, given, tools)
    """,
    "crew": """
        from types import SimpleNamespace
        class Usage:
            def model_dump(self, mode): return {"total_tokens": 3}
        class Crew:
            def __init__(self, tasks): self.tasks = tasks
            def copy(self): return Crew(self.tasks)
            def kickoff(self, inputs=None):
                outputs = []
                for task in self.tasks:
                    outputs.append(task.execute_sync(None, "\\n".join(o.raw for o in outputs), []))
                last = outputs[-1]
                return SimpleNamespace(raw=last.raw, json_dict=None, pydantic=last.pydantic,
                                       tasks_output=outputs, token_usage=Usage())
    """,
    "flow/__init__": "",
    "flow/runtime": """
        import asyncio, uuid
        class Flow:
            def __init__(self):
                self._state = {"id": str(uuid.uuid4())}
                self.outputs = []
            @property
            def state(self): return self._state
            def kickoff(self, inputs=None):
                self._state.update(inputs or {})
                return asyncio.run(self._run())
            async def _run(self):
                result = None
                for names in self.ORDER:
                    done = await asyncio.gather(*(
                        self._execute_method(name, getattr(self, name), *([result] if result else []))
                        for name in names))
                    result = done[-1][0]
                return result
            async def _execute_method(self, name, method, *args, **kwargs):
                if asyncio.iscoroutinefunction(method):
                    result = await method(*args, **kwargs)
                else:
                    result = await asyncio.to_thread(method, *args, **kwargs)
                self.outputs.append(result)
                return result, None
            def _copy_and_serialize_state(self): return dict(self._state)
            def _restore_state(self, stored):
                self._state.clear()
                self._state.update(stored)
    """,
    "flow/flow": "from crewai.flow import runtime\nclass Flow(runtime.Flow):\n    pass\n",
}


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def records():
    return Records()


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The stand-in, imported as a release's zygote imports the real one."""
    for name, text in FAKE.items():
        file = tmp_path / "crewai" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hooks, "_patched", set(hooks._patched))
    hooks.install()

    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "crewai"]:
        del sys.modules[name]


def crew_of(*works, **more):
    from crewai.crew import Crew  # noqa: PLC0415 - the stand-in
    from crewai.task import Task  # noqa: PLC0415 - the stand-in

    return Crew([Task(f"do {number}", work, **more) for number, work in enumerate(works)])


def run(records, target, given=None):
    return records.run(lambda: crewai.runner(target).run(context.current()), input=given)


def test_a_finished_task_is_not_run_again_and_is_context_for_the_next(records):
    done, falls = [], [True]

    def first(given):
        done.append(("first", given))
        return "facts"

    def second(given):
        done.append(("second", given))
        if falls:
            falls.clear()
            raise Killed
        return f"report on {given}"

    with pytest.raises(Killed):
        run(records, crew_of(first, second))
    output = run(records, lambda: crew_of(first, second))
    assert done == [("first", ""), ("second", "facts"), ("second", "facts")]
    assert output["raw"] == "report on facts"
    assert [task["raw"] for task in output["tasks"]] == ["facts", "report on facts"]
    assert output["usage"] == {"total_tokens": 3}
    assert len(records.steps) == 2


def test_a_models_output_comes_back_as_the_model(records):
    from pydantic import BaseModel  # noqa: PLC0415 - of the agent's environment

    class Answer(BaseModel):
        number: int

    made = []

    def work(_):
        made.append(1)
        return Answer(number=42)

    crew = crew_of(work, output_pydantic=Answer)
    for _ in range(2):
        assert run(records, crew)["json"] == {"number": 42}
        assert isinstance(crew.tasks[0].output.pydantic, Answer)
    assert len(made) == 1


def test_tasks_side_by_side_are_known_by_what_they_ask(records):
    done = []
    crew = crew_of(lambda _: done.append("a") or "a", lambda _: done.append("b") or "b")

    def work(order):
        futures = [crew.tasks[number].execute_async(None, "", []) for number in order]
        return [future.result().raw for future in futures]

    assert records.run(lambda: work([0, 1])) == ["a", "b"]
    assert records.run(lambda: work([1, 0])) == ["b", "a"]
    assert sorted(done) == ["a", "b"]


def test_a_question_in_a_task_beside_others_is_heard(records):
    def asks(_):
        raise Killed  # not an Exception, as what asks a person is none

    crew = crew_of(asks)
    with pytest.raises(Killed):
        records.run(lambda: crew.tasks[0].execute_async(None, "", []).result(10))


def test_async_tasks_are_committed_as_well(records):
    done = []
    crew = crew_of(lambda _: done.append(1) or "x")
    for _ in range(2):
        output = records.run(lambda: asyncio.run(crew.tasks[0].aexecute_sync(None, "", [])))
        assert output.raw == "x"
    assert len(done) == 1


def flow_of(done, falls, order=(("fetch",), ("write",))):
    from crewai.flow.flow import Flow  # noqa: PLC0415 - the stand-in

    class Report(Flow):
        ORDER = order

        def fetch(self):
            done.append("fetch")
            self.state["facts"] = ["one"]
            return {"count": 1}

        async def other(self):
            done.append("other")
            self.state["other"] = self.state["topic"]
            return "other"

        async def write(self, found):
            done.append(("write", found, dict(self.state, id=None)))
            if falls:
                falls.clear()
                raise Killed
            return f"{len(self.state['facts'])} of {self.state['topic']}"

    return Report


def test_a_finished_method_is_not_run_again_and_the_state_is_as_it_left_it(records):
    done, falls = [], [True]
    flow = flow_of(done, falls)
    with pytest.raises(Killed):
        run(records, flow, {"topic": "rain"})
    assert run(records, flow(), {"topic": "rain"}) == "1 of rain"
    state = {"topic": "rain", "facts": ["one"], "id": None}
    assert done == ["fetch", ("write", {"count": 1}, state), ("write", {"count": 1}, state)]
    assert [step["key"] for step in records.steps] == [
        "flow Report.fetch#1", "flow Report.write#1",
    ]  # fmt: skip


def test_methods_side_by_side_leave_one_state(records):
    done, falls = [], [True]
    flow = flow_of(done, falls, order=(("fetch", "other"), ("write",)))
    with pytest.raises(Killed):
        run(records, flow, {"topic": "rain"})
    assert run(records, flow, {"topic": "rain"}) == "1 of rain"
    assert sorted(done[:2]) == ["fetch", "other"]
    assert len(done) == 4
    assert done[3][2] == {"topic": "rain", "facts": ["one"], "other": "rain", "id": None}


def test_what_is_neither_is_left_to_others():
    for target in (print, lambda: 3, lambda given: given, 7, object):
        assert crewai.runner(target) is None


def test_a_text_is_the_input_of_that_name(records):
    flow = flow_of([], [])
    flow.ORDER = (("other",),)
    with pytest.raises(KeyError, match="topic"):
        run(records, flow, "rain")
