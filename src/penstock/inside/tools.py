"""The mark that says what a tool does to the world and whether it may be repeated."""

from __future__ import annotations

from penstock.inside.context import current

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeVar

    Tool = TypeVar("Tool")

EFFECTS = ("read", "write")
RETRIES = ("safe", "keyed", "never")

# Of a function's code object: see inspect.CO_GENERATOR and its kin.
_GENERATES = 0x20 | 0x200
_COROUTINE = 0x80


def tool(
    *,
    effect: Literal["read", "write"] = "write",
    retry: Literal["safe", "keyed", "never"] = "never",
) -> Callable[[Tool], Tool]:
    """Declare a function, or a framework's tool object, a tool.

    In a task its calls are journaled: one that has returned is not made again after a restart. A
    parameter named ``idempotency_key`` is filled in by Penstock and hidden from the model. Outside
    of Penstock the function is what it was. A generator is declared, but its calls are not
    journaled: what it yields has no one result.

    Args:
        effect: ``read`` changes nothing outside, ``write`` does.
        retry: ``safe`` may be repeated freely; ``keyed`` may be repeated with its idempotency key;
            ``never`` must not be repeated: an interrupted call waits for a person.

    Raises:
        ValueError: another word than these.
    """
    check(effect, retry)
    mark: dict[str, str] = {"effect": effect, "retry": retry}

    def declare(target: Tool) -> Tool:
        marked: Any = target
        code = getattr(marked, "__code__", None)
        if code is not None and not code.co_flags & _GENERATES:
            marked = _journaling(marked, mark)
        try:
            marked.__penstock_tool__ = mark
        except (AttributeError, ValueError):
            # A framework's tool may be a model that takes its own fields only.
            object.__setattr__(marked, "__penstock_tool__", mark)
        made: Tool = marked
        return made

    return declare


def check(effect: object, retry: object) -> None:
    """Refuse other words than those that there are.

    Raises:
        ValueError: one of them is another.
    """
    if effect not in EFFECTS:
        raise ValueError(f"a tool's effect is one of {', '.join(EFFECTS)}, not {effect!r}")
    if retry not in RETRIES:
        raise ValueError(f"a tool's retry is one of {', '.join(RETRIES)}, not {retry!r}")


def _journaling(function: Any, mark: dict[str, str]) -> Any:
    """A function that is the given one, and whose calls in an attempt are journaled."""
    import functools  # noqa: PLC0415 - only who declares tools pays for it

    made = None

    def journaled() -> Any:
        nonlocal made
        if made is None:
            from penstock.inside.frameworks.functions import FunctionTool  # noqa: PLC0415 - in an attempt only

            made = FunctionTool(function, mark)
        return made

    if function.__code__.co_flags & _COROUTINE:

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            if current() is None:
                return await function(*args, **kwargs)
            return await journaled().acall(args, kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if current() is None:
                return function(*args, **kwargs)
            return journaled().call(args, kwargs)

    _hide_key(wrapper, function)
    return wrapper


def _hide_key(wrapper: Any, function: Any) -> None:
    """Leave ``idempotency_key`` out of what a framework reads a schema from."""
    code = function.__code__
    if "idempotency_key" not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return
    import inspect  # noqa: PLC0415 - only who takes the key pays for it

    known = inspect.signature(function)
    shown = [one for one in known.parameters.values() if one.name != "idempotency_key"]
    wrapper.__signature__ = known.replace(parameters=shown)
    wrapper.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if name != "idempotency_key"
    }
