"""What a graph says in each mode, and what it does not say when nobody asked."""

from __future__ import annotations

import textwrap

import pytest
from zygote_harness import ZygoteProcess

from penstock.rules.streams import MODES

GRAPH = """
    from typing import TypedDict
    from langgraph.config import get_stream_writer
    from langgraph.graph import END, START, StateGraph
    from langchain_pretend import model

    class State(TypedDict, total=False):
        text: str

    def inner(state):
        get_stream_writer()({"from": "inner"})
        return {"text": state["text"] + model.invoke("hi").content}

    async def ainner(state):
        return inner(state)

    def first(state):
        get_stream_writer()({"from": "first"})
        return {"text": "1 "}

    def build(node):
        child = StateGraph(State)
        child.add_node("inner", node)
        child.add_edge(START, "inner")
        graph = StateGraph(State)
        graph.add_node("first", first)
        graph.add_node("child", child.compile())
        graph.add_edge(START, "first")
        graph.add_edge("first", "child")
        return graph.compile()

    graph, agraph = build(inner), build(ainner)
    """
MODEL = """
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    model = GenericFakeChatModel(messages=iter([AIMessage("two three")] * 9))
    """


@pytest.fixture(scope="module")
def zygotes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    (folder / "mine.py").write_text(textwrap.dedent(GRAPH))
    (folder / "langchain_pretend.py").write_text(textwrap.dedent(MODEL))
    found = {name: ZygoteProcess(folder, f"mine:{name}") for name in ("graph", "agraph")}
    yield found
    for zygote in found.values():
        zygote.close()


@pytest.fixture(params=["graph", "agraph"])
def said(request, zygotes):
    """Runs the graph with modes: what it said as (mode or kind, namespace, data)."""

    def run(*modes, subgraphs=False):
        stream = {"modes": modes, "subgraphs": subgraphs}
        result = zygotes[request.param].run({"text": ""}, stream=stream)
        assert result.finish.get("output") == {"text": "1 two three"}, result
        found = []
        for frame in result.frames:
            if frame["t"] == "event":
                kind, *namespace = frame["kind"].split("|")
                found.append((kind, namespace, frame["data"]))
            elif frame["t"] == "delta":
                found.append((frame["mode"], frame.get("ns", []), frame["data"]))
        return found

    return run


def of(said, mode):
    return [(namespace, data) for kind, namespace, data in said if kind == mode]


def test_nothing_is_said_that_was_not_asked_for(said):
    assert said() == []
    assert {kind for kind, _, _ in said("custom")} == {"custom"}


def test_updates_are_events(said):
    assert said("updates") == [
        ("update", [], {"first": {"text": "1 "}}),
        ("update", [], {"child": {"text": "1 two three"}}),
    ]


def test_values_are_the_whole_state_after_each_step(said):
    assert [data for _, data in of(said("values"), "values")] == [
        {"text": ""},
        {"text": "1 "},
        {"text": "1 two three"},
    ]


def test_messages_say_where_they_come_from(said):
    tokens = of(said("messages", subgraphs=True), "messages")
    assert "".join(data["content"] for _, data in tokens) == "two three"
    assert {data["node"] for _, data in tokens} == {"inner"}
    assert {namespace[0].partition(":")[0] for namespace, _ in tokens} == {"child"}


def test_debug_tells_of_tasks_and_checkpoints(said):
    types = {data["type"] for _, data in of(said("debug"), "debug")}
    assert types == {"task", "task_result", "checkpoint"}


def test_subgraphs_speak_when_they_are_asked_to(said):
    alone = said("updates", "custom")
    assert of(alone, "custom") == [([], {"from": "first"})]
    assert all(not namespace for _, namespace, _ in alone)
    whole = said("updates", "custom", "values", subgraphs=True)
    assert [data for namespace, data in of(whole, "custom") if namespace] == [{"from": "inner"}]
    assert [data for namespace, data in of(whole, "update") if namespace] == [
        {"inner": {"text": "1 two three"}}
    ]
    assert {len(namespace) for namespace, _ in of(whole, "values")} == {0, 1}
    assert [data for namespace, data in of(whole, "update") if not namespace] == [
        {"first": {"text": "1 "}},
        {"child": {"text": "1 two three"}},
    ]


def test_every_mode_can_be_asked_for_at_once(said):
    kinds = {kind for kind, _, _ in said(*MODES, subgraphs=True)}
    assert kinds == {"update", "messages", "custom", "values", "debug"}
