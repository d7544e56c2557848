"""A step as it is run: given back from the journal, or tried until it is done, and committed."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
from typing import TYPE_CHECKING, Any

from penstock.inside import context

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.inside.attempts import Attempt
    from penstock.inside.retries import Retry

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def run(
    attempt: Attempt | None,
    name: str,
    policy: Retry | None,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """See :func:`penstock.inside.steps.step`; outside of an attempt only the policy counts."""
    tries = _Tries(name, policy, attempt)
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(fn, "__call__", None)  # noqa: B004 - an object's async __call__, not callability
    )
    if attempt is None:
        return tries.arun(fn, args, kwargs) if is_async else tries.run(fn, args, kwargs)
    key = attempt.step_key(name, context.scope())
    if is_async:
        return _arun(attempt, key, tries, fn, (args, kwargs))
    return _run(attempt, key, tries, fn, (args, kwargs))


def _run(
    attempt: Attempt, key: str, tries: _Tries, fn: Callable[..., Any], given: Arguments
) -> Any:
    if attempt.has_journaled(key):
        # The supervisor counts along: a model call behind this step is known by its place.
        attempt.call("step.replayed", key=key)
        return attempt.journaled(key)
    attempt.check()  # not after the function has done what cannot be committed any more
    token = context.descend(key)
    try:
        result = tries.run(fn, *given)
    finally:
        context.ascend(token)
    output = as_journaled(tries.name, result)
    attempt.call("step.commit", key=key, output=output)
    return output


async def _arun(
    attempt: Attempt, key: str, tries: _Tries, fn: Callable[..., Any], given: Arguments
) -> Any:
    if attempt.has_journaled(key):
        await attempt.acall("step.replayed", key=key)
        return attempt.journaled(key)
    attempt.check()  # not after the function has done what cannot be committed any more
    token = context.descend(key)
    try:
        result = await tries.arun(fn, *given)
    finally:
        context.ascend(token)
    output = as_journaled(tries.name, result)
    await attempt.acall("step.commit", key=key, output=output)
    return output


class _Tries:
    """One step's tries, as its policy has them."""

    def __init__(self, name: str, policy: Retry | None, attempt: Attempt | None) -> None:
        self.name = name
        self._policy = policy
        self._attempt = attempt
        self._failures = 0

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call until it returns, or raises what is not tried again."""
        while True:
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                pause = self._pause(error)
                if pause is None:
                    raise
            time.sleep(pause)

    async def arun(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The same for an async function."""
        while True:
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                pause = self._pause(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    def _pause(self, error: Exception) -> float | None:
        """How long to wait before the next try; None when there is none."""
        policy, attempt = self._policy, self._attempt
        if policy is None or not isinstance(error, policy.on) or asks_a_person(error):
            return None
        self._failures += 1
        if self._failures >= policy.attempts:
            return None
        pause = policy.pause_seconds(self._failures, random.random())  # noqa: S311 - not a secret
        if attempt is None:
            return pause
        if pause >= attempt.seconds_left():
            return None  # it would be cut off while it waits: the error says more than that
        attempt.event(
            "step.retry",
            {
                "step": self.name,
                "failures": self._failures,
                "of": policy.attempts,
                "error": f"{type(error).__name__}: {error}",
                "wait_seconds": round(pause, 3),
            },
        )
        return pause


def asks_a_person(error: BaseException) -> bool:
    """Whether an error is LangGraph's way to stop a graph, and says nothing about what was done."""
    return any(
        kind.__name__ == "GraphBubbleUp" and kind.__module__.startswith("langgraph.")
        for kind in type(error).__mro__
    )


def as_journaled(name: str, output: Any) -> Any:
    """A step's result as its journal will give it back.

    Raises:
        TypeError: it is not JSON.
    """
    if inspect.isawaitable(output):
        if inspect.iscoroutine(output):
            output.close()
        raise TypeError(
            f"step {name!r}: give step() the async function itself, not a wrapper of it"
        )
    try:
        return json.loads(json.dumps(output, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"step {name!r} returned what JSON cannot hold: {error}") from error
