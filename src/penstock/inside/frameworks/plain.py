"""Plain callables: sync or async, a generator is a stream."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.inside.attempts import Attempt

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SINGLE = (inspect.Parameter.POSITIONAL_ONLY, *_NAMED)


class Stateless(Exception):
    """The agent keeps nothing between the tasks of a session."""


class PlainRunner:
    """Runs a function of the task's input.

    A function with one parameter gets the input as it is. One with several, or ``**name``, gets
    the members of an input object that fits them. Each item a generator yields is a delta, of the
    mode ``messages`` if it is a text and of ``custom`` if not; its output is the list of its
    items, or what a sync generator returned, if that is not None.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        called: Any = function
        if not inspect.isroutine(function):  # an object that can be called: ask its method
            called = type(function).__call__
        self.is_async = inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)
        self._members = _Members(function)

    def run(self, attempt: Attempt) -> Any:
        """Run a sync function to its end."""
        result = self._call(attempt.input)
        if inspect.isgenerator(result):
            return _drain(result, attempt)
        return result

    def look(self, attempt: Attempt) -> Any:
        """Refuse: there is no state.

        Raises:
            Stateless: always.
        """
        raise Stateless(f"session {attempt.session} has no state: its agent is a plain function")

    async def arun(self, attempt: Attempt) -> Any:
        """Run an async function to its end."""
        return await self.finish(self._call(attempt.input), attempt)

    async def finish(self, result: Any, attempt: Attempt) -> Any:
        """Await what an async function, or a sync one that hands out an awaitable, returned."""
        if inspect.isawaitable(result):
            result = await result
        if inspect.isasyncgen(result):
            items = []
            async for item in result:
                attempt.delta(item, _mode(item))
                items.append(item)
            return items
        return result

    def _call(self, given: Any) -> Any:
        if self._members.fit(given):
            return self._function(**given)
        return self._function(given)


def _drain(generator: Any, attempt: Attempt) -> Any:
    """The output of a sync generator, its items sent as they come."""
    items: list[Any] = []
    while True:
        try:
            item = next(generator)
        except StopIteration as end:
            return items if end.value is None else end.value
        attempt.delta(item, _mode(item))
        items.append(item)


def _mode(item: Any) -> str:
    """The mode in which an item of a generator is streamed: a text is what a model might say."""
    return "messages" if isinstance(item, str) else "custom"


class _Members:
    """Whether an input object is spread over a function's parameters.

    Raises:
        TypeError: the function takes no parameter that could hold the input.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # written in C, without a signature
            self._spreads = False
            return
        if not parameters:
            raise TypeError("the entrypoint takes no argument; it is called with the task's input")
        self._any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
        self._names = {one.name for one in parameters if one.kind in _NAMED}
        self._required = {
            one.name
            for one in parameters
            if one.kind in _SINGLE and one.default is inspect.Parameter.empty
        }
        only = parameters[0].kind if len(parameters) == 1 else None
        self._spreads = only not in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL)

    def fit(self, given: Any) -> bool:
        """Whether ``given`` is an object whose members are these parameters."""
        if not self._spreads or not isinstance(given, dict) or not self._required <= given.keys():
            return False
        return self._any or given.keys() <= self._names
