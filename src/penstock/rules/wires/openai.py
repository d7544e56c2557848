"""OpenAI's Chat Completions as a pure codec: requests, answers, events, errors.

Requests are taken apart once. What identifies a call (:attr:`Request.digest`) is the canonical
JSON of everything that can change its answer, with each message named by its own digest, so a
history that is sent again at every step is hashed and kept as the same few contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.domain.errors import Invalid
from penstock.domain.exchanges import Usage
from penstock.rules.wires import sse

CHARACTERS_PER_TOKEN = 4  # a rule of thumb; used only where the provider did not count

# How an answer is delivered, billed or attributed does not change what it says.
_INSIGNIFICANT = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
_MAXIMUM = ("max_completion_tokens", "max_tokens")  # two names of one setting

_canonical = msgspec.json.Encoder(order="sorted").encode
_encode = msgspec.json.Encoder().encode
_any = msgspec.json.Decoder().decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


class _Peek(msgspec.Struct):
    """What admission has to know of a request."""

    model: str
    messages: msgspec.Raw
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_peek = msgspec.json.Decoder(_Peek).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A Chat Completions request, taken apart."""

    alias: str  # what the agent calls the model
    stream: bool
    include_usage: bool  # whether the agent wants the usage chunk of a stream
    max_tokens: int | None
    choices: int
    size: int  # bytes of the body
    digest: str  # sha256 of the canonical request; the key under which it is found again
    record: Mapping[str, Any]  # the request with messages and tools as digests
    contents: Mapping[str, bytes]  # digest → canonical message or tools
    fields: Mapping[str, msgspec.Raw]  # as the agent sent them

    def with_model(self, model: str, parameters: Mapping[str, Any]) -> bytes:
        """The body for a provider: its model id, and the pin's parameters over the agent's."""
        fields: dict[str, Any] = {**self.fields, "model": model}
        if any(name in parameters for name in _MAXIMUM):
            for name in _MAXIMUM:
                fields.pop(name, None)
        fields.update(parameters)
        fields["stream"] = self.stream
        fields.pop("stream_options", None)
        if self.stream:
            # The tail chunk carries the usage; whether the agent sees it is decided on the way out.
            fields["stream_options"] = {"include_usage": True}
        return _encode(fields)

    def maximum(self, parameters: Mapping[str, Any]) -> int | None:
        """Tokens that all choices of the answer may have, or ``None`` if nothing says."""
        pinned = next((parameters[name] for name in _MAXIMUM if name in parameters), None)
        most = self.max_tokens if pinned is None else int(pinned)
        return None if most is None else most * int(parameters.get("n") or self.choices)


def parse_request(body: bytes) -> Request:
    """Take a request apart.

    Raises:
        Invalid: it is not JSON, or not a Chat Completions request.
    """
    try:
        peek = _peek(body)
        fields = _fields(body)
        messages = _messages(peek.messages)
        contents: dict[str, bytes] = {}
        names = [_keep(contents, _canonical(message)) for message in messages]
        record: dict[str, Any] = {"model": peek.model, "messages": names}
        for name, raw in fields.items():
            if name == "tools":
                record["tools"] = _keep(contents, _canonical(_any(raw)))
            elif name not in {"model", "messages"}:
                record[name] = _any(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not a Chat Completions request: {error}") from None
    if not messages:
        raise Invalid("`messages` is empty: a Chat Completions request carries at least one")
    significant = {name: value for name, value in record.items() if name not in _INSIGNIFICANT}
    most = peek.max_tokens if peek.max_completion_tokens is None else peek.max_completion_tokens
    return Request(
        alias=peek.model,
        stream=bool(peek.stream),
        include_usage=bool((peek.stream_options or {}).get("include_usage")),
        max_tokens=most,
        choices=max(1, peek.n or 1),
        size=len(body),
        digest=digest_of(_canonical(significant)),
        record=record,
        contents=contents,
        fields=fields,
    )


def digest_of(content: bytes) -> str:
    """The address of a content: sha256 in lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def _keep(contents: dict[str, bytes], content: bytes) -> str:
    digest = digest_of(content)
    contents[digest] = content
    return digest


# ---------------------------------------------------------------- answers


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    finish_reason: str | None = None
    delta: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    """A completion or one chunk of it; what is not named here is skipped by the parser."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFacts:
    """What the record says of an answer beside its body."""

    usage: Usage | None  # None: the provider did not count
    model: str | None
    fingerprint: str | None


def read_answer(body: bytes) -> AnswerFacts:
    """The facts of a complete JSON answer.

    Raises:
        Invalid: it is not a completion; a 200 with something else in it is a failed call.
    """
    try:
        answer = _answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the answer is not a completion: {error}") from None
    if answer.error is not None:
        raise Invalid(f"the answer is an error: {describe_error(body)}")
    if not answer.choices:
        raise Invalid("the answer has no choices")
    return AnswerFacts(
        usage=_usage(answer.usage), model=answer.model, fingerprint=answer.system_fingerprint
    )


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None:
        return None
    cached = usage.prompt_tokens_details
    reasoning = usage.completion_tokens_details
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=(cached.cached_tokens or 0) if cached else 0,
        reasoning_tokens=(reasoning.reasoning_tokens or 0) if reasoning else 0,
    )


