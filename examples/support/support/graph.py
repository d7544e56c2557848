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
    """Put the question to the conversation; a plain text is in it already."""
    if not state.get("question"):
        return {}
    return {"question": "", "messages": [{"role": "user", "content": state["question"]}]}


def model(state: State) -> State:
    """Ask the model what to do, or what to say."""
    instructions = {"role": "system", "content": prompt("system")}
    reply = client.chat.completions.create(
        model="support", messages=[instructions, *state["messages"]], tools=tools.SCHEMAS
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
    """On to the tools, as long as the model asks for them and does not go round in circles."""
    roles = [message["role"] for message in state["messages"]]
    since_question = roles[len(roles) - roles[::-1].index("user") :]
    asked = state["messages"][-1].get("tool_calls")
    return "tools" if asked and since_question.count("tool") < MOST_ROUNDS else "finish"


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
