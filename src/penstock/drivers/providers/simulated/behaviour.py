"""What the simulated model does with a request: an instruction-following model, not a clever one.

It reads the conversation, picks tools by the words of the question, takes their arguments from
what was said, and answers with the facts that came back. How reliably it does so is decided by
:mod:`competence`; where chance has to decide, it follows from the whole request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from penstock.drivers.providers.simulated import facts
from penstock.drivers.providers.simulated.answers import answer, structured
from penstock.drivers.providers.simulated.arguments import Sources, fill
from penstock.drivers.providers.simulated.competence import competence
from penstock.drivers.providers.simulated.conversation import Conversation, ToolCall, read
from penstock.drivers.providers.simulated.facts import Draw
from penstock.drivers.providers.simulated.lexicon import (
    ASKING,
    STOP,
    meaning,
    meanings,
    stem,
    words,
)

_ROUNDS = 4  # of tool calls for one question
_UNNAMED = 0.3  # what a tool's words count for when none of its name is meant
_MARGIN = 0.5  # what a further tool must add, of the best tool's score
_SKIPS = 0.8  # of the mistakes before a tool call: leaves it out; the rest gets an argument wrong
_BEFORE = 0.7  # of all mistakes happen before the tool call, the rest in the answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the model says, or the calls it asks for."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCard:
    """A tool as the model sees it."""

    name: str
    schema: Mapping[str, Any]
    named: frozenset[str]  # meanings of its name
    told: frozenset[str]  # … of its description
    takes: frozenset[str]  # … of its parameters
    claims: tuple[frozenset[str], ...]  # the telling words of its name, each with its meanings


def respond(request: Mapping[str, Any], *, seed: str, digest: str) -> Reply:
    """What the model does with a request whose canonical digest is ``digest``."""
    conversation = read(request["messages"])
    draw = Draw(seed, digest)
    skill = competence(conversation.instructions)
    before = 1 - (1 - skill) * _BEFORE
    after = skill / before
    tools = _toolset(json.dumps(request.get("tools") or [], sort_keys=True))
    choice = request.get("tool_choice", "auto")
    if tools and choice != "none" and conversation.rounds < _ROUNDS:
        forced = choice if choice == "required" or isinstance(choice, dict) else None
        reply = _act(conversation, tools, draw, skill=before, forced=forced)
        if reply is not None:
            one = request.get("parallel_tool_calls") is False
            return Reply(text=reply.text, calls=reply.calls[:1] if one else reply.calls)
    form = request.get("response_format") or {}
    right = draw.uniform("answer") < after
    if form.get("type") in {"json_object", "json_schema"}:
        return Reply(text=structured(conversation, form, draw, right=right))
    return Reply(text=answer(conversation, draw, right=right))


# ---------------------------------------------------------------- tools


@lru_cache(maxsize=256)
def _toolset(tools: str) -> tuple[ToolCard, ...]:
    cards = []
    for tool in json.loads(tools):
        function = tool.get("function") or {}
        schema = function.get("parameters") or {}
        properties = schema.get("properties") or {}
        described = " ".join(
            f"{name} {spec.get('description', '')}" for name, spec in properties.items()
        )
        name = str(function.get("name") or "")
        cards.append(
            ToolCard(
                name=name,
                schema=schema,
                named=meanings(name),
                told=meanings(str(function.get("description") or "")),
                takes=meanings(described),
                claims=tuple(meaning(w) for w in words(name) if w not in STOP | ASKING),
            )
        )
    return tuple(cards)


def _act(
    conversation: Conversation,
    tools: Sequence[ToolCard],
    draw: Draw,
    *,
    skill: float,
    forced: Any,
) -> Reply | None:
    """The next calls; ``None`` when it is time to answer."""
    calls, missing = _next_calls(conversation, tools, forced)
    first = conversation.rounds == 0
    if not calls:
        if first and missing is not None:
            return Reply(text=f"Could you tell me the {missing.replace('_', ' ')}, please?")
        return None
    if not first or draw.uniform("attention") < skill:
        return Reply(calls=calls)
    if forced is None and draw.uniform("mistake") < _SKIPS:
        return Reply(text=facts.made_up(_subject(conversation, calls), draw))
    return Reply(calls=tuple(_mistaken(call, draw) for call in calls))


def _next_calls(
    conversation: Conversation, tools: Sequence[ToolCard], forced: Any
) -> tuple[tuple[ToolCall, ...], str | None]:
    scores = _scores(conversation, tools)
    sources = Sources(
        question=conversation.question,
        results=conversation.all_results,
        earlier=conversation.earlier,
    )
    if isinstance(forced, dict):
        wanted = (forced.get("function") or {}).get("name")
        scores = {card.name: {"forced": 1.0} for card in tools if card.name == wanted}
    elif forced == "required" and not any(scores.values()):
        scores = {tools[0].name: {"forced": 1.0}}
    if forced is not None and conversation.rounds:
        return (), None
    by_name = {card.name: card for card in tools}
    done = {call.name for call in conversation.calls}
    calls: list[ToolCall] = []
    missing: str | None = None
    for name in _covering(scores, done):
        if name in done:
            continue
        sets, lacking = fill(by_name[name].schema, sources)
        if lacking is not None and conversation.rounds == 0:
            missing = missing or lacking
            helper = _provider_of(lacking, tools, sources, excluded=name)
            calls += [helper] if helper else []
        calls += [ToolCall(name=name, arguments=arguments) for arguments in sets]
    return tuple(calls), missing


def _scores(conversation: Conversation, tools: Sequence[ToolCard]) -> dict[str, dict[str, float]]:
    """For each tool, the words of the question that it shares and what each is worth."""
    about = meanings(conversation.question)
    if not about:
        about = meanings(conversation.earlier)
    shared: dict[str, dict[str, float]] = {}
    for card in tools:
        worth: dict[str, float] = {}
        # Nobody who asks where a parcel is wants the tool that sends one: a name must be meant.
        meant = sum(bool(claim & about) for claim in card.claims)
        trust = 1.0 if not card.claims else _UNNAMED + (1 - _UNNAMED) * meant / len(card.claims)
        for word in about:
            weight = max(
                2.0 * (word in card.named), 1.0 * (word in card.told), 0.6 * (word in card.takes)
            )
            if weight:
                knowing = sum(
                    word in other.named or word in other.told or word in other.takes
                    for other in tools
                )
                worth[word] = trust * weight * (0.2 + math.log(1 + len(tools) / knowing))
        shared[card.name] = worth
    return shared


def _covering(scores: Mapping[str, Mapping[str, float]], called: set[str]) -> list[str]:
    """The tools that between them cover what was asked, best first."""
    best = max((sum(worth.values()) for worth in scores.values()), default=0.0)
    if best <= 0:
        return []
    covered: set[str] = set()
    chosen: list[str] = []
    left = dict(scores)
    for name in called & set(left):
        covered |= set(left.pop(name))
        chosen.append(name)
    while left:
        gains = {
            name: sum(value for word, value in worth.items() if word not in covered)
            for name, worth in left.items()
        }
        name = max(gains, key=lambda n: (gains[n], n))
        if gains[name] < best * _MARGIN:
            break
        covered |= set(left.pop(name))
        chosen.append(name)
    return chosen


def _provider_of(
    missing: str, tools: Sequence[ToolCard], sources: Sources, *, excluded: str
) -> ToolCall | None:
    """A call that find out a missing argument and can be made with what is known."""
    wanted = {stem(word) for word in words(missing)} - {"id", "number", "code"}
    for card in tools:
        if card.name == excluded or not wanted & (card.named | card.told):
            continue
        sets, lacking = fill(card.schema, sources)
        if lacking is None and sets and sets[0]:
            return ToolCall(name=card.name, arguments=sets[0])
    return None


def _mistaken(call: ToolCall, draw: Draw) -> ToolCall:
    """The call with one argument got wrong."""
    arguments = dict(call.arguments)
    for name, value in arguments.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            arguments[name] = value + 1 + int(draw.uniform(name) * 8)
            break
        if isinstance(value, str) and any(c.isdigit() for c in value):
            shift = 1 + int(draw.uniform(name) * 8)
            last = max(i for i, c in enumerate(value) if c.isdigit())
            digit = str((int(value[last]) + shift) % 10)
            arguments[name] = value[:last] + digit + value[last + 1 :]
            break
    return ToolCall(name=call.name, arguments=arguments)


def _subject(conversation: Conversation, calls: Sequence[ToolCall]) -> str:
    values = [str(v) for call in calls for v in call.arguments.values() if len(str(v)) <= 40]  # noqa: PLR2004
    return ", ".join(dict.fromkeys(values)) or (conversation.question[:60] or "it").rstrip("?.! ")
