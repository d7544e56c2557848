"""Finds the arguments of a tool in a conversation, by the tool's JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.drivers.providers.simulated.lexicon import meanings, stem, words

_MOST = 5  # calls for one question
_TEXT = 4_000  # characters that are searched; patterns come from outside
_NEAR = 24  # characters before a value in which its name is looked for

_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2})?Z?)?\b")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_URL = re.compile(r"\bhttps?://[^\s\"'<>]+")
_IDENTIFIER = re.compile(r"(?<![\w.$-])#?((?=[\w-]*\d)[A-Za-z]{0,12}[-_]?\d[\w-]*)\b(?!\.\d)")
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")
_QUOTED = re.compile(r"[\"\u201c]([^\"\u201d]{1,200})[\"\u201d]|(?<!\w)'([^']{1,200})'(?!\w)")
_NAME = re.compile(r"[A-Z][\w'\u00c0-\u024f-]+(?:\s+[A-Z][\w'\u00c0-\u024f-]+)*")
_PLACED = re.compile(r"\b(?:in|at|for|to|from|near|of|about|is|does|has)\s+$")
_IDENTIFYING = frozenset(
    {"id", "identifier", "number", "no", "code", "sku", "reference", "key", "ref"}
)
_NAMED = "city town place location country name person employee destination origin region"
_NAMING = frozenset(stem(word) for word in words(_NAMED))
_UNITS = (
    "day days week weeks month months year years hour hours minute minutes time times items people"
    " dollars euros percent"
)
_COUNTED = frozenset(words(_UNITS))
_LONGEST_COUNT = 2  # digits of a bare number that is probably a count and not an identifier


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where arguments are looked for, best first."""

    question: str  # the user's last message
    results: Sequence[Any]  # parsed answers of tools
    earlier: str  # what the user said before


def fill(schema: Mapping[str, Any], sources: Sources) -> tuple[list[dict[str, Any]], str | None]:
    """The argument sets that the conversation gives, or none and the argument that is missing.

    There is more than one set when the user named several items for one argument.
    """
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties") or {}
    required = [name for name in schema.get("required") or () if name in properties]
    arguments: dict[str, Any] = {}
    several: tuple[str, list[Any]] | None = None
    for name, spec in properties.items():
        found = _values(name, spec, sources, required=name in required, others=properties)
        if not found:
            if name in required:
                return [], name
            continue
        arguments[name] = found[0]
        if len(found) > 1 and several is None and name in required:
            several = (name, found[:_MOST])
    if several is None:
        return [arguments], None
    name, values = several
    return [{**arguments, name: value} for value in values], None


def _values(
    name: str,
    spec: Mapping[str, Any],
    sources: Sources,
    *,
    required: bool,
    others: Mapping[str, Any],
) -> list[Any]:
    """What an argument may be, best first; empty if nothing says."""
    spec = _plain(spec)
    kind = spec.get("type", "string")
    if "const" in spec:
        found = [spec["const"]]
    elif spec.get("enum"):
        found = _chosen(spec, sources.question + " " + sources.earlier, required=required)
    elif kind == "array":
        items = _values(name, spec.get("items") or {}, sources, required=required, others={})
        found = [items] if items else []
    elif kind == "object":
        sets, _ = fill(spec, sources)
        found = [sets[0]] if sets and (sets[0] or required) else []
    elif kind == "boolean":
        found = _truth(name, spec, sources.question, required=required)
    else:
        found = _said(name, spec, sources, required=required, others=others)
    return found


def _said(
    name: str,
    spec: Mapping[str, Any],
    sources: Sources,
    *,
    required: bool,
    others: Mapping[str, Any],
) -> list[Any]:
    """A number or a text: from the question, the results, what was said before, or as it is."""
    kind = spec.get("type", "string")
    for text in (sources.question, None, sources.earlier):
        found = (
            _in_results(name, sources.results)
            if text is None
            else list(_in_text(name, spec, text[-_TEXT:], required=required, others=others))
        )
        values = [v for v in (_cast(value, kind) for value in found) if _allowed(v, spec)]
        if values:
            return list(dict.fromkeys(values))
    if "default" in spec and required:
        return [spec["default"]]
    shaped = _identifies(name, spec) or _names(name) or spec.get("pattern") or spec.get("format")
    if required and kind == "string" and not shaped:
        quoted = _QUOTED.search(sources.question)
        return [(quoted[1] or quoted[2]) if quoted else sources.question[:500]]
    return []


