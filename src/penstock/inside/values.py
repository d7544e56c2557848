"""Any Python value as JSON: what an agent returns is read by clients in other languages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_DEPTH = 64
_ROLES = {"human": "user", "ai": "assistant"}
_SCALARS = (str, bool, int, float)
_OF_A_MESSAGE = ("content", "additional_kwargs")
_SEQUENCES = (list, tuple, set, frozenset)


def jsonable(value: Any, depth: int = 0) -> Any:
    """``value`` made of objects, arrays, strings, numbers, booleans and null only.

    Chat messages become ``{"role", "content", ...}``; pydantic models and dataclasses objects;
    numbers that JSON lacks null; what has no such form its ``str``.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if depth > _DEPTH:
        return str(value)
    deeper = depth + 1
    if isinstance(value, Mapping):
        return {_key(key): jsonable(item, deeper) for key, item in value.items()}
    if isinstance(value, _SEQUENCES):
        return [jsonable(item, deeper) for item in value]
    return _converted(value, deeper)


def _converted(value: Any, depth: int) -> Any:
    """An object of some class as JSON."""
    for base in _SCALARS:  # subclasses: enumerations of strings, numbers of numpy
        if isinstance(value, base):
            return jsonable(base(value), depth)
    for convert in (_message, _fields, _plainer):
        found = convert(value)
        if found is not value:
            return jsonable(found, depth)
    return str(value)


def _message(value: Any) -> Any:
    """A LangChain message as the chat APIs write it."""
    kind = getattr(value, "type", None)
    if type(kind) is not str or not all(hasattr(value, name) for name in _OF_A_MESSAGE):
        return value
    message = {"role": _ROLES.get(kind, kind), "content": value.content}
    for key in ("tool_calls", "tool_call_id", "name", "id"):
        if item := getattr(value, key, None):
            message[key] = item
    return message


def _fields(value: Any) -> Any:
    """A pydantic model or a dataclass as its fields."""
    if isinstance(value, type):
        return value
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _plainer(value: Any) -> Any:
    """A date, bytes, an enumeration's member or a number of numpy as a string or number."""
    if isinstance(value, type):
        return value
    if callable(iso := getattr(value, "isoformat", None)):
        return iso()
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    if hasattr(type(value), "__members__"):
        return value.value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def _key(key: Any) -> str:
    """An object's key: JSON knows only strings."""
    return key if type(key) is str else str(jsonable(key))
