"""LangGraph graphs: compiled or not, or a function that makes one."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.inside.attempts import Attempt

_INTERRUPT = "__interrupt__"
_TASK = "penstock_task"  # see langgraph_saver
_MESSAGES = "messages"

# What a module holds whose nodes write to the custom stream. Listening to that stream costs a
# thread and a hand-over per step, so it is done only for graphs that can write to it.
_WRITERS = ("get_stream_writer", "StreamWriter", "Runtime", "get_runtime")

# Packages of LangChain without a chat model; any other may stream tokens through its callbacks.
_NO_TOKEN_SOURCES = {"langchain_core", "langchain_protocol", "langchain_text_splitters"}


def is_graph(target: Any) -> bool:
    """Whether an entrypoint is a LangGraph graph, compiled or not."""
    return any(base.__module__.startswith("langgraph.") for base in type(target).__mro__)


def make(factory: Any) -> Any:
    """What a graph factory returns, or None when ``factory`` is no such function.

    A factory takes nothing, or one parameter named ``config`` (as in ``langgraph.json`` projects).
    """
    if "langgraph.graph" not in sys.modules or not callable(factory):
        return None
    try:
        names = list(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return None
    if names not in ([], ["config"]):
        return None
    made = factory(*({"configurable": {}} for _ in names))
    if inspect.iscoroutine(made):
        made = asyncio.run(made)
    if not is_graph(made):
        raise TypeError(
            "the entrypoint takes no input, so it should return a LangGraph graph; "
            f"it returned {type(made).__name__}"
        )
    return made


class GraphRunner:
    """Runs a graph on its session's latest checkpoint, committing every step."""

    def __init__(self, graph: Any) -> None:
        from penstock.inside.frameworks.langgraph_saver import PenstockSaver  # noqa: PLC0415 - needs LangGraph

        if not hasattr(graph, "stream"):
            graph = graph.compile()
        saver: Any = PenstockSaver()
        allowed = getattr(graph, "_serde_allowlist", None)
        if allowed is not None:
            saver = saver.with_allowlist(allowed)
        self.state_types = sorted(":".join(name) for name in allowed or ())
        self._saver = saver
        self._graph = graph
        self.is_async = _needs_loop(graph)
        self.listen(tapped=False)

    def listen(self, *, tapped: bool) -> None:
        """Settle how a run's stream is read, for the modules that are loaded now.

        Decided once, not by each attempt: looking through the modules touches pages that an
        attempt shares with the zygote.

        Args:
            tapped: this LangGraph reports updates to a listener of ours (see :func:`_tap`); the
                zygote tries that on a graph of its own first.
        """
        self._tapped = tapped
        modes = ["values"] if tapped else ["values", "updates", *_custom()]
        self._modes = [*modes, *_tokens()]

    def run(self, attempt: Attempt) -> Any:
        """Run a graph whose nodes can all be called in a thread."""
        output = _Output(attempt)
        graph, config = self._bound(attempt, output)
        given: Any = self._given(attempt)
        if attempt.resume:
            state = graph.get_state(config)
            if self._is_ours(state, attempt):
                if not state.tasks:  # unlike next, also those that wrote and were not committed
                    return self._visible(state.values)
                given = None
        stream = graph.stream(given, config, stream_mode=self._modes, durability="sync")
        for mode, chunk in stream:
            output.take(mode, chunk)
        return output.waits or self._visible(output.state)

    async def arun(self, attempt: Attempt) -> Any:
        """Run a graph with async nodes."""
        output = _Output(attempt)
        graph, config = self._bound(attempt, output)
        given: Any = self._given(attempt)
        if attempt.resume:
            state = await graph.aget_state(config)
            if self._is_ours(state, attempt):
                if not state.tasks:  # unlike next, also those that wrote and were not committed
                    return self._visible(state.values)
                given = None
        stream = graph.astream(given, config, stream_mode=self._modes, durability="sync")
        async for mode, chunk in stream:
            output.take(mode, chunk)
        return output.waits or self._visible(output.state)

    def _bound(self, attempt: Attempt, output: _Output) -> tuple[Any, dict[str, Any]]:
        """The graph with the attempt's saver, and the config that makes its session the thread.

        A copy: the agent's own object keeps the saver its author gave it.
        """
        attempt.partial = lambda: self._visible(output.state)
        graph = copy.copy(self._graph)
        graph.checkpointer = self._saver.of(attempt)
        known: dict[str, Any] = {"thread_id": attempt.session}
        if self._tapped:
            known |= _tap(output)
        else:
            # LangGraph then yields a step's updates before its checkpoint is written, not after.
            graph.stream_eager = True
        return graph, {"configurable": known}

    def _given(self, attempt: Attempt) -> Any:
        """The task's input as the graph takes it: a text is a message of the user."""
        if isinstance(attempt.input, str) and _MESSAGES in self._graph.channels:
            return {_MESSAGES: [{"role": "user", "content": attempt.input}]}
        return attempt.input

    def _visible(self, state: Any) -> Any:
        """The part of a state that the graph's output schema names."""
        keys = self._graph.output_channels
        if isinstance(keys, str):
            return state.get(keys) if isinstance(state, dict) else state
        return {key: state[key] for key in keys if key in state} if state else state

    @staticmethod
    def _is_ours(state: Any, attempt: Attempt) -> bool:
        """Whether the session's latest checkpoint was committed by this very task."""
        return (state.metadata or {}).get(_TASK) == attempt.task