def _plain(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without the wrapping of an optional value."""
    for wrapper in ("anyOf", "oneOf"):
        options = [o for o in spec.get(wrapper) or () if o.get("type") != "null"]
        if options:
            return {**{k: v for k, v in spec.items() if k != wrapper}, **options[0]}
    kind = spec.get("type")
    if isinstance(kind, list):
        return {**spec, "type": next((k for k in kind if k != "null"), "string")}
    return spec


def _chosen(spec: Mapping[str, Any], text: str, *, required: bool) -> list[Any]:
    about = meanings(text)
    lowered = text.lower()
    scored = [
        (len(meanings(str(value)) & about) + 2 * (str(value).lower() in lowered), value)
        for value in spec["enum"]
    ]
    best = max(scored, key=lambda pair: pair[0])
    if best[0] > 0:
        return [best[1]]
    if "default" in spec:
        return [spec["default"]]
    return [spec["enum"][0]] if required else []


def _truth(name: str, spec: Mapping[str, Any], text: str, *, required: bool) -> list[bool]:
    if meanings(name) & meanings(text):
        return [not re.search(r"\b(?:not|no|without|don't)\b", text.lower())]
    if required:
        return [bool(spec.get("default", False))]
    return []


def _in_text(
    name: str, spec: Mapping[str, Any], text: str, *, required: bool, others: Mapping[str, Any]
) -> Iterator[Any]:
    pattern = spec.get("pattern")
    form = str(spec.get("format") or "")
    low = {stem(word) for word in words(name)}
    if pattern:
        yield from _by_pattern(str(pattern), text)
    elif form.startswith("date") or "date" in low:
        yield from _DATE.findall(text)
    elif form == "email" or "email" in low:
        yield from _EMAIL.findall(text)
    elif form in {"uri", "url"} or "url" in low:
        yield from _URL.findall(text)
    elif _identifies(name, spec):
        yield from _identifiers(name, text, others)
    elif spec.get("type") in {"integer", "number"}:
        yield from _numbers(name, text, required=required)
    elif _names(name):
        yield from _proper_names(text)


def _by_pattern(pattern: str, text: str) -> Iterator[str]:
    inner = pattern.removeprefix("^").removesuffix("$")
    try:
        compiled = re.compile(rf"(?<![\w-])(?:{inner})(?![\w-])")
    except re.error:
        return
    for match in compiled.finditer(text):
        yield match[0]


def _identifies(name: str, spec: Mapping[str, Any]) -> bool:
    named = words(name)
    if named and named[-1] in _IDENTIFYING:
        return True
    described = set(words(str(spec.get("description") or ""))) & {
        "id",
        "identifier",
        "number",
        "code",
    }
    return bool(described) and spec.get("type", "string") == "string" and not _names(name)


def _names(name: str) -> bool:
    return any(stem(word) in _NAMING for word in words(name))


def _identifiers(name: str, text: str, others: Mapping[str, Any]) -> Iterator[str]:
    """Identifiers, those beside the argument's own noun first; another argument's are left."""
    mine = {stem(w) for w in words(name)} - _IDENTIFYING
    rivals = (
        {stem(w) for other in others if other != name for w in words(other)} - mine - _IDENTIFYING
    )
    searched = _DATE.sub(lambda match: " " * len(match[0]), text)
    near: list[str] = []
    far: list[str] = []
    previous: tuple[int, list[str] | None] = (-10, None)
    for match in _IDENTIFIER.finditer(searched):
        before = {stem(w) for w in words(searched[max(0, match.start() - _NEAR) : match.start()])}
        gap = searched[previous[0] : match.start()].strip().lower()
        if previous[1] is not None and gap in {",", "and", ", and", "or", "&"}:
            into: list[str] | None = previous[1]  # orders 1042, 1043 and 1044
        elif before & mine:
            into = near
        elif before & rivals or _is_count(match[1], searched, match.end()):
            into = None
        else:
            into = far
        if into is not None:
            into.append(match[1])
        previous = (match.end(), into)
    yield from near or far


def _is_count(value: str, text: str, end: int) -> bool:
    if not value.isdigit():
        return False
    following = text[end : end + 12].split()
    counted = bool(following) and following[0].lower().rstrip(".,?!") in _COUNTED
    return counted or len(value) <= _LONGEST_COUNT


def _numbers(name: str, text: str, *, required: bool) -> Iterator[str]:
    mine = {stem(w) for w in words(name)}
    found = list(_NUMBER.finditer(_DATE.sub(" ", text)))
    for match in found:
        around = text[max(0, match.start() - _NEAR) : match.end() + _NEAR]
        if mine & {stem(w) for w in words(around)}:
            yield match[0]
            return
    if required and found:
        yield found[0][0]


def _proper_names(text: str) -> Iterator[str]:
    sure: list[str] = []
    maybe: list[str] = []
    for match in _NAME.finditer(text):
        before = text[: match.start()]
        begins = not before.strip() or before.rstrip()[-1] in ".!?:\n"
        if begins or match[0] in {"I", "I'm"}:
            continue
        (sure if _PLACED.search(before) or sure else maybe).append(match[0])
    yield from sure or maybe[:1]


def _in_results(name: str, results: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for result in results:
        found += _under(name.lower(), result)
    return [value for value in found if isinstance(value, str | int | float)]


def _under(name: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.lower() == name:
                yield inner
            yield from _under(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _under(name, inner)


def _cast(value: Any, kind: str) -> Any:
    try:
        if kind == "integer":
            return int(float(value))
        if kind == "number":
            return float(value)
    except ValueError:
        return None
    return str(value)


def _allowed(value: Any, spec: Mapping[str, Any]) -> bool:
    if value is None:
        return False
    if isinstance(value, int | float):
        least, most = spec.get("minimum"), spec.get("maximum")
        return (least is None or value >= least) and (most is None or value <= most)
    return True
