from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.errors import Invalid
from penstock.rules.wires import openai as wire
from penstock.rules.wires import openai_forms, sse

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "main", "messages": MESSAGES, **fields}).encode()


def chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "m", **fields}).encode() + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    return chunk(choices=[{"index": index, "delta": fields, "finish_reason": finish}])


# ---------------------------------------------------------------- requests


def test_the_digest_ignores_order_spacing_and_how_the_answer_is_delivered() -> None:
    one = wire.parse_request(request(temperature=0.5, stream=False))
    other = json.dumps(
        {
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "u",
            "temperature": 0.5,
            "messages": [dict(reversed(list(m.items()))) for m in MESSAGES],
            "model": "main",
        },
        indent=2,
    ).encode()
    assert wire.parse_request(other).digest == one.digest


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.6},
        {"model": "judge"},
        {"messages": MESSAGES[::-1]},
        {"tools": []},
        {"seed": 1},
    ],
)
def test_the_digest_changes_with_whatever_may_change_the_answer(change: dict[str, Any]) -> None:
    base = wire.parse_request(request(temperature=0.5))
    assert wire.parse_request(request(**{"temperature": 0.5, **change})).digest != base.digest


def test_messages_and_tools_are_named_by_their_contents() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    parsed = wire.parse_request(request(tools=tools))
    assert [json.loads(parsed.contents[d]) for d in parsed.record["messages"]] == MESSAGES
    assert json.loads(parsed.contents[parsed.record["tools"]]) == tools
    assert all(wire.digest_of(content) == d for d, content in parsed.contents.items())


def test_the_pin_s_parameters_win_and_its_limit_replaces_the_agent_s_under_either_name() -> None:
    parsed = wire.parse_request(request(max_completion_tokens=9, temperature=1, stream=True))
    body = json.loads(parsed.with_model("gpt-x", {"max_tokens": 5, "temperature": 0}))
    assert body["model"] == "gpt-x"
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == MESSAGES
    assert parsed.maximum({}) == 9
    assert parsed.maximum({"max_tokens": 5}) == 5
    assert wire.parse_request(request(n=3, max_tokens=4)).maximum({}) == 12
    assert wire.parse_request(request()).maximum({}) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": []}',
        b'{"model": 1, "messages": [{}]}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": ["x"]}',
        b'{"model": "m", "messages": {}}',
        b'{"model": "m", "messages": [{}], "n": "x"}',
        b'{"model": "\xff", "messages": [{}]}',
        b'{"model": "m", "messages": [' + b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(body: bytes) -> None:
    with pytest.raises(Invalid, match=r"Chat Completions request"):
        wire.parse_request(body)


# ---------------------------------------------------------------- answers


def test_usage_keeps_cached_and_reasoning_tokens_apart() -> None:
    facts = wire.read_answer(
        json.dumps(
            {
                "model": "m-2024",
                "system_fingerprint": "fp",
                "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 3},
                },
            }
        ).encode()
    )
    assert facts.usage is not None
    assert (facts.usage.input_tokens, facts.usage.cached_tokens) == (10, 4)
    assert (facts.usage.output_tokens, facts.usage.reasoning_tokens) == (5, 3)
    assert (facts.model, facts.fingerprint) == ("m-2024", "fp")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices": []}', b'{"error": {"message": "no"}}'])
def test_a_200_that_is_no_completion_is_a_failed_call(body: bytes) -> None:
    with pytest.raises(Invalid):
        wire.read_answer(body)


# ---------------------------------------------------------------- events


@given(
    st.lists(st.sampled_from(["data: a", ": note", "event: x\ndata: b", "data: c\ndata: d"])),
    st.data(),
)
def test_events_are_the_same_however_the_bytes_are_cut(events: list[str], data: Any) -> None:
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    whole = "".join(event + "\n\n" for event in events).replace("\n", newline).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    splitter = sse.EventSplitter()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += splitter.feed(whole[start:end])
    # A CR at the very end may still be half of a CRLF, so the last event waits for more.
    expected = [event.encode() + b"\n\n" for event in events]
    if newline == "\r" and events:
        found += splitter.feed(b"\n")
    assert found == expected


def test_a_stream_is_followed_to_its_end() -> None:
    reader = wire.StreamReader()
    kinds = [
        reader.see(event)
        for event in (
            b": keep-alive\n\n",
            delta(role="assistant", content=""),
            delta(content="Hel"),
            delta(tool_calls=[{"index": 0}]),
            delta(finish="stop"),
            chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2}),
            b"data: [DONE]\n\n",
        )
    ]
    assert kinds == ["quiet", "quiet", "content", "content", "finish", "tail", "tail"]
    assert reader.done
    assert reader.finished
    assert reader.usage is not None
    assert reader.usage.input_tokens == 7


def test_a_stream_is_finished_only_when_every_choice_is() -> None:
    reader = wire.StreamReader()
    reader.see(delta(content="a", index=0))
    reader.see(delta(content="b", index=1))
    reader.see(delta(finish="stop", index=0))
    assert not reader.finished
    reader.see(delta(finish="stop", index=1))
    assert reader.finished


@pytest.mark.parametrize(
    "event", [b"data: {]\n\n", b'data: {"error": {"message": "overloaded"}}\n\n']
)
def test_an_error_in_a_stream_is_seen(event: bytes) -> None:
    reader = wire.StreamReader()
    assert reader.see(event) == "error"
    assert reader.error


def test_an_answer_becomes_a_stream_and_a_stream_an_answer() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    answer = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    stream = openai_forms.events_of(json.dumps(answer).encode(), include_usage=True)
    assert stream.endswith(wire.DONE)
    assert json.loads(openai_forms.assemble(stream)) == answer


def test_fragments_of_calls_and_texts_are_put_together() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    stream = b"".join(
        [
            delta(role="assistant", content="Hel"),
            delta(content="lo"),
            delta(tool_calls=[call]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
            delta(finish="tool_calls"),
            wire.DONE,
        ]
    )
    [choice] = json.loads(openai_forms.assemble(stream))["choices"]
    assert choice["message"]["content"] == "Hello"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_errors_speak_openai_s_format() -> None:
    error = json.loads(wire.error_body("no", kind="k", code="c"))["error"]
    assert error == {"message": "no", "type": "k", "param": None, "code": "c"}
    assert wire.describe_error(b'{"error": {"message": "bad key"}}') == "bad key"
    assert wire.describe_error(b"<html>") == "<html>"