class _Output:
    """Gathers what a graph streams: updates as events, tokens as deltas, the last state.

    ``waits`` is what the graph waits for, when it does not end but ask a person.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.state: Any = None
        self.waits: dict[str, Any] | None = None

    def take(self, mode: str, chunk: Any) -> None:
        """One item of the stream."""
        if mode == "values":
            self.state = chunk
        elif mode == "updates":
            if _INTERRUPT in chunk:
                known = self.waits["interrupt"] if self.waits else []
                found = [_interrupted(one) for one in chunk[_INTERRUPT]]
                self.waits = {"interrupt": [*known, *(one for one in found if one not in known)]}
                return
            self._attempt.event("update", chunk)
        elif mode == _MESSAGES:
            message, metadata = chunk
            if message.content:
                node = metadata.get("langgraph_node")
                self._attempt.delta({"mode": mode, "content": message.content, "node": node})
        else:
            self._attempt.delta({"mode": mode, "data": chunk})


def _interrupted(interrupt: Any) -> dict[str, Any]:
    """What a node asks a person."""
    return {"value": getattr(interrupt, "value", interrupt), "id": getattr(interrupt, "id", None)}


def _needs_loop(graph: Any) -> bool:
    """Whether some node of a graph can only be awaited."""
    return any(
        getattr(part, "func", None) is None and getattr(part, "afunc", None) is not None
        for part in _parts(graph, set())
    )


def _parts(graph: Any, seen: set[int]) -> Iterator[Any]:
    """The runnables below a graph's nodes and branches, subgraphs included."""
    pending = list(getattr(graph, "nodes", {}).values())
    branches = getattr(getattr(graph, "builder", None), "branches", None) or {}
    pending += [branch.path for of_node in branches.values() for branch in of_node.values()]
    while pending:
        part = pending.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        pending.append(getattr(part, "bound", None))
        steps = getattr(part, "steps", None)
        pending += steps if isinstance(steps, list | tuple) else []
        nodes = getattr(part, "nodes", None)
        pending += list(nodes.values()) if isinstance(nodes, dict) else []


def _tap(output: _Output) -> dict[str, Any]:
    """What makes LangGraph hand every update to ``output`` at the moment it is made.

    Reading updates from the stream instead gets them after the step's checkpoint was committed,
    so that a crash in between loses them; and its remedy (``stream_eager``) costs a thread and a
    hand-over for each step.
    """
    from langgraph.pregel.protocol import StreamProtocol  # noqa: PLC0415 - of the release
    from langgraph.runtime import Runtime  # noqa: PLC0415 - of the release

    def hear(chunk: Any) -> None:
        namespace, mode, data = chunk
        if not namespace:
            output.take(mode, data)

    return {
        "__pregel_stream": StreamProtocol(hear, {"updates"}),
        "__pregel_runtime": Runtime(stream_writer=lambda data: output.take("custom", data)),
    }


def _tokens() -> list[str]:
    """The stream of tokens, when a package is loaded whose chat models write to it."""
    loaded = {name.partition(".")[0] for name in sys.modules} - _NO_TOKEN_SOURCES
    return [_MESSAGES] if any(name.startswith("langchain") for name in loaded) else []


def _custom() -> list[str]:
    """The stream that nodes write to themselves, when the agent's code can do so."""
    own = [
        module
        for module in list(sys.modules.values())
        if "site-packages" not in (path := getattr(module, "__file__", None) or "site-packages")
        and not path.startswith((sys.prefix, sys.base_prefix))
    ]
    return ["custom"] if any(name in vars(module) for module in own for name in _WRITERS) else []
