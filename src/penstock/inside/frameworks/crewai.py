"""CrewAI: crews and flows, committed task by task and method by method.

A finished task of a crew is a step: after a restart its output is read from the journal, is given
to later tasks as context, and no agent works on it again. A finished method of a flow is a step
that holds its result and the flow's state. This lies under CrewAI's own classes, so it also counts
for a crew that a plain function or a flow's method kicks off.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import copy
import functools
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from penstock.inside import context, encodings
from penstock.inside.frameworks.plain import Stateless

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.inside.attempts import Attempt

_PACKAGE = "crewai."
_RESTORED = "_penstock_restored"


def runner(target: Any) -> CrewRunner | None:
    """What runs an entrypoint that is a crew or a flow, or a function or class that makes one.

    None if it is neither.
    """
    if "crewai" not in sys.modules:
        return None
    if _is_a(target, "Crew"):
        return CrewRunner(lambda: _own(target))
    if isinstance(target, type) and _derives(target, "Flow"):
        return CrewRunner(target)
    if _is_a(target, "Flow"):
        return CrewRunner(lambda: target if context.alone() else type(target)())
    if getattr(target, "is_crew_class", False):  # a class under @CrewBase
        return CrewRunner(lambda: target().crew())
    return _made_by(target)


def _made_by(factory: Any) -> CrewRunner | None:
    """The runner of what a function without parameters returns, if that is CrewAI's."""
    if isinstance(factory, type) or not callable(factory):
        return None
    try:
        if inspect.signature(factory).parameters or inspect.iscoroutinefunction(factory):
            return None
    except (TypeError, ValueError):
        return None
    made = factory()
    return CrewRunner(factory) if _is_a(made, "Crew") or _is_a(made, "Flow") else None


def _own(crew: Any) -> Any:
    """A crew for this attempt alone."""
    return crew if context.alone() else crew.copy()


def _is_a(value: Any, name: str) -> bool:
    return not isinstance(value, type) and _derives(type(value), name)


def _derives(kind: type, name: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.startswith(_PACKAGE) for base in kind.__mro__
    )


class CrewRunner:
    """Kicks off a crew or a flow for every attempt."""

    is_async = False

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def run(self, attempt: Attempt) -> Any:
        """Run it to its end."""
        return _shown(self._make().kickoff(inputs=_inputs(attempt.input)))

    def look(self, attempt: Attempt) -> Any:
        """Refuse: what was done is in the task's steps.

        Raises:
            Stateless: always.
        """
        raise Stateless(f"session {attempt.session} has no state: its agent is a crew or a flow")

    async def arun(self, attempt: Attempt) -> Any:
        """Run it in a thread, where it may start an event loop of its own."""
        return await asyncio.to_thread(self.run, attempt)


def _inputs(given: Any) -> dict[str, Any] | None:
    """A task's input as a crew takes it: a text is its ``{input}``."""
    if given is None or isinstance(given, dict):
        return given
    return {"input": given}


def _shown(result: Any) -> Any:
    """A crew's output as clients read it: without the conversations that led to it."""
    if not (hasattr(result, "tasks_output") and hasattr(result, "raw")):
        return result
    return {
        "raw": result.raw,
        "json": result.json_dict or (result.pydantic and result.pydantic.model_dump(mode="json")),
        "tasks": [
            {"name": one.name, "agent": one.agent, "raw": one.raw} for one in result.tasks_output
        ],
        "usage": result.token_usage.model_dump(mode="json"),
    }


# ---------------------------------------------------------------- the classes of CrewAI


def patch(module: Any) -> None:
    """Commit what is finished; ``module`` is ``crewai.task`` or one with ``Flow``."""
    if (task := module.__dict__.get("Task")) is not None:
        _patch_task(task)
    flow = module.__dict__.get("Flow")
    if flow is not None and "_execute_method" in flow.__dict__:  # one that only inherits it is done
        _patch_flow(flow)


