"""CrewAI's tools: run by name when a model calls functions, or as structured tools."""

from __future__ import annotations

import functools
from typing import Any

from penstock.inside import context, declarations, tool_calls


def patch(module: Any) -> None:
    """Journal the calls of the tool classes of one of CrewAI's two modules of tools."""
    for name in ("BaseTool", "Tool"):
        kind = getattr(module, name, None)
        if kind is not None and kind.__module__ == module.__name__:
            _wrap(kind, "run", _of_arguments)
            _wrap_async(kind, "arun", _of_arguments)
    structured = getattr(module, "CrewStructuredTool", None)
    if structured is not None and structured.__module__ == module.__name__:
        _wrap(structured, "invoke", _of_input)
        _wrap_async(structured, "ainvoke", _of_input)


def _wrap(kind: Any, name: str, arguments: Any) -> None:
    run = kind.__dict__.get(name)
    if run is None:
        return

    @functools.wraps(run)
    def journaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if context.current() is None:
            return run(self, *args, **kwargs)
        return tool_calls.call(
            _tool(self), arguments(args, kwargs), lambda: run(self, *args, **kwargs)
        )

    setattr(kind, name, journaled)


def _wrap_async(kind: Any, name: str, arguments: Any) -> None:
    run = kind.__dict__.get(name)
    if run is None:
        return

    @functools.wraps(run)
    async def journaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if context.current() is None:
            return await run(self, *args, **kwargs)
        return await tool_calls.acall(
            _tool(self), arguments(args, kwargs), lambda: run(self, *args, **kwargs)
        )

    setattr(kind, name, journaled)


def _tool(tool: Any) -> tool_calls.Tool:
    """A tool, with the object and the function it was made of."""
    made_of = [tool, getattr(tool, "_original_tool", None)]
    made_of += [getattr(one, "func", None) for one in made_of if one is not None]
    names = [one.__name__ for one in made_of if hasattr(one, "__name__")]
    return tool_calls.Tool(tool.name, declarations.of(tool.name, *made_of), names)


def _of_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return {**kwargs, "*": list(args)} if args else kwargs


def _of_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The input of a structured tool; its configuration names traces, not the request."""
    given = args[0] if args else kwargs.get("input")
    return given if isinstance(given, dict) else {"input": given}
