"""What tools answered, as facts; facts as sentences; and facts got wrong."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.drivers.providers.simulated.lexicon import meanings, words

_FACTS = 14  # stated of one result
_SENTENCES = 4  # quoted of one text
_SILENT = frozenset({"ok", "success", "found"})  # said by saying the rest
_FAILED = re.compile(
    r"\b(?:not found|no such|unknown|error|failed|does not exist)\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_DIGITS = re.compile(r"\d+")

_PLAUSIBLE = (
    "on its way",
    "being processed",
    "available",
    "approved",
    "scheduled",
    "fine",
    "on hold",
    "nearly done",
)


class Draw:
    """Chance that follows from a request alone: the same request, the same draws."""

    def __init__(self, *of: str) -> None:
        self._of = "\0".join(of).encode()

    def uniform(self, what: str) -> float:
        """A number in [0, 1) for one decision."""
        digest = hashlib.sha256(self._of + b"\0" + what.encode()).digest()
        return int.from_bytes(digest[:7], "big") / (1 << 56)

    def pick(self, what: str, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[int(self.uniform(what) * len(options))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing a result says."""

    name: str
    value: str


def parse(text: str) -> Any:
    """A tool's answer as data, or as the text it is."""
    stripped = text.strip()
    if stripped[:1] in {"{", "[", '"'}:
        try:
            return json.loads(stripped)
        except ValueError:
            return text
    return text


def failure(result: Any) -> str | None:
    """What went wrong, if a result says that something did."""
    if isinstance(result, dict):
        for key in ("error", "errors", "detail"):
            if result.get(key):
                error = result[key]
                return str(error.get("message", error) if isinstance(error, dict) else error)
        if result.get("found") is False or result.get("ok") is False:
            return str(result.get("message") or "not found")
        return None
    if result in (None, [], ""):
        return "nothing was found"
    if isinstance(result, str) and len(result) < 200 and _FAILED.search(result):  # noqa: PLR2004
        return result.strip()
    return None


def facts_of(result: Any, question: str) -> list[Fact]:
    """What a result says, what was asked for first."""
    about = meanings(question)
    if isinstance(result, str):
        sentences = [s.strip() for s in _SENTENCE.split(result) if s.strip()]
        ranked = sorted(sentences, key=lambda s: -len(meanings(s) & about))[:_SENTENCES]
        return [Fact(name="", value=s) for s in sentences if s in ranked]
    flat = [f for f in _flatten("", result) if f.name not in _SILENT]
    flat.sort(key=lambda fact: -len(meanings(fact.name) & about))
    return flat[:_FACTS]


def _flatten(name: str, value: Any) -> Iterator[Fact]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{name} {key}".strip().replace("_", " "), inner)
    elif isinstance(value, list):
        if all(not isinstance(inner, dict | list) for inner in value):
            yield Fact(name=name, value=", ".join(_said(inner) for inner in value) or "none")
        else:
            for inner in value:
                yield from _flatten(name, inner)
    else:
        yield Fact(name=name, value=_said(value))


def _said(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def state(facts: Sequence[Fact]) -> str:
    """Facts as sentences, their values word for word."""
    named = [f"{fact.name} is {fact.value}" for fact in facts if fact.name]
    quoted = [fact.value.rstrip(".") for fact in facts if not fact.name]
    sentences = [*quoted, *(["The " + ", ".join(named)] if named else [])]
    return " ".join(f"{sentence}." for sentence in sentences)


def wrong(facts: Sequence[Fact], draw: Draw) -> list[Fact]:
    """The same facts with plausible other values."""
    return [
        Fact(name=fact.name, value=_other(fact.value, draw, str(number)))
        for number, fact in enumerate(facts)
    ]


def _other(value: str, draw: Draw, what: str) -> str:
    if _DIGITS.search(value):
        shift = 1 + int(draw.uniform(what) * 8)
        return _DIGITS.sub(lambda m: str(int(m[0]) + shift).zfill(len(m[0])), value)
    if value in {"yes", "no"}:
        return "no" if value == "yes" else "yes"
    told = set(words(value))
    options = [p for p in _PLAUSIBLE if not told & set(words(p))]
    return str(draw.pick(what, options))


def made_up(subject: str, draw: Draw) -> str:
    """An answer out of thin air."""
    days = 2 + int(draw.uniform("days") * 9)
    what = draw.pick("status", _PLAUSIBLE)
    return f"I believe {subject} is {what}; it should be settled within {days} days."
