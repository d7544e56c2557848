"""Which attempt the running code belongs to, and which part of the agent's work it is."""

from __future__ import annotations

import sys
from contextvars import ContextVar

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from contextvars import Token
    from typing import Any

    from penstock.inside.attempts import Attempt

_current: ContextVar[Attempt | None] = ContextVar("penstock_attempt", default=None)

# A process that holds one attempt only. Threads an agent starts by itself do not inherit context
# variables, so the process remembers it too.
_alone: Attempt | None = None

# The step or tool call that the code is inside of, and the node of a graph that this was in.
_scope: ContextVar[tuple[str, str]] = ContextVar("penstock_scope", default=("", ""))

_key: ContextVar[str | None] = ContextVar("penstock_key", default=None)

_LANGCHAIN = "langchain_core.runnables.config"


def current() -> Attempt | None:
    """The attempt that the calling code belongs to; None outside of Penstock."""
    return _current.get() or _alone


def alone() -> bool:
    """Whether this process holds one attempt only."""
    return _alone is not None


def enter(attempt: Attempt, *, alone: bool) -> None:
    """Make ``attempt`` the current one: of this context, or (``alone``) of the whole process."""
    global _alone  # noqa: PLW0603 - one process, one attempt: that is what the flag means
    _current.set(attempt)
    if alone:
        _alone = attempt


def scope() -> str:
    """The part of the agent's work that the calling code is: the same at every attempt.

    It is made of the step or the tool call the code is inside of, and of the node of a graph that
    runs it, which LangGraph names by the checkpoint it began at. Empty for the agent's own course.
    """
    own, begun_in = _scope.get()
    node = graph_node()
    if not own:
        return node
    return own if node == begun_in else f"{own}|{node}"


def graph_node() -> str:
    """The node of a LangGraph graph that the calling code runs in; empty outside of one."""
    module = sys.modules.get(_LANGCHAIN)
    if module is None:
        return ""
    config = module.var_child_runnable_config.get()
    if not config:
        return ""
    known: str = (config.get("configurable") or {}).get("checkpoint_ns") or ""
    return known


def descend(scope: str) -> Token[tuple[str, str]]:
    """Be inside ``scope`` from now on, until :func:`ascend`."""
    return _scope.set((scope, graph_node()))


def ascend(token: Token[tuple[str, str]]) -> None:
    """Leave a scope again."""
    _scope.reset(token)


def hold_key(key: str | None) -> Token[str | None]:
    """Be inside the call of this key from now on, until :func:`drop_key`."""
    return _key.set(key)


def drop_key(token: Token[str | None]) -> None:
    """Leave a call again."""
    _key.reset(token)


def idempotency_key() -> str | None:
    """The key of the tool call that the calling code is inside of; None outside of one.

    It is the same whenever this very call is made again after a restart. Pass it to a service that
    recognises a request it has seen (often as the header ``Idempotency-Key``), and declare the tool
    ``retry="keyed"``.
    """
    return _key.get()


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
    return attempt.ask(question, scope())
