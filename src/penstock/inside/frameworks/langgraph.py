"""LangGraph graphs: compiled or not, or a function that makes one."""

from __future__ import annotations

import asyncio
import copy
import inspect
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.inside.attempts import Waits, is_of_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.inside.attempts import Attempt

_INTERRUPT = "__interrupt__"
_TASK = "penstock_task"  # see langgraph_saver
_MESSAGES = "messages"
_TAPPED = ("debug",)  # modes that are heard where updates are, if somebody wants them

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
        from penstock.inside.frameworks.langgraph_store import PenstockStore  # noqa: PLC0415 - the same

        saver: Any = PenstockSaver()
        allowed = getattr(graph, "_serde_allowlist", None)
        if allowed is not None:
            saver = saver.with_allowlist(allowed)
        self.state_types = sorted(":".join(name) for name in allowed or ())
        self._saver = saver
        self._graph = graph
        self._store_of = partial(PenstockStore.instead_of, getattr(graph, "store", None))
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
        self._tokens = _tokens()
        self._custom = _custom()

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
                before = graph.get_state(state.parent_config) if self._looks_back(state) else None
                given = self._going_on(state, before, attempt)
        for part in graph.stream(given, config, **self._streamed(attempt), durability="sync"):
            output.hear(part)
        if output.stopped:
            raise Waits(output.waits or [_breakpoint(graph.get_state(config))])
        return self._visible(output.state)

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
                looked = self._looks_back(state)
                before = await graph.aget_state(state.parent_config) if looked else None
                given = self._going_on(state, before, attempt)
        async for part in graph.astream(
            given, config, **self._streamed(attempt), durability="sync"
        ):
            output.hear(part)
        if output.stopped:
            raise Waits(output.waits or [_breakpoint(await graph.aget_state(config))])
        return self._visible(output.state)

    def look(self, attempt: Attempt) -> Any:
        """Show or edit the state of a session, as LangGraph sees it."""
        from penstock.inside.frameworks import langgraph_states  # noqa: PLC0415 - rarely needed

        graph = copy.copy(self._graph)
        graph.checkpointer = self._saver.of(attempt)
        return langgraph_states.look(graph, attempt.session, attempt.state or {})

    def _taps(self, attempt: Attempt) -> bool:
        """Whether this run's updates are heard where they are made.

        Not those of subgraphs: an async graph puts its own stream in our listener's place there.
        """
        return self._tapped and not attempt.subgraphs

    def _streamed(self, attempt: Attempt) -> dict[str, Any]:
        """What to ask of LangGraph's stream: no mode that nobody wants to see."""
        modes = ["values"]  # the last is the output
        if not self._taps(attempt):
            modes += ["updates"]
            modes += [mode for mode in _TAPPED if mode in attempt.modes]
            modes += self._custom if "custom" in attempt.modes else []
        modes += self._tokens if _MESSAGES in attempt.modes else []
        return {"stream_mode": modes, "subgraphs": attempt.subgraphs}

    def _bound(self, attempt: Attempt, output: _Output) -> tuple[Any, dict[str, Any]]:
        """The graph with the attempt's saver, and the config that makes its session the thread.

        A copy: the agent's own object keeps the saver its author gave it.
        """
        attempt.partial = lambda: self._visible(output.state)
        graph = copy.copy(self._graph)
        graph.checkpointer = self._saver.of(attempt)
        graph.store = self._store_of(attempt)
        attempt.interrupt = _interrupt()
        attempt.stop_for = _stop_for
        known: dict[str, Any] = {"thread_id": attempt.session}
        if self._taps(attempt):
            known |= _tap(output, attempt, graph.store)
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

    def _looks_back(self, state: Any) -> bool:
        """Whether it takes the step before a state to know if the graph stopped behind it."""
        return bool(self._graph.interrupt_after_nodes and state.parent_config)

    def _going_on(self, state: Any, before: Any, attempt: Attempt) -> Any:
        """What a graph is given that goes on from a state: the answers to what it asks there.

        An answer that a node has taken is in the writes on top of the checkpoint, or behind it;
        given again it could be taken for the answer to that node's next question. So only what is
        asked now is answered, however often the attempt is repeated.

        Raises:
            Waits: the graph stands at a breakpoint, and nobody has let it go on.
        """
        asked = {_id(one) for task in state.tasks for one in task.interrupts}
        answers = {
            key: attempt.answers[key]
            for key in asked
            if key in attempt.answers and not is_of_tool(key)
        }
        if answers:
            from langgraph.types import Command  # noqa: PLC0415 - of the release

            return Command(resume=answers)
        stop = _breakpoint(state)
        if not asked and stop["id"] not in attempt.answers:
            coming = _within(state.next, self._graph.interrupt_before_nodes)
            gone = before is not None and _within(before.next, self._graph.interrupt_after_nodes)
            if coming or gone:
                raise Waits([stop])
        return None

    @staticmethod
    def _is_ours(state: Any, attempt: Attempt) -> bool:
        """Whether the session's latest checkpoint was committed by this very task."""
        return (state.metadata or {}).get(_TASK) == attempt.task