def _patch_task(task: Any) -> None:
    core, acore, in_thread = task._execute_core, task._aexecute_core, task._execute_task_async  # noqa: SLF001 - every way to run a task ends in these

    @functools.wraps(core)
    def journaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = context.current()
        if attempt is None:
            return core(self, *args, **kwargs)
        key = _task_key(attempt, self)
        if attempt.has_journaled(key):
            attempt.call("step.replayed", key=key)
            return _restored(self, attempt.journaled(key))
        token = context.descend(key)
        try:
            output = core(self, *args, **kwargs)
        finally:
            context.ascend(token)
        attempt.call("step.commit", key=key, output=_kept(output))
        return output

    @functools.wraps(acore)
    async def ajournaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = context.current()
        if attempt is None:
            return await acore(self, *args, **kwargs)
        key = _task_key(attempt, self)
        if attempt.has_journaled(key):
            await attempt.acall("step.replayed", key=key)
            return _restored(self, attempt.journaled(key))
        token = context.descend(key)
        try:
            output = await acore(self, *args, **kwargs)
        finally:
            context.ascend(token)
        await attempt.acall("step.commit", key=key, output=_kept(output))
        return output

    @functools.wraps(in_thread)
    def answering(self: Any, agent: Any, given: Any, tools: Any, future: Any) -> None:
        try:
            in_thread(self, agent, given, tools, future)
        except BaseException as error:  # noqa: BLE001 - a question to a person, too, must be heard
            future.set_exception(error)

    task._execute_core = journaled  # noqa: SLF001 - see above
    task._aexecute_core = ajournaled  # noqa: SLF001 - see above
    task._execute_task_async = answering  # noqa: SLF001 - see above


def _task_key(attempt: Attempt, task: Any) -> str:
    """A task is known by its name, or by what it asks for before its inputs are filled in."""
    return attempt.step_key(f"task {task.name or task.key[:16]}", context.scope())


def _kept(output: Any) -> dict[str, Any]:
    """A task's output as its journal holds it, without the conversation that led to it."""
    kept: dict[str, Any] = output.model_dump(mode="json", exclude={"pydantic", "messages"})
    if output.pydantic is not None:
        kept["pydantic"] = output.pydantic.model_dump(mode="json")
    return kept


def _restored(task: Any, kept: dict[str, Any]) -> Any:
    """The output of a task that an earlier attempt has finished, given to the task."""
    fields = dict(kept)
    model = task.output_pydantic
    if fields.get("pydantic") is not None and model is not None:
        fields["pydantic"] = model.model_validate(fields["pydantic"])
    else:
        fields.pop("pydantic", None)
    output = sys.modules["crewai.tasks.task_output"].TaskOutput(**fields)
    task.output = output
    return output


def _patch_flow(flow: Any) -> None:
    execute = flow._execute_method  # noqa: SLF001 - every method of a flow is run by it

    @functools.wraps(execute)
    async def journaled(self: Any, name: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = context.current()
        if attempt is None:
            return await execute(self, name, method, *args, **kwargs)
        kind = type(self).__name__
        _restore(attempt, self, f"flow {kind}.")
        key = attempt.step_key(f"flow {kind}.{name}", context.scope())

        # CrewAI keeps its own account of what was run: only the author's method is left out.
        async def once(*given: Any, **named: Any) -> Any:
            return await _once(attempt, key, self, method, given, named)

        return await execute(self, name, once, *args, **kwargs)

    flow._execute_method = journaled  # noqa: SLF001 - see above


async def _once(
    attempt: Attempt,
    key: str,
    flow: Any,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """What a method returned, or returns now."""
    if attempt.has_journaled(key):
        await attempt.acall("step.replayed", key=key)
        kept = attempt.journaled(key)["result"]
        return encodings.unpack(kept["encoding"], base64.b64decode(kept["data"]))
    token = context.descend(key)
    try:
        if inspect.iscoroutinefunction(method):
            result = await method(*args, **kwargs)
        else:
            run = contextvars.copy_context().run
            result = await asyncio.to_thread(run, functools.partial(method, *args, **kwargs))
        if inspect.iscoroutine(result):
            result = await result
    finally:
        context.ascend(token)
    state = _json(flow._copy_and_serialize_state())  # noqa: SLF001 - as its own persistence does
    packed = encodings.pack(result)
    if packed is None or state is None:
        what = "state" if state is None else "result"
        print(  # noqa: T201 - the agent's log
            f"penstock: the {what} of {key} cannot be kept; after a restart it is run again",
            file=sys.stderr,
        )
        return result
    kept = {"encoding": packed[0], "data": base64.b64encode(packed[1]).decode("ascii")}
    await attempt.acall("step.commit", key=key, output={"result": kept, "state": state})
    return result


def _restore(attempt: Attempt, flow: Any, prefix: str) -> None:
    """Give a flow, before its first method, the state after the last one that is committed."""
    if getattr(flow, _RESTORED, False):
        return
    object.__setattr__(flow, _RESTORED, True)
    scope = context.scope()
    last = attempt.last_journaled(f"{scope}/{prefix}" if scope else prefix)
    if last is not None:
        flow._restore_state(copy.deepcopy(last["state"]))  # noqa: SLF001 - as its own persistence does


def _json(value: Any) -> Any:
    """A state as JSON; None if it is none."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return None
