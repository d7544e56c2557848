"""Two agents whose every act is written down outside: a graph with parallel tools, plain steps."""

from __future__ import annotations

import shutil
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[2] / "examples" / "support"

COMMON = """
import os
import urllib.parse
import urllib.request

from openai import OpenAI
from penstock import idempotency_key, tool

client = OpenAI(max_retries=0)
LEDGER = os.environ["LEDGER"]


def tell(path, **query):
    urllib.request.urlopen(f"{LEDGER}/{path}?{urllib.parse.urlencode(query)}").read()


def ask(task, number):
    tell("hello", task=task, pid=os.getpid())
    stream = client.chat.completions.create(
        model="main",
        stream=True,
        messages=[{"role": "user", "content": f"task {task} call {number}"}],
    )
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def use(task, tool):
    tell("tool", task=task, tool=tool)
    return f"{tool} done"


@tool(effect="write", retry="keyed")
def charge(task):
    tell("effect", task=task, tool="charge", key=idempotency_key())
    return "charged"


@tool(effect="write", retry="never")
def send(task):
    tell("tool", task=task, tool="send")
    return "sent"
"""

GRAPH = """
import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

from common import ask, charge, send, use


class State(TypedDict, total=False):
    task: str
    said: Annotated[list[str], operator.add]


def model(number):
    def node(state):
        return {"said": [ask(state["task"], number)]}

    return node


def tool(name):
    def node(state):
        return {"said": [use(state["task"], name)]}

    return node


builder = StateGraph(State)
for number in (1, 2, 3):
    builder.add_node(f"model{number}", model(number))
for name in ("a1", "b1", "c1", "a2", "b2"):
    builder.add_node(name, tool(name))
builder.add_edge(START, "model1")
for name in ("a1", "b1", "c1"):
    builder.add_edge("model1", name)
builder.add_edge(["a1", "b1", "c1"], "model2")
for name in ("a2", "b2"):
    builder.add_edge("model2", name)
builder.add_edge(["a2", "b2"], "model3")
builder.add_node("charge", lambda state: {"said": [charge(state["task"])]})
builder.add_node("send", lambda state: {"said": [send(state["task"])]})
builder.add_edge("model3", "charge")
builder.add_edge("charge", "send")
builder.add_edge("send", END)
graph = builder.compile()
"""

PLAIN = """
from concurrent.futures import ThreadPoolExecutor

from common import ask, charge, send, use
from penstock import step


def agent(task):
    said = [step("first", ask, task, 1)]
    with ThreadPoolExecutor(2) as pool:
        said += pool.map(lambda tool: step(tool, use, task, tool), ("a1", "b1"))
    said.append(step("second", ask, task, 2))
    said.append(ask(task, 3))  # outside of any step: answered from the record when it is repeated
    said.append(charge(task))
    said.append(send(task))
    said.append(step("last", use, task, "c1"))
    return said
"""

STEPS = {"graph": None, "plain": {"first#1", "a1#1", "b1#1", "second#1", "last#1"}}
TOOLS = {"graph": ("a1", "b1", "c1", "a2", "b2"), "plain": ("a1", "b1", "c1")}
CALLS = 3


def write(folder: Path, agent: str, *, ledger: str) -> Path:
    """One of the two projects; both run in the example's environment, which is built once."""
    folder.mkdir(parents=True)
    entry = "work:graph" if agent == "graph" else "work:agent"
    (folder / "common.py").write_text(COMMON)
    (folder / "work.py").write_text(GRAPH if agent == "graph" else PLAIN)
    (folder / "penstock.yaml").write_text(
        f"agent: {agent}\nentrypoint: {entry}\n"
        "models: {main: [{model: ledger/ledger-2026-01-01, price: {input: $1, output: $1}}]}\n"
        "limits: {time: 60s, attempts: 100}\n"
        f"env: {{LEDGER: '{ledger}'}}\n"
    )
    for name in ("requirements.txt", "penstock.lock"):
        shutil.copy(SUPPORT / name, folder / name)
    return folder
