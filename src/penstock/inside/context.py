"""Which attempt the running code belongs to, and the step journal an agent's author uses."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from penstock.inside.attempts import Attempt

    P = ParamSpec("P")
    T = TypeVar("T")

_current: ContextVar[Attempt | None] = ContextVar("penstock_attempt", default=None)

# A process that holds one attempt only. Threads an agent starts by itself do not inherit context
# variables, so the process remembers it too.
_alone: Attempt | None = None


def current() -> Attempt | None:
    """The attempt that the calling code belongs to; None outside of Penstock."""
    return _current.get() or _alone


def enter(attempt: Attempt, *, alone: bool) -> None:
    """Make ``attempt`` the current one: of this context, or (``alone``) of the whole process."""
    global _alone  # noqa: PLW0603 - one process, one attempt: that is what the flag means
    _current.set(attempt)
    if alone:
        _alone = attempt


def step(name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``fn`` once per task: its result is journaled and not computed again after a restart.

    The journal knows a step by ``name`` and by how often that name has come up in this task, so a
    step must be reached in the same order every time. The result must be JSON (it comes back as
    JSON would give it: a tuple as a list). ``fn`` may be async; then await what this returns.
    Outside of Penstock this just calls.

    Raises:
        TypeError: the result is not JSON.
    """
    attempt = current()
    if attempt is None:
        return fn(*args, **kwargs)
    result: T = attempt.step(name, fn, args, kwargs)
    return result


def ask(question: Any) -> Any:
    """Ask a person, and return the answer.

    The first time this ends the attempt: the task waits, holding no process and no time limit,
    until somebody answers (``penstock task resume``, or the API). The next attempt begins from the
    top, is led past the steps that are on record, and gets the answer here; it is journaled like a
    step. Questions are known by their order, as steps are. In a LangGraph node this is its
    ``interrupt``.

    ``question`` is shown to the person as JSON; the answer is JSON, too. Outside of Penstock this
    asks on the terminal, and returns a text.
    """
    attempt = current()
    if attempt is None:
        return input(f"{question}\n> ")
    return attempt.ask(question)
