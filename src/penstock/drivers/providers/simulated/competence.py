"""How well the simulated model does under given instructions.

A model of finite competence does its work more often when it is told to look things up, not to
guess, and what to do when it finds nothing; and less often when it is told to answer from memory,
to skip its tools or to guess. The instructions are read sentence by sentence for such qualities,
with negation; the sum goes through a logistic curve, so nothing is all or nothing. What the
instructions are called, who wrote them and what they are about plays no part.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import lru_cache

from penstock.drivers.providers.simulated.lexicon import (
    ADMITTING,
    CONDITIONS,
    FLIPS,
    FORMAT,
    FRESH,
    GUESSING,
    LOOKING,
    MEMORY,
    NEEDLESS,
    NEGATORS,
    SOURCES,
    UNKNOWN,
    USING,
    VAGUE,
    stem,
    words,
)

LEAST, MOST = 0.58, 0.955  # no instruction makes it worse or better than this
_SHORT = 12  # words below which instructions are little to go by

_SENTENCE = re.compile(r"[.!?;:\n]+")
_CLAUSE = re.compile(r",|\s[-\u2013\u2014]\s|\(|\)")
_KNOWLEDGE = re.compile(
    r"\b(?:own|general|prior|background|common) (?:knowledge|sense)\b"
    r"|\bwhat you (?:already )?(?:know|remember|recall)\b|\balready know\b"
    r"|\boff the top of\b|\bmak(?:e|ing) (?:\w+ ){0,3}up\b|\bmade[- ]up\b"
)
_LIST = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+\S", re.MULTILINE)
_HEADING = re.compile(r"^\s*(?:#{1,4}\s+\S|[A-Z][\w ]{2,40}:\s*$|<\w+>)", re.MULTILINE)
_EXAMPLE = re.compile(
    r"\bfor example\b|\be\.g\.|\bexamples?\b\s*(?:\d+\s*)?:"
    r"|^\s*(?:user|customer|question|input|q)\s*:.*\n+\s*(?:assistant|agent|answer|output|a)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_STEPS = re.compile(
    r"\bstep[- ]by[- ]step\b|\bone step at a time\b|^\s*\d+[.)]\s+\S|\bfirst\b[^.\n]*\bthen\b"
    r"|\bthink (?:it |this )?(?:through|carefully)\b|\bplan\b",
    re.IGNORECASE | re.MULTILINE,
)
_ROLE = re.compile(r"\byou are\b|\bact as\b|\byour (?:role|job|task|duty)\b", re.IGNORECASE)
_CONDITION = re.compile(
    r"\b(?:if|when|whenever|where|in case)\b[^.\n]*"
    r"\b(?:cannot|can't|could not|couldn't|do not|don't|does not|doesn't|not|no)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Qualities:
    """What the instructions do, each as a count or a yes."""

    grounded: float = 0.0  # times they ask to look things up
    ungrounded: float = 0.0  # times they ask not to
    guess_forbidden: float = 0.0
    guess_wanted: float = 0.0
    unknown_handled: float = 0.0
    stepwise: float = 0.0
    structured: float = 0.0
    examples: float = 0.0
    format: float = 0.0
    role: float = 0.0
    vague: float = 0.0
    brevity: float = 0.0  # 1 for no instructions at all, 0 from a dozen words on


_WEIGHTS = Qualities(
    grounded=2.1,
    ungrounded=-2.4,
    guess_forbidden=1.3,
    guess_wanted=-2.0,
    unknown_handled=0.7,
    stepwise=0.35,
    structured=0.3,
    examples=0.4,
    format=0.2,
    role=0.15,
    vague=-0.9,
    brevity=-0.8,
)
_BIAS = -0.1
_CONTRADICTION = -0.7


@lru_cache(maxsize=1024)
def competence(instructions: str) -> float:
    """The probability of doing a task right under these instructions."""
    found = read(instructions)
    z = _BIAS
    for field in fields(Qualities):
        amount = getattr(found, field.name)
        # The second time something is said adds less than the first.
        z += getattr(_WEIGHTS, field.name) * (1 - math.exp(-1.2 * amount))
    contradictory = min(found.grounded, found.ungrounded) + min(
        found.guess_forbidden, found.guess_wanted
    )
    z += _CONTRADICTION * min(1.0, contradictory)
    return LEAST + (MOST - LEAST) / (1 + math.exp(-z))


def read(instructions: str) -> Qualities:
    """The qualities of instructions."""
    counts = {"grounded": 0, "ungrounded": 0, "guess_forbidden": 0, "guess_wanted": 0}
    vague = unknown = formats = 0
    for sentence in _SENTENCE.split(instructions):
        last: str | None = None
        for clause in _CLAUSE.split(sentence):
            last = _read_clause(clause, last, counts)
        stems = {stem(word) for word in words(sentence)}
        vague += bool(stems & VAGUE) and not stems & {stem(n) for n in NEGATORS}
        formats += bool(stems & FORMAT)
        uncertain = bool(stems & UNKNOWN) or _CONDITION.search(sentence) is not None
        unknown += uncertain and bool(stems & ADMITTING)
    length = len(words(instructions))
    return Qualities(
        **counts,
        unknown_handled=unknown,
        stepwise=float(_STEPS.search(instructions) is not None),
        structured=bool(_LIST.search(instructions)) + bool(_HEADING.search(instructions)),
        examples=len(_EXAMPLE.findall(instructions)),
        format=min(2, formats),
        role=float(_ROLE.search(instructions) is not None),
        vague=vague,
        brevity=max(0.0, 1 - length / _SHORT),
    )


def _read_clause(clause: str, inherited: str | None, counts: dict[str, int]) -> str | None:
    """Count what a clause asks for; returns how it ended, for lists such as `a, b or c`."""
    text = _KNOWLEDGE.sub(" memory ", " ".join(words(clause)))
    tokens = text.split()
    stems = [stem(token) for token in tokens]
    has_source = any(s in SOURCES for s in stems)
    conditional = tokens[:1] != [] and tokens[0] in CONDITIONS  # says when, not what
    needless = any(token in NEEDLESS for token in tokens)
    negations = 0
    since_and = 0  # negations since the last `and` that followed a hit
    joined = False
    family: str | None = None
    result = inherited if not tokens else None
    for number, token in enumerate(tokens):
        if token in NEGATORS or _instead(tokens, number):
            negations += 1
            since_and += 1
        elif token in FLIPS and negations:
            negations += 1  # never answer *before* checking = check
            since_and += 1
        elif token in FRESH:
            negations = since_and = 0
        elif token == "and" and family is not None:  # noqa: S105 - a word, not a secret
            joined, since_and = True, 0
        kind = _family(tokens, stems, number, has_source=has_source)
        if kind is None or (kind == "ground" and conditional):
            continue
        if kind == "ground" and family == "ground" and not joined:
            continue  # `use the tools to check the records` asks for one thing
        negative = (since_and if joined and kind != family else negations) % 2 == 1
        if kind == "ground" and needless and token not in NEEDLESS:
            negative = not negative if not negations else negative
        if not negations and inherited == f"{kind}-" and len(tokens) <= _LIST_ITEM:
            negative = True  # … never guess, assume, *or invent*
        _count(kind, counts, negative=negative)
        family = kind
        result = f"{kind}-" if negative else f"{kind}+"
    return result


_LIST_ITEM = 4  # words of a member of a list


def _instead(tokens: list[str], number: int) -> bool:
    pair = tokens[number : number + 2]
    return pair in (["instead", "of"], ["rather", "than"])


def _family(tokens: list[str], stems: list[str], number: int, *, has_source: bool) -> str | None:
    root = stems[number]
    if root in GUESSING or root in MEMORY:
        return "guess"
    if root in LOOKING:
        return "ground"
    if root == "look" and number + 1 < len(tokens):
        following = tokens[number + 1 : number + 4]
        return "ground" if {"up", "into", "at"} & set(following) or has_source else None
    if has_source and (root in USING or root in SOURCES):
        return "ground"
    return None


def _count(kind: str, counts: dict[str, int], *, negative: bool) -> None:
    if kind == "ground":
        counts["ungrounded" if negative else "grounded"] += 1
    else:
        counts["guess_forbidden" if negative else "guess_wanted"] += 1