class _Output:
    """Gathers what a graph streams: updates as events, the rest as deltas, the last state.

    ``stopped`` says that the graph has not ended; ``waits`` is what it asks, if anything.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.state: Any = None
        self.stopped = False
        self.waits: list[dict[str, Any]] = []

    def hear(self, part: tuple[Any, ...]) -> None:
        """An item as LangGraph yields it: with its namespace if subgraphs are streamed, too."""
        namespace, mode, chunk = part if self._attempt.subgraphs else ((), *part)
        self.take(mode, chunk, namespace)

    def take(self, mode: str, chunk: Any, namespace: tuple[str, ...] = ()) -> None:
        """One item of the stream."""
        if mode == "updates":
            self._update(chunk, namespace)
            return
        if mode == "values" and not namespace:
            self.state = chunk
        if mode not in self._attempt.modes or (namespace and not self._attempt.subgraphs):
            return
        if mode == _MESSAGES:
            chunk = _token(*chunk)
        if chunk is not None:
            self._attempt.delta(chunk, mode, namespace)

    def _update(self, chunk: Any, namespace: tuple[str, ...]) -> None:
        if _INTERRUPT in chunk:
            if not namespace:  # a subgraph's comes up to the root as well
                self._stop(chunk[_INTERRUPT])
            return
        if "updates" in self._attempt.modes and (not namespace or self._attempt.subgraphs):
            self._attempt.event("update", chunk, namespace)

    def _stop(self, asked: Any) -> None:
        self.stopped = True
        known = {wait["id"] for wait in self.waits}
        found = {_id(one): one.value for one in asked}
        self.waits += [
            {"id": key, "kind": "interrupt", "value": value}
            for key, value in found.items()
            if key not in known
        ]


def _token(message: Any, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """A piece of a model's message and where it comes from; None if it says nothing."""
    calls = getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None)
    if not message.content and not calls:
        return None
    token = {
        "content": message.content,
        "node": metadata.get("langgraph_node"),
        "id": getattr(message, "id", None),
        "type": getattr(message, "type", None),
    }
    if calls:
        token["tool_calls"] = calls
    if tags := metadata.get("tags"):
        token["tags"] = tags
    if name := metadata.get("ls_model_name"):
        token["model"] = name
    return token


def _id(interrupt: Any) -> str:
    """What an answer to an interrupt names."""
    return str(getattr(interrupt, "id", None) or getattr(interrupt, "interrupt_id", ""))


def _interrupt() -> Any:
    """LangGraph's own way to ask."""
    from langgraph.types import interrupt  # noqa: PLC0415 - of the release

    return interrupt


def _stop_for(wait: dict[str, Any]) -> NoReturn:
    """Stop the graph as an interrupt does: what runs beside this node comes to its end."""
    from langgraph.errors import GraphInterrupt  # noqa: PLC0415 - of the release
    from langgraph.types import Interrupt  # noqa: PLC0415 - of the release

    raise GraphInterrupt((Interrupt(value=wait["value"], id=wait["id"]),))


def _breakpoint(state: Any) -> dict[str, Any]:
    """What a person is asked where the graph was told to stop: whether it may go on."""
    found = state.config["configurable"].get("checkpoint_id", "")
    return {"id": f"breakpoint:{found}", "kind": "interrupt", "value": {"next": list(state.next)}}


def _within(nodes: Any, stops: Any) -> bool:
    """Whether one of some nodes is one to stop at."""
    return bool(nodes) and (stops == "*" or bool(set(nodes) & set(stops)))


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


def _tap(output: _Output, attempt: Attempt, store: Any) -> dict[str, Any]:
    """What makes LangGraph hand every update to ``output`` at the moment it is made.

    Reading updates from the stream instead gets them after the step's checkpoint was committed,
    so that a crash in between loses them; and its remedy (``stream_eager``) costs a thread and a
    hand-over for each step.
    """
    from langgraph.pregel.protocol import StreamProtocol  # noqa: PLC0415 - of the release
    from langgraph.runtime import Runtime  # noqa: PLC0415 - of the release

    def hear(chunk: Any) -> None:
        namespace, mode, data = chunk
        output.take(mode, data, tuple(namespace))

    modes: set[Any] = {"updates", *(mode for mode in _TAPPED if mode in attempt.modes)}
    runtime = Runtime(store=store)
    if "custom" in attempt.modes:
        writer = partial(_write, output)
        runtime = Runtime(store=store, stream_writer=writer)
    return {"__pregel_stream": StreamProtocol(hear, modes), "__pregel_runtime": runtime}


def _write(output: _Output, data: Any) -> None:
    output.take("custom", data, _where())


def _where() -> tuple[str, ...]:
    """The namespace of the graph whose node is running."""
    from langgraph.config import get_config  # noqa: PLC0415 - of the release

    try:
        path = get_config()["configurable"]["checkpoint_ns"]
    except (RuntimeError, KeyError):  # written from somewhere that is no node
        return ()
    return tuple(path.split("|")[:-1])


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
