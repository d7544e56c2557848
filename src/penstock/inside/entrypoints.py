"""From the words ``support.graph:graph`` to something that can be run."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any, Protocol

from penstock.inside.attempts import Attempt
from penstock.inside.frameworks import crewai, langgraph
from penstock.inside.frameworks.plain import PlainRunner


class Runner(Protocol):
    """An agent, ready to take attempts."""

    is_async: bool

    def run(self, attempt: Attempt) -> Any:
        """Run an attempt in this thread and return its output."""

    def look(self, attempt: Attempt) -> Any:
        """Do what is asked of the session's state, and return what it is."""

    async def arun(self, attempt: Attempt) -> Any:
        """Run an attempt on this event loop and return its output."""


class EntrypointError(Exception):
    """The entrypoint does not name something that can be run."""


def load(entrypoint: str) -> Runner:
    """Import an entrypoint and make it runnable.

    Raises:
        EntrypointError: it names nothing, or nothing that can be called.
        Exception: whatever the agent's own code raises when it is imported.
    """
    target = resolve(entrypoint)
    if (found := crewai.runner(target)) is not None:
        return found
    made = None if langgraph.is_graph(target) else langgraph.make(target)
    graph = target if made is None else made
    if langgraph.is_graph(graph):
        return langgraph.GraphRunner(graph)
    if not callable(target):
        raise EntrypointError(
            f"{entrypoint} is a {type(target).__name__}; an agent is a LangGraph graph,"
            " a crew or flow of CrewAI, or callable"
        )
    try:
        return PlainRunner(target)
    except TypeError as error:
        raise EntrypointError(f"{entrypoint}: {error}") from None


def resolve(entrypoint: str) -> Any:
    """The object that ``module:name`` (or ``path/to/file.py:name``) stands for.

    Raises:
        EntrypointError: the words are malformed or the module has no such name.
    """
    where, colon, path = entrypoint.rpartition(":")
    if not colon or not where or not path:
        raise EntrypointError(f"{entrypoint!r} is not of the form module:name")
    module = _from_file(where) if where.endswith(".py") else importlib.import_module(where)
    target: Any = module
    for name in path.split("."):
        if not hasattr(target, name):
            known = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:20])
            raise EntrypointError(f"{where} has no {path!r}; it has: {known or 'nothing'}")
        target = getattr(target, name)
    return target


def _dotted(path: str) -> str:
    """The name under which the project's own code imports a file: from the nearest directory."""
    full = os.path.abspath(path)  # noqa: PTH100 - pathlib costs 5 ms of import
    roots = [
        os.path.join(os.path.abspath(entry), "")  # noqa: PTH100, PTH118 - see above
        for entry in sys.path
    ]
    root = max((root for root in roots if full.startswith(root)), key=len, default="")
    return full.removeprefix(root).removesuffix(".py").replace(os.sep, ".")


def _from_file(path: str) -> Any:
    """The module in a file of the project, under its dotted name when it has one."""
    dotted = _dotted(path)
    if all(part.isidentifier() for part in dotted.split(".")):
        return importlib.import_module(dotted)
    spec = importlib.util.spec_from_file_location("penstock_entrypoint", path)
    if spec is None or spec.loader is None:
        raise EntrypointError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