def estimate_tokens(size: int) -> int:
    """About how many tokens ``size`` bytes of text are."""
    return -(-size // CHARACTERS_PER_TOKEN)


# ---------------------------------------------------------------- events


DONE = b"data: [DONE]\n\n"


class StreamReader:
    """Follows a stream's events: which carry content, which end it, what the tail says."""

    __slots__ = ("_open", "content_bytes", "done", "error", "fingerprint", "model", "usage")

    def __init__(self) -> None:
        self._open: dict[int, bool] = {}  # choice → has not finished
        self.usage: Usage | None = None
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.error: str | None = None
        self.done = False  # [DONE] was seen
        self.content_bytes = 0  # of the deltas, about

    @property
    def finished(self) -> bool:
        """Whether every choice that began gave its reason to finish."""
        return bool(self._open) and not any(self._open.values())

    def see(self, event: bytes) -> str:
        """What kind of event this is: ``quiet``, ``content``, ``finish``, ``tail`` or ``error``.

        ``quiet`` events (comments, the role of the message) say nothing yet, so a chain may still
        fall back after them; ``tail`` is the usage chunk or ``[DONE]``.
        """
        data = sse.data_of(event)
        if not data:
            return "quiet"
        if data == b"[DONE]":
            self.done = True
            return "tail"
        try:
            chunk = _answer(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.error = f"an event is not a completion chunk: {error}"
            return "error"
        if chunk.error is not None:
            self.error = describe_error(data)
            return "error"
        self.model = chunk.model or self.model
        self.fingerprint = chunk.system_fingerprint or self.fingerprint
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        if not chunk.choices:
            return "tail" if chunk.usage is not None else "quiet"
        kind = "quiet"
        for choice in chunk.choices:
            self._open[choice.index or 0] = choice.finish_reason is None
            if choice.finish_reason is not None:
                kind = "finish"
            elif kind == "quiet" and _says_something(choice.delta):
                kind = "content"
                self.content_bytes += len(data) - _ENVELOPE
        return kind


_ENVELOPE = 180  # bytes of a chunk that are not content; only ever used for an estimate


def _says_something(delta: Mapping[str, Any] | None) -> bool:
    return any(value for name, value in (delta or {}).items() if name != "role")


def is_usage_chunk(event: bytes) -> bool:
    """Whether this is the tail chunk that carries the usage and no choice."""
    if b'"usage"' not in event:
        return False
    try:
        chunk = _answer(sse.data_of(event))
    except msgspec.MsgspecError:
        return False
    return chunk.usage is not None and not chunk.choices


def without_usage(events: Iterable[bytes]) -> bytes:
    """The events joined, less the usage chunk that the agent did not ask for."""
    return b"".join(event for event in events if not is_usage_chunk(event))


# ---------------------------------------------------------------- errors and models


def error_body(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> bytes:
    """An error in OpenAI's format; ``kind`` is what OpenAI calls its type."""
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error_event(message: str, *, code: str) -> bytes:
    """The event that ends a stream which could not be completed."""
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return sse.event_of({"error": error})


def describe_error(body: bytes) -> str:
    """What a provider's error says, in a few words."""
    try:
        found = _any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip() or "an empty answer"
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or error
    return str(error)[:300]


def models_body(aliases: Sequence[str]) -> bytes:
    """The list of models: the aliases of a release."""
    return _encode({"object": "list", "data": [_model(alias) for alias in aliases]})


def model_body(alias: str) -> bytes:
    """One model of the list."""
    return _encode(_model(alias))


def _model(alias: str) -> dict[str, Any]:
    return {"id": alias, "object": "model", "created": 0, "owned_by": "penstock"}
