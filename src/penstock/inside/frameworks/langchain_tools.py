"""LangChain's tools: whatever runs one, ``ToolNode`` included, ends in ``run`` or ``arun``."""

from __future__ import annotations

import functools
from typing import Any

from penstock.inside import context, declarations, tool_calls

_KEY = "idempotency_key"


def patch(module: Any) -> None:
    """Journal the calls of every tool; ``module`` is ``langchain_core.tools.base``."""
    base, form = module.BaseTool, module._format_output  # noqa: SLF001 - what run() ends with
    run, arun = base.run, base.arun

    def as_output(tool: Any, result: Any, asked: dict[str, Any]) -> Any:
        """What a person says that a call returned, in the form that run() gives it."""
        return form(result, None, asked.get("tool_call_id"), tool.name, "success")

    @functools.wraps(run)
    def journaled(self: Any, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        if context.current() is None:
            return run(self, tool_input, *args, **kwargs)

        def make() -> Any:
            return run(self, _with_key(self, tool_input), *args, **kwargs)

        result = tool_calls.call(_tool(self), _arguments(self, tool_input), make)
        return _addressed(as_output(self, result, kwargs), kwargs.get("tool_call_id"))

    @functools.wraps(arun)
    async def ajournaled(self: Any, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        if context.current() is None:
            return await arun(self, tool_input, *args, **kwargs)

        async def make() -> Any:
            return await arun(self, _with_key(self, tool_input), *args, **kwargs)

        result = await tool_calls.acall(_tool(self), _arguments(self, tool_input), make)
        return _addressed(as_output(self, result, kwargs), kwargs.get("tool_call_id"))

    base.run, base.arun = journaled, ajournaled


def _functions(tool: Any) -> list[Any]:
    """The functions that a tool was made of, if it was."""
    found = (getattr(tool, "func", None), getattr(tool, "coroutine", None))
    return [one for one in found if one is not None]


def _tool(tool: Any) -> tool_calls.Tool:
    functions = _functions(tool)
    names = [one.__name__ for one in functions if hasattr(one, "__name__")]
    return tool_calls.Tool(tool.name, declarations.of(tool.name, tool, *functions), names)


def _arguments(tool: Any, given: Any) -> Any:
    """What the model asked for, without what the graph puts in (state, store, runtime)."""
    if not isinstance(given, dict):
        return {"input": given}
    hide = getattr(tool, "_filter_injected_args", None)
    return given if hide is None else hide(given)


def _with_key(tool: Any, given: Any) -> Any:
    """The input with the call's key, for a function that takes it and was not given one."""
    if not isinstance(given, dict) or _KEY in given:
        return given
    for function in _functions(tool) or [tool._run]:  # noqa: SLF001 - what a subclass implements
        code = getattr(function, "__code__", None)
        if code is None or hasattr(function, "__penstock_tool__"):
            continue  # what is declared is given it by its own declaration
        if _KEY in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            return {**given, _KEY: context.idempotency_key()}
    return given


def _addressed(result: Any, call_id: str | None) -> Any:
    """A result that answers this very call of the model.

    Equal requests are told apart by their order only, so what is on record may be the answer to the
    model's other, equal request, and name that one.
    """
    if call_id is None:
        return result
    known = getattr(result, "tool_call_id", None)
    if known is not None and known != call_id:
        return result.model_copy(update={"tool_call_id": call_id})
    update = getattr(result, "update", None)
    if isinstance(update, dict):
        answers = [one for one in update.get("messages") or () if hasattr(one, "tool_call_id")]
        if len(answers) == 1 and answers[0].tool_call_id != call_id:
            answers[0].tool_call_id = call_id
    return result
