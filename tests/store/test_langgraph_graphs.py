"""Graphs run on our checkpointer as they run on LangGraph's own: same states, same histories."""

from __future__ import annotations

import os

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"  # as in an agent's process, before the import

import asyncio
import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from penstock.inside.channel import Refused
from penstock.inside.frameworks import hooks
from rollout_world import release
from saver_attempt import claimed, saver_of, session

LONG = "a word of many that a message is made of " * 20
CONFIG: Any = {"configurable": {"thread_id": "ses_1"}}


@pytest.fixture
async def ours(store):
    digest = (await release(store, "one")).digest
    await session(store, digest)
    return saver_of(store, await claimed(store, digest))


class Items(TypedDict):
    items: Annotated[list, operator.add]
    last: str


def chat():
    """A loop of messages, one of which is removed and one of which is changed."""

    def speak(state):
        number = int(state["messages"][-1].id[1:]) + 1
        said = [AIMessage(f"{number} {LONG}", id=f"m{number}")]
        if said[0].id == "m3":
            said += [RemoveMessage(id="m1"), AIMessage("changed", id="m2")]
        return {"messages": said}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    graph.add_conditional_edges("speak", lambda s: END if s["messages"][-1].id >= "m6" else "speak")
    return graph


def parallel():
    """Two nodes beside each other, one with a subgraph, and a map over sends."""
    inner = StateGraph(Items)
    inner.add_node("deep", lambda _: {"items": ["deep" + LONG], "last": "deep"})
    inner.add_edge(START, "deep")
    graph = StateGraph(Items)
    graph.add_node("left", lambda _: {"items": ["left" + LONG]})
    graph.add_node("right", inner.compile())
    graph.add_node("each", lambda state: {"items": [f"each {state['last']}"]})
    graph.add_node("join", lambda state: {"last": f"{len(state['items'])} items"})
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    sends = [Send("each", {"items": [], "last": str(number)}) for number in range(3)]
    graph.add_conditional_edges("left", lambda _: sends)
    graph.add_edge(["right", "each"], "join")
    return graph


def asking():
    """A node that asks twice, beside one that does not."""

    def ask(_):
        return {"items": [interrupt("first?"), interrupt("second?")]}

    graph = StateGraph(Items)
    graph.add_node("ask", ask)
    graph.add_node("work", lambda _: {"items": ["work" + LONG]})
    graph.add_edge(START, "ask")
    graph.add_edge(START, "work")
    return graph


def deltas():
    """A channel whose value LangGraph makes of its writes."""

    def add(before, writes):
        return (before or []) + [item for write in writes for item in write]

    state: Any = TypedDict(
        "Delta", {"items": Annotated[list, DeltaChannel(add, list, snapshot_frequency=4)], "n": int}
    )
    graph = StateGraph(state)
    graph.add_node("more", lambda s: {"items": [f"{s['n']} {LONG}"], "n": s["n"] + 1})
    graph.add_edge(START, "more")
    graph.add_conditional_edges("more", lambda s: "more" if s["n"] < 7 else END)
    return graph


async def straight(graph, given):
    return [await graph.ainvoke(given, CONFIG, durability="sync")]


async def answered(graph, given):
    first = await graph.ainvoke(given, CONFIG, durability="sync")
    second = await graph.ainvoke(Command(resume="one"), CONFIG, durability="sync")
    third = await graph.ainvoke(Command(resume="two"), CONFIG, durability="sync")
    return [
        {k: v for k, v in one.items() if k != "__interrupt__"} for one in (first, second, third)
    ]


