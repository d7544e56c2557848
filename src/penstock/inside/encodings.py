"""What a tool returned, as bytes that give it back: JSON, a model's own form, or none.

Nothing is pickled. A value is kept only if what comes back is equal to it.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from typing import Any

_JSONPLUS = "langgraph.checkpoint.serde.jsonplus"
_DEPTH = 64
_MOST_BYTES = 32 << 20  # what fits into a frame


def pack(value: Any) -> tuple[str, bytes] | None:
    """The encoding and the bytes of a value; None if there are none that give it back."""
    packed = _packed(value)
    return None if packed is None or len(packed[1]) > _MOST_BYTES else packed


def _packed(value: Any) -> tuple[str, bytes] | None:
    if _is_json(value, 0):
        return "json", json.dumps(value, separators=(",", ":")).encode("ascii")
    if type(value) is bytes:
        return "bytes", value
    for form in (_model, _model_by_alias, _plus):
        try:
            packed = form(value)
            if packed is not None and _same(unpack(*packed), value):
                return packed
        except Exception:  # noqa: BLE001, S112 - whatever a class makes of being written down
            continue
    return None


def unpack(encoding: str, data: bytes) -> Any:
    """The value that was packed.

    Raises:
        Exception: the class it is of has changed, or is gone.
    """
    kind, _, name = encoding.partition(":")
    match kind:
        case "json":
            return json.loads(data)
        case "bytes":
            return data
        case "model":
            return _class(name).model_validate_json(data)
        case "langgraph":
            return _serializer().loads_typed((name, data))
    raise ValueError(f"a result in an unknown encoding: {encoding}")


def _is_json(value: Any, depth: int) -> bool:
    """Whether a value is JSON as it is: read back, it is the same down to its types."""
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int:
        return True
    if kind is float:
        return math.isfinite(value)
    if depth > _DEPTH:
        return False
    if kind is list:
        return all(_is_json(item, depth + 1) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_json(item, depth + 1) for key, item in value.items())
    return False


def _model(value: Any, *, by_alias: bool = False) -> tuple[str, bytes] | None:
    """A pydantic model as its own JSON, with the name under which its class is found."""
    kind = type(value)
    if not hasattr(kind, "model_validate_json") or "<locals>" in kind.__qualname__:
        return None
    data: str = value.model_dump_json(by_alias=by_alias)
    return f"model:{kind.__module__}:{kind.__qualname__}", data.encode()


def _model_by_alias(value: Any) -> tuple[str, bytes] | None:
    """The same for a model that is read only by the names that its fields have outside."""
    return _model(value, by_alias=True)


def _plus(value: Any) -> tuple[str, bytes] | None:
    """What LangGraph would write into a checkpoint, if it is there."""
    if _JSONPLUS not in sys.modules and "langgraph" not in sys.modules:
        return None
    kind, data = _serializer().dumps_typed(value)
    return None if kind == "pickle" else (f"langgraph:{kind}", data)


def _serializer() -> Any:
    return importlib.import_module(_JSONPLUS).JsonPlusSerializer()


def _class(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, type) or not hasattr(found, "model_validate_json"):
        raise TypeError(f"{name} is no model")
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
