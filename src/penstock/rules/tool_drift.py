"""How the tools of a source differ from those that a release pinned.

Breaking is what makes a call fail, or do something else, when the model that makes it has read the
pinned description: a tool or an argument that is gone, one that is required now, another type,
fewer choices, and a promise about repeating that is weaker than it was. Texts and limits on values
(``description``, ``minimum``, ``pattern``) are compatible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.tools import Drift, DriftKind, Severity, SourceFacts, SourceTool

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_OPEN = (  # hold one schema; without them anything goes
    "items",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_CHOICES = ("anyOf", "oneOf", "enum", "const")
_OPAQUE = (  # whether such a change is wider or narrower cannot be told by looking at it
    "$ref",
    "allOf",
    "prefixItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "dependentSchemas",
    "dependentRequired",
)
_EFFECTS = ("read", "write")  # each asks for more care than the one before
_RETRIES = ("safe", "keyed", "never")
_ABSENT = object()


def compare(pinned: SourceFacts, found: SourceFacts) -> tuple[Drift, ...]:
    """Every difference: first of the source itself, then tool by tool, in order of their names.

    Args:
        pinned: what it offered when the release was cut.
        found: what it offers now.
    """
    drifts = [
        Drift(
            kind=DriftKind.VERSION,
            severity=Severity.COMPATIBLE,
            pointer=f"/{field}",
            before=None if was is None else _json(was),
            after=None if now is None else _json(now),
        )
        for field, was, now in (
            ("name", pinned.name, found.name),
            ("version", pinned.version, found.version),
            ("protocol", pinned.protocol, found.protocol),
        )
        if was != now
    ]
    before = {tool.name: tool for tool in pinned.tools}
    after = {tool.name: tool for tool in found.tools}
    for name in sorted({*before, *after}):
        if name not in after:
            drifts.append(_whole(name, DriftKind.REMOVED, Severity.BREAKING))
        elif name not in before:
            drifts.append(_whole(name, DriftKind.ADDED, Severity.COMPATIBLE))
        else:
            drifts += _tool(before[name], after[name])
    return tuple(drifts)


def _whole(name: str, kind: DriftKind, severity: Severity) -> Drift:
    return Drift(kind=kind, severity=severity, tool=name)


def _tool(before: SourceTool, after: SourceTool) -> Iterator[Drift]:
    walk = _Walk(tool=before.name, given=True)
    if before.description != after.description:
        yield walk.drift("/description", before.description, after.description, breaking=False)
    for field, order in (("effect", _EFFECTS), ("retry", _RETRIES)):
        was, now = getattr(before, field), getattr(after, field)
        if was != now:
            worse = order.index(now) > order.index(was)
            yield walk.drift(f"/{field}", was, now, breaking=worse)
    yield from walk.schema("/schema", before.schema, after.schema)
    answer = _Walk(tool=before.name, given=False)
    old = _ABSENT if before.output_schema is None else before.output_schema
    new = _ABSENT if after.output_schema is None else after.output_schema
    if old is _ABSENT or new is _ABSENT:
        if old is not new:
            yield answer.drift("/output_schema", old, new, breaking=new is _ABSENT)
    else:
        yield from answer.schema("/output_schema", old, new)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Walk:
    """Goes through two schemas at once and tells keywords from names and from data."""

    tool: str
    given: bool  # the agent gives values of it (arguments) rather than taking them (an answer)

    def drift(self, pointer: str, before: Any, after: Any, *, breaking: bool) -> Drift:
        return Drift(
            kind=DriftKind.CHANGED,
            severity=Severity.BREAKING if breaking else Severity.COMPATIBLE,
            tool=self.tool,
            pointer=pointer,
            before=_json(before),
            after=_json(after),
        )

    def schema(self, pointer: str, before: Any, after: Any) -> Iterator[Drift]:
        if not isinstance(before, Mapping) or not isinstance(after, Mapping):
            if not _same(before, after):
                narrower = before is not False and after is not True and after is not _ABSENT
                yield self.drift(pointer, before, after, breaking=self.given and narrower)
            return
        for key in sorted({*before, *after}):
            was, now = before.get(key, _ABSENT), after.get(key, _ABSENT)
            if not _same(was, now):
                yield from self._keyword(f"{pointer}/{_escape(key)}", key, was, now, after)

    def _keyword(
        self, pointer: str, key: str, was: Any, now: Any, after: Mapping[str, Any]
    ) -> Iterator[Drift]:
        if key in _MAPS:
            yield from self._map(pointer, key, was, now, after)
        elif key in _OPEN:
            yield from self.schema(pointer, was, now)
        elif key == "type":
            if _texts(was) != _texts(now):
                yield self.drift(pointer, was, now, breaking=True)
        elif key == "required":
            if _texts(was) != _texts(now):
                more, less = (now, was) if self.given else (was, now)
                yield self.drift(pointer, was, now, breaking=bool(_texts(more) - _texts(less)))
        elif key in _LISTS and isinstance(was, list) and isinstance(now, list):
            yield from self._list(pointer, key, was, now)
        else:
            yield self.drift(pointer, was, now, breaking=self._breaks(key, was, now))

    def _list(self, pointer: str, key: str, was: list[Any], now: list[Any]) -> Iterator[Drift]:
        if key != "prefixItems" and _texts(was) == _texts(now):
            return  # only their order is another
        if len(was) != len(now):
            yield self.drift(pointer, was, now, breaking=self._breaks(key, was, now))
            return
        for index, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from self.schema(f"{pointer}/{index}", one, other)

    def _map(
        self, pointer: str, key: str, was: Any, now: Any, after: Mapping[str, Any]
    ) -> Iterator[Drift]:
        olds = was if isinstance(was, Mapping) else {}
        news = now if isinstance(now, Mapping) else {}
        required = _texts(after.get("required", _ABSENT))
        for name in sorted({*olds, *news}):
            place = f"{pointer}/{_escape(name)}"
            if name not in news:
                gone = key in ("properties", "patternProperties")
                yield self.drift(place, olds[name], _ABSENT, breaking=gone)
            elif name not in olds:
                demanded = self.given and key == "properties" and _json(name) in required
                yield self.drift(place, _ABSENT, news[name], breaking=demanded)
            else:
                yield from self.schema(place, olds[name], news[name])

    def _breaks(self, key: str, was: Any, now: Any) -> bool:
        if key in _OPAQUE:
            return True
        if key not in _CHOICES:
            return False
        needed, left = (was, now) if self.given else (now, was)
        if left is _ABSENT:
            return False
        return needed is _ABSENT or bool(_texts(needed) - _texts(left))


def _texts(value: Any) -> set[str | None]:
    """The items of a list, or the one value in place of it, so that they can be compared."""
    if value is _ABSENT:
        return set()
    return {_json(item) for item in (value if isinstance(value, list | tuple) else (value,))}


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 is not true."""
    return one is other or _json(one) == _json(other)


def _json(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    return msgspec.json.encode(value, order="sorted").decode()


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
