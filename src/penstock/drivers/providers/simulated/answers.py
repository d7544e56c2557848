"""What the simulated model says: facts from tools or from the messages, labels, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.drivers.providers.simulated import facts
from penstock.drivers.providers.simulated.arguments import Sources, fill
from penstock.drivers.providers.simulated.conversation import Conversation
from penstock.drivers.providers.simulated.facts import Draw
from penstock.drivers.providers.simulated.lexicon import meanings

_OPTIONS = re.compile(
    r"\b(?:one of|either|choose from|categories|labels|options|classes)\b[^:\n]{0,40}:?"
    r"\s*([^\n.]+)",
    re.IGNORECASE,
)
_CLASSIFIES = re.compile(
    r"\b(?:classify|categori[sz]e|category|label|intent|route|triage)\b", re.IGNORECASE
)
_BULLET = re.compile(r"^\s*[-*]\s+[\"'`]?([\w-]+)[\"'`]?\s*(?::|\u2013|-|$)", re.MULTILINE)
_SEPARATOR = re.compile(r",|\bor\b|\band\b|\|")
_SNIPPET = re.compile(r"\{[^{}]*\}")


def answer(conversation: Conversation, draw: Draw, *, right: bool) -> str:
    """What the model says; a made-up or garbled answer if it is not to be ``right``."""
    question = conversation.question
    if not conversation.results and not meanings(question):
        return "You are welcome. Is there anything else I can do for you?"
    options = [] if conversation.results else _options(conversation)
    if options:
        return _pick(options, question, draw, right=right)
    known = conversation.results or _given(conversation)
    if known:
        return _report(known, question, draw, right=right)
    subject = question[:80].rstrip("?.! ") or "that"
    if right:
        return f"I have no information about this: {subject}. Could you tell me more?"
    return facts.made_up(subject, draw)


def _given(conversation: Conversation) -> list[Any]:
    """What there is to answer from when no tool was asked: data and sentences in the messages."""
    text = f"{conversation.instructions}\n{conversation.question}"
    snippets = [facts.parse(snippet) for snippet in _SNIPPET.findall(text)]
    data = [snippet for snippet in snippets if isinstance(snippet, dict)]
    passages = _passages(conversation)
    return data or conversation.all_results[-2:] or ([passages] if passages else [])


def _report(results: Sequence[Any], question: str, draw: Draw, *, right: bool) -> str:
    sentences = []
    for number, result in enumerate(results):
        failure = facts.failure(result)
        if failure is not None and right:
            sentences.append(f"I could not find that: {failure.rstrip('.')}.")
            continue
        if failure is not None:
            sentences.append(facts.made_up("it", Draw(str(draw.uniform(f"made up {number}")))))
            continue
        found = facts.facts_of(result, question)
        sentences.append(facts.state(found if right else facts.wrong(found, draw)))
    return " ".join(sentence for sentence in sentences if sentence)


def _passages(conversation: Conversation) -> str:
    """The sentences of the context that bear on the question."""
    question = conversation.question
    about = meanings(question)
    context = conversation.instructions if conversation.instructions != question else ""
    bearing = [
        sentence.strip()
        for sentence in re.split(r"(?<=[.!?])\s+|\n+", context)
        if len(meanings(sentence) & about) >= 2 and any(c.isdigit() for c in sentence)  # noqa: PLR2004
    ]
    return "\n".join(bearing)


def _options(conversation: Conversation) -> list[str]:
    """The labels to choose from, if the task is to choose one."""
    text = conversation.instructions
    if not _CLASSIFIES.search(text):
        return []
    bullets = _BULLET.findall(text)
    if len(bullets) > 1:
        return list(bullets)
    match = _OPTIONS.search(text)
    if match is None:
        return []
    parts = [part.strip(" \"'`*()[]") for part in _SEPARATOR.split(match[1])]
    return [part for part in parts if part and len(part.split()) <= 3]  # noqa: PLR2004


def _pick(options: Sequence[str], text: str, draw: Draw, *, right: bool) -> str:
    about = meanings(text)
    best = max(options, key=lambda option: len(meanings(option) & about))
    if not meanings(best) & about:
        best = next((o for o in options if o.lower() in {"other", "general", "unknown"}), best)
    others = [option for option in options if option != best]
    return best if right or not others else str(draw.pick("label", others))


# ---------------------------------------------------------------- JSON answers


def structured(
    conversation: Conversation, form: Mapping[str, Any], draw: Draw, *, right: bool
) -> str:
    """The same as JSON, of the schema if there is one."""
    schema = (form.get("json_schema") or {}).get("schema")
    if not schema:
        return json.dumps({"answer": answer(conversation, draw, right=right)})
    value = _conform("", schema, conversation, draw, right=right)
    return json.dumps(value)


def _conform(
    name: str, schema: Mapping[str, Any], conversation: Conversation, draw: Draw, *, right: bool
) -> Any:
    """A value of the schema: from the facts if they name it, else the answer or a plain default."""
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        options = [str(option) for option in schema["enum"]]
        text = f"{conversation.question} {json.dumps(conversation.all_results)}"
        chosen = _pick(options, text, draw, right=right)
        return schema["enum"][options.index(chosen)]
    if kind == "object" or "properties" in schema:
        return {
            key: _conform(key, inner, conversation, draw, right=right)
            for key, inner in (schema.get("properties") or {}).items()
        }
    found, _ = fill(
        {"properties": {name: schema}, "required": []},
        Sources(question=conversation.question, results=conversation.all_results, earlier=""),
    )
    known = found[0].get(name) if found else None
    if kind == "array":
        return known if known is not None else []
    if known is not None:
        return known if right or not isinstance(known, int | float) else known + 1
    plain: dict[Any, Any] = {"integer": 0, "number": 0.0, "boolean": right, "null": None}
    return plain[kind] if kind in plain else answer(conversation, draw, right=right)