async def travelled(graph, given):
    """Run, change the past, go on from there, and go on from the present."""
    await graph.ainvoke(given, CONFIG, durability="sync")
    history = [state async for state in graph.aget_state_history(CONFIG)]
    middle = history[len(history) // 2]
    forked = await graph.aupdate_state(middle.config, {"messages": [AIMessage("new", id="m4")]})
    one = await graph.ainvoke(None, forked, durability="sync")
    two = await graph.ainvoke({"messages": [AIMessage("more", id="m4")]}, CONFIG, durability="sync")
    again = await graph.ainvoke(None, middle.config, durability="sync")
    return [one, two, again]


CASES = {
    "a chat": (chat, {"messages": [HumanMessage("hello", id="m0")]}, straight),
    "time travel": (chat, {"messages": [HumanMessage("hello", id="m0")]}, travelled),
    "parallel nodes and a subgraph": (parallel, {"items": [], "last": ""}, straight),
    "questions": (asking, {"items": [], "last": ""}, answered),
    "delta channels": (deltas, {"items": ["first"], "n": 0}, straight),
}


class InThreads:
    """A graph whose sync methods are called, as those of a graph of sync nodes are."""

    def __init__(self, graph):
        self._graph = graph

    async def ainvoke(self, *args, **kwargs):
        return await asyncio.to_thread(self._graph.invoke, *args, **kwargs)

    async def aupdate_state(self, *args):
        return await asyncio.to_thread(self._graph.update_state, *args)

    async def aget_state_history(self, config):
        for state in await asyncio.to_thread(lambda: list(self._graph.get_state_history(config))):
            yield state


async def told(builder, given, run, saver, *, sync=False):
    """What a run returns, and its whole history without what is random in it."""
    graph = builder().compile(checkpointer=saver)
    if sync:
        graph = InThreads(graph)
    outputs = await run(graph, given)
    history = [
        (
            state.values,
            state.next,
            state.metadata["source"],
            state.metadata["step"],
            [
                (task.name, task.result, [one.value for one in task.interrupts])
                for task in state.tasks
            ],
        )
        async for state in graph.aget_state_history(CONFIG)
    ]
    return [plain(outputs), plain(history)]


def plain(value):
    """Messages without the ids that LangGraph gives them."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if hasattr(value, "content"):
            return (value.type, value.content)
    return value


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("case", CASES)
async def test_a_graph_runs_as_on_langgraphs_own_checkpointer(ours, case, sync):
    hooks.install()
    builder, given, run = CASES[case]
    mine = await told(builder, given, run, ours, sync=sync)
    assert mine == await told(builder, given, run, InMemorySaver(), sync=sync)


async def test_a_sync_graph_commits_in_the_thread_that_runs_it(ours):
    hooks.install()
    before = set(threading.enumerate())
    graph = chat().compile(checkpointer=ours)
    runner = []

    def run():
        runner.append(threading.get_ident())
        given = {"messages": [HumanMessage("hello", id="m0")]}
        for _ in graph.stream(given, CONFIG, durability="sync"):
            new = {thread.name for thread in set(threading.enumerate()) - before}
            assert new <= {threading.current_thread().name, "penstock-later"}

    await asyncio.to_thread(run)
    puts = [thread for op, thread in ours._attempt.threads if op == "checkpoint.put"]
    assert puts
    assert set(puts) == set(runner)


async def test_a_refused_checkpoint_is_the_sync_graphs_error(ours, monkeypatch):
    hooks.install()
    graph = chat().compile(checkpointer=ours)
    call = ours._attempt.call

    def refuse(op, *args, **fields):
        if op == "checkpoint.put" and fields["depth"]:
            raise Refused("not this one")
        return call(op, *args, **fields)

    monkeypatch.setattr(ours._attempt, "call", refuse)
    given = {"messages": [HumanMessage("hello", id="m0")]}
    with pytest.raises(Refused, match="not this one"):
        await asyncio.to_thread(graph.invoke, given, CONFIG, durability="sync")


async def test_what_one_node_wrote_is_kept_while_another_still_runs(ours):
    hooks.install()
    kept = threading.Event()
    begin = ours._attempt.begin_call

    def watched(op, *args, **fields):
        answer = begin(op, *args, **fields)
        if op == "checkpoint.writes":
            answer.add_done_callback(lambda _: kept.set())
        return answer

    ours._attempt.begin_call = watched
    graph = StateGraph(Items)
    graph.add_node("quick", lambda _: {"items": ["quick"]})
    graph.add_node("slow", lambda _: {"items": [f"slow {kept.wait(20)}"]})
    graph.add_edge(START, "quick")
    graph.add_edge(START, "slow")
    run = graph.compile(checkpointer=ours).invoke
    done = await asyncio.to_thread(run, {"items": [], "last": ""}, CONFIG, durability="sync")
    assert done["items"] == ["quick", "slow True"]
