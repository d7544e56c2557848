"""What was asked of a tool, as one digest: the same for the same request, in any process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

_DEPTH = 32


def digest(*parts: Any) -> str:
    """The sha256, in hex, of some values."""
    return hashlib.sha256(_text([plain(part) for part in parts]).encode()).hexdigest()


def plain(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one case a kind of value
    """A value as JSON that depends on what it says, never on where it lies in memory.

    An object whose content cannot be seen counts as its class.
    """
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if depth > _DEPTH:
        return _class(kind)
    deeper = depth + 1
    if isinstance(value, Mapping):
        return {_key(key, deeper): plain(item, deeper) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, deeper) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, deeper) for item in value), key=_text)
    return _object(value, kind, deeper)


def _object(value: Any, kind: type, depth: int) -> Any:  # noqa: PLR0911 - see plain
    if isinstance(value, bytes | bytearray):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    for base in (str, int, float):  # subclasses: enumerations, numbers of numpy
        if isinstance(value, base):
            return plain(base(value))
    if callable(iso := getattr(value, "isoformat", None)) and not isinstance(value, type):
        return iso()
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        try:
            return plain(dump(), depth)
        except Exception:  # noqa: BLE001 - a model that cannot be written down counts as its class
            return _class(kind)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain(fields, depth)
    if kind.__module__ in ("decimal", "uuid", "pathlib", "fractions"):
        return str(value)
    return _class(kind)


def _class(kind: type) -> Any:
    return {"class": f"{kind.__module__}.{kind.__qualname__}"}


def _key(key: Any, depth: int) -> str:
    return key if type(key) is str else _text(plain(key, depth))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
