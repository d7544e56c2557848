"""Penstock, the release gate for AI agents. This is the whole of it that an agent's author imports.

::

    from penstock import ask, prompt, step, tool

    SYSTEM = prompt("system")                       # the text pinned in the release

    @tool(effect="read", retry="safe")
    def order_status(number: int) -> str: ...

    def agent(question: str) -> str:
        facts = step("look-up", order_status, 1042)  # journaled: not run again after a crash
        if ask({"refund": facts}) == "yes":          # the task waits until a person has answered
            ...

Everything here also works in plain ``python agent.py``: prompts are read from ``prompts/`` next to
the working directory, a step is an ordinary call, a question is asked on the terminal,
and memory lasts as long as the process.
Importing this needs the standard library only and takes a few milliseconds; the platform itself
lives below and is not imported.
"""

from __future__ import annotations

from penstock.inside.attachments import attachment
from penstock.inside.context import ask, idempotency_key
from penstock.inside.prompts import prompt
from penstock.inside.retries import Retry
from penstock.inside.steps import step
from penstock.inside.tools import tool

__version__ = "0.1.0"

__all__ = [
    "Retry",
    "__version__",
    "ask",
    "attachment",
    "idempotency_key",
    "memory",
    "prompt",
    "step",
    "tool",
]


def __getattr__(name: str) -> object:
    """``memory``, loaded when it is first used: most agents keep none."""
    if name == "memory":
        import penstock.inside.memories as memory  # noqa: PLC0415 - see above

        return memory
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
