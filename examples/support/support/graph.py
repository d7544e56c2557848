"""The support agent: a graph of four nodes around an OpenAI client."""

import json
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from openai import OpenAI

from penstock import prompt
from support import tools

MOST_ROUNDS = 4

client = OpenAI()


class State(TypedDict, total=False):
    """What a conversation holds."""

    question: str
    messages: Annotated[list[dict[str, Any]], operator.add]
    answer: str


def prepare(state: State) -> State:
    """Put the question to the conversation; the instructions stand at its top once."""
    begun = [] if state.get("messages") else [{"role": "system", "content": prompt("system")}]
    return {"messages": [*begun, {"role": "user", "content": state["question"]}]}


def model(state: State) -> State:
    """Ask the model what to do, or what to say."""
    reply = client.chat.completions.create(
        model="support", messages=state["messages"], tools=tools.SCHEMAS
    )
    message = reply.choices[0].message
    said: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    return {"messages": [said]}


def use_tools(state: State) -> State:
    """Do what the model asked for."""
    results = []
    for call in state["messages"][-1]["tool_calls"]:
        result = tools.run(call["function"]["name"], call["function"]["arguments"])
        results.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)})
    return {"messages": results}


def finish(state: State) -> State:
    """Hand the last message to the customer."""
    return {"answer": state["messages"][-1]["content"] or ""}


def wants_tools(state: State) -> str:
    rounds = sum(message["role"] == "tool" for message in state["messages"])
    asked = state["messages"][-1].get("tool_calls")
    return "tools" if asked and rounds < MOST_ROUNDS else "finish"


builder = StateGraph(State)
builder.add_node("prepare", prepare)
builder.add_node("model", model)
builder.add_node("tools", use_tools)
builder.add_node("finish", finish)
builder.add_edge(START, "prepare")
builder.add_edge("prepare", "model")
builder.add_conditional_edges("model", wants_tools, ["tools", "finish"])
builder.add_edge("tools", "model")
builder.add_edge("finish", END)
graph = builder.compile()
