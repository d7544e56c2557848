"""Puts Penstock under the frameworks an agent uses, whenever it imports them.

A framework's classes are patched right after their module is loaded: those that are loaded already
now, the others by a finder that watches imports. Nothing is imported for it. Where a version has
changed so much that a patch does not fit, the agent runs without it, and its log says so.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

_HERE = "penstock.inside.frameworks"

# Module of a framework → ours whose patch() is given it.
PATCHES = {
    "langchain_core.tools.base": f"{_HERE}.langchain_tools",
    "langgraph.pregel._executor": f"{_HERE}.langgraph_executor",
    "langgraph.pregel._loop": f"{_HERE}.langgraph_messages",
    "mcp.client.session": f"{_HERE}.mcp_tools",
    "crewai.task": f"{_HERE}.crewai",
    "crewai.flow.runtime": f"{_HERE}.crewai",
    "crewai.flow.flow": f"{_HERE}.crewai",
    "crewai.tools.base_tool": f"{_HERE}.crewai_tools",
    "crewai.tools.structured_tool": f"{_HERE}.crewai_tools",
    "httpx": f"{_HERE}.requests",
    "httpx2": f"{_HERE}.requests",
}

_patched: set[str] = set()


def install() -> None:
    """Patch what is loaded, and whatever is imported later; doing it again changes nothing."""
    for name in PATCHES:
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None)
        if module is not None and not getattr(spec, "_initializing", False):
            _patch(name, module)
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher:
    """A finder that finds nothing itself, and has modules patched once they are executed."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """What the other finders say, with a loader that calls us."""
        if name not in PATCHES or name in _patched:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if isinstance(finder, _Watcher) or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _watch(name, spec.loader)
                return spec
        return None


def _watch(name: str, loader: Any) -> None:
    execute: Callable[[Any], None] = loader.exec_module

    def exec_module(module: Any) -> None:
        execute(module)
        _patch(name, module)

    loader.exec_module = exec_module


def _patch(name: str, module: Any) -> None:
    if name in _patched:
        return
    _patched.add(name)
    try:
        importlib.import_module(PATCHES[name]).patch(module)
    except Exception as error:  # noqa: BLE001 - a library of another time is no reason to stop
        print(  # noqa: T201 - the agent's log
            f"penstock: {name} is not known in this version, and is left as it is: {error!r}",
            file=sys.stderr,
        )
