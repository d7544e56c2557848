"""Functions that are declared tools, called from anywhere in an agent."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from penstock.inside import context, tool_calls

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY = "idempotency_key"


class FunctionTool:
    """One function; equal calls are the same request however their arguments are passed."""

    def __init__(self, function: Callable[..., Any], mark: dict[str, str]) -> None:
        self._function = function
        self._tool = tool_calls.Tool(function.__name__, mark)
        self._signature = inspect.signature(function)
        self._takes_key = _KEY in self._signature.parameters

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a sync function."""
        return tool_calls.call(
            self._tool, self._arguments(args, kwargs), lambda: self._make(args, kwargs)
        )

    async def acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Await an async function."""
        return await tool_calls.acall(
            self._tool, self._arguments(args, kwargs), lambda: self._make(args, kwargs)
        )

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            TypeError: the function does not take them.
        """
        bind = self._signature.bind_partial if self._takes_key else self._signature.bind
        return dict(bind(*args, **kwargs).arguments)

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._takes_key and _KEY not in self._arguments(args, kwargs):
            kwargs = {**kwargs, _KEY: context.idempotency_key()}
        return self._function(*args, **kwargs)
