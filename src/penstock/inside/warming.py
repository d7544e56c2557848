"""What every attempt would pay for again, paid once in the zygote.

Nothing here calls the agent's code. It imports modules, and puts the libraries that the agent has
imported through requests and graphs of our own that go nowhere: no socket is opened, no thread is
left. A library that another version has changed is left cold; that costs time, nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.inside import context

if TYPE_CHECKING:
    from collections.abc import Callable

_HTTP = ("httpx", "httpx2")
_USUAL = {"verify": True, "cert": None, "trust_env": True}
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# How many TLS contexts a child finds ready. Reading the certificate authorities takes 17 ms of CPU
# for each client that an agent makes, also for one that only ever speaks to the gateway.
_CONTEXTS = 3

# What a graph of two nodes says, in the right order: its input and its start, then each node's
# update followed by the checkpoint that commits it.
_ORDER = ["checkpoint.put"] * 2 + ["update", "checkpoint.put"] * 2

_COMPLETION = {
    "id": "warm",
    "object": "chat.completion",
    "created": 1,
    "model": "warm",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "warm",
                "tool_calls": [
                    {
                        "id": "call",
                        "type": "function",
                        "function": {"name": "warm", "arguments": "{}"},
                    }
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_CHUNK = {
    "id": "warm",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "warm",
    "choices": [
        {"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": "warm"}}
    ],
}
_CALL = {"id": "call", "type": "function", "function": {"name": "warm", "arguments": "{}"}}
_REQUEST: dict[str, Any] = {
    "model": "warm",
    "messages": [
        {"role": "system", "content": "warm"},
        {"role": "user", "content": "warm"},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "call", "content": "warm"},
    ],
    "tools": [{"type": "function", "function": {"name": "warm", "parameters": {}}}],
    "temperature": 0,
}


def import_all(names: list[str]) -> int:
    """Import modules by name, skipping what fails; returns how many are new."""
    count = 0
    for name in names:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001, S112 - one module that cannot be warmed is no failure
            continue
        count += 1
    return count


def warm_up(runner: Any) -> None:
    """Exercise the libraries that are loaded; may be called again when more are."""
    works: list[Callable[[], None]] = [partial(_ready_contexts, name) for name in _HTTP]
    works.append(partial(_graph, runner))
    if "openai" in sys.modules:
        works.append(partial(_openai, is_async=runner.is_async))
    for work in works:
        # In a context of its own: no variable a library sets survives.
        try:
            contextvars.copy_context().run(work)
        except BaseException:  # noqa: BLE001, S112 - see the top of this module
            continue


class _Nowhere:
    """An attempt that is nobody's: it has no checkpoints and keeps none."""

    task = session = token = ""
    resume = False
    stopped = False
    modes = frozenset({"updates", "messages", "custom"})
    subgraphs = False

    def __init__(self, given: Any) -> None:
        self.input = given
        self.seen: list[str] = []

    def call(self, op: str, *_: Any, **__: Any) -> tuple[dict[str, Any], list[bytes]]:
        self.seen.append(op)
        return {"ok": True, "found": False}, []

    async def acall(self, op: str, *_: Any, **__: Any) -> tuple[dict[str, Any], list[bytes]]:
        return self.call(op)

    def event(self, kind: str, *_: Any) -> None:
        self.seen.append(kind)

    def delta(self, *_: Any) -> None:
        """Not kept."""


def _graph(runner: Any) -> None:
    """Run a graph of two empty nodes the way the agent's will be run.

    It also shows whether the runner may listen to updates where they are made: each must have
    been heard before the checkpoint that commits it.
    """
    if not hasattr(runner, "listen"):
        return
    from typing import TypedDict  # noqa: PLC0415 - as the next one

    from langgraph.graph import END, START, StateGraph  # noqa: PLC0415 - of the release

    def first(state: Any) -> dict[str, str]:  # noqa: ARG001 - a node takes the state
        return {"text": "warm"}

    async def second(state: Any) -> dict[str, str]:  # noqa: ARG001 - a node takes the state
        return {"text": "warm"}

    graph = StateGraph(TypedDict("Warm", {"text": str}))  # type: ignore[operator]
    graph.add_node("first", first)
    graph.add_node("second", second if runner.is_async else first)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    for tapped in (True, False):
        attempt: Any = _Nowhere({"text": "warm"})
        context.enter(attempt, alone=False)
        own = type(runner)(graph)
        own.listen(tapped=tapped)
        if runner.is_async:
            asyncio.run(own.arun(attempt))
        else:
            own.run(attempt)
        committed = [what for what in attempt.seen if what in ("update", "checkpoint.put")]
        runner.listen(tapped=tapped and committed == _ORDER)
        if committed == _ORDER:
            return


def _openai(*, is_async: bool) -> None:
    """Make a call, and a streamed one, with the OpenAI client; its answers are ours."""
    openai = sys.modules["openai"]
    base = sys.modules["openai._base_client"]
    http = getattr(base, "httpx2", None) or base.httpx
    for streamed in (False, True):
        for kind in ("sync", "async") if is_async else ("sync",):
            _call_openai(openai, http, streamed=streamed, is_async=kind == "async")


def _call_openai(openai: Any, http: Any, *, streamed: bool, is_async: bool) -> None:
    """One call over a network that consists of one answer."""
    core = sys.modules["httpcore2" if http.__name__ == "httpx2" else "httpcore"]
    prefix = "Async" if is_async else ""
    transport = getattr(http, f"{prefix}HTTPTransport")(verify=False)
    backend = getattr(core, f"{prefix}MockBackend")([_answer(streamed=streamed)])
    transport._pool._network_backend = backend  # noqa: SLF001 - there is no public way in
    client = getattr(openai, f"{prefix}OpenAI")(
        api_key="warm",
        base_url="http://127.0.0.1:1/v1",
        max_retries=0,
        http_client=getattr(http, f"{prefix}Client")(transport=transport),
    )
    create = client.chat.completions.create
    if is_async:
        asyncio.run(_consume(create, streamed=streamed))
    elif streamed:
        list(create(**_REQUEST, stream=True))
    else:
        create(**_REQUEST)


async def _consume(create: Callable[..., Any], *, streamed: bool) -> None:
    reply = await create(**_REQUEST, stream=streamed)
    if streamed:
        async for _ in reply:
            pass


def _answer(*, streamed: bool) -> bytes:
    """An HTTP response of the chat completions API."""
    if streamed:
        kind, body = "text/event-stream", f"data: {json.dumps(_CHUNK)}\n\ndata: [DONE]\n\n"
    else:
        kind, body = "application/json", json.dumps(_COMPLETION)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _ready_contexts(name: str) -> None:
    """Make an HTTP library's clients begin with a TLS context that was built in the zygote.

    Each context is handed out once per process, so no two clients of a process share one.
    """
    default: Any = sys.modules.get(f"{name}._transports.default")
    if default is None or hasattr(default.create_ssl_context, "__penstock__"):
        return
    build = default.create_ssl_context
    seen = [os.environ.get(key) for key in _CERTIFICATES]
    ready = [build() for _ in range(_CONTEXTS)]

    def create_ssl_context(*args: Any, **kwargs: Any) -> Any:
        usual = all(value is _USUAL.get(name) for name, value in kwargs.items()) and not args
        if usual and ready and seen == [os.environ.get(key) for key in _CERTIFICATES]:
            return ready.pop()
        return build(*args, **kwargs)

    create_ssl_context.__penstock__ = True  # type: ignore[attr-defined]
    default.create_ssl_context = create_ssl_context
