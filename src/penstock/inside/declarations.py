"""What the release says of its tools: what each does to the world, and if it may be repeated."""

from __future__ import annotations

from typing import Any

# A tool that nobody has declared is taken for the worst: it does something, once.
_SHIPPED = {"effect": "write", "retry": "never"}
_STRICTNESS = {"retry": ("safe", "keyed", "never"), "effect": ("read", "write")}

_tools: dict[str, dict[str, str]] = {}
_default = dict(_SHIPPED)


def pin(tools: list[dict[str, str]], default: dict[str, str]) -> None:
    """Take over what the release pins; where two tools have one name, the stricter word counts.

    Args:
        tools: name, effect and retry of each.
        default: what else than ``write`` and ``never`` holds for tools that are not declared.
    """
    global _default  # noqa: PLW0603 - one process, one release
    _tools.clear()
    _default = {**_SHIPPED, **default}
    for tool in tools:
        known = _tools.get(tool["name"])
        found = {key: tool[key] for key in _STRICTNESS}
        if known is not None:
            found = {
                key: max(known[key], found[key], key=words.index)
                for key, words in _STRICTNESS.items()
            }
        _tools[tool["name"]] = found


def of(name: str, *marked: Any) -> dict[str, str]:
    """How a tool is declared: by a mark on one of its objects, by the release, or not at all."""
    for one in marked:
        mark: dict[str, str] | None = getattr(one, "__penstock_tool__", None)
        if mark is not None:
            return mark
    return _tools.get(name) or _default
