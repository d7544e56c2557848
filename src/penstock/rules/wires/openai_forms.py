"""A recorded answer in the other form: JSON as the stream it would have been, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.domain.errors import Invalid
from penstock.rules.wires import sse
from penstock.rules.wires.openai import DONE

_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def events_of(answer: bytes, *, include_usage: bool) -> bytes:
    """A complete JSON answer as the stream it would have been."""
    whole = _any(answer)
    head = {
        name: whole[name]
        for name in ("id", "created", "model", "system_fingerprint")
        if name in whole
    }
    head["object"] = "chat.completion.chunk"
    events = []
    for choice in whole["choices"]:
        index = choice.get("index", 0)
        message = dict(choice["message"])
        calls = message.get("tool_calls")
        if calls:
            message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        events.append(
            {**head, "choices": [{"index": index, "delta": message, "finish_reason": None}]}
        )
        finish = {
            "index": index,
            "delta": {},
            "finish_reason": choice.get("finish_reason") or "stop",
        }
        events.append({**head, "choices": [finish]})
    if include_usage and whole.get("usage"):
        events.append({**head, "choices": [], "usage": whole["usage"]})
    return b"".join(sse.event_of(event) for event in events) + DONE


def assemble(stream: bytes) -> bytes:
    """The JSON answer that a complete stream adds up to.

    Raises:
        Invalid: the stream carries no choice.
    """
    whole: dict[str, Any] = {"object": "chat.completion"}
    choices: dict[int, dict[str, Any]] = {}
    for event in sse.EventSplitter().feed(stream):
        data = sse.data_of(event)
        if not data or data == b"[DONE]":
            continue
        chunk = _any(data)
        for name in ("id", "created", "model", "system_fingerprint", "service_tier", "usage"):
            if chunk.get(name) is not None:
                whole[name] = chunk[name]
        for choice in chunk.get("choices") or ():
            into = choices.setdefault(
                choice.get("index", 0),
                {
                    "index": choice.get("index", 0),
                    "message": {"role": "assistant", "content": None},
                },
            )
            _add(into["message"], choice.get("delta") or {})
            if choice.get("finish_reason"):
                into["finish_reason"] = choice["finish_reason"]
    if not choices:
        raise Invalid("the recorded stream carries no choice")
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return _encode(whole)


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value or ():
                _add_call(calls, part)
        elif name == "role":
            message["role"] = value or message["role"]
        elif isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    index = part.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = part.get("id") or call["id"]
    call["type"] = part.get("type") or call["type"]
    function = part.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
