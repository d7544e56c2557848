"""Model calls side by side, in tools and streamed: a restarted step pays for none of them twice."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from penstock.cli.projects import packed
from server_process import ServerProcess, providers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "chaos"))

from ledger import LedgerServer
from projects import SUPPORT

COMMON = """
import contextvars
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import OpenAI

import penstock

client = OpenAI(max_retries=0)
MARKS = Path(os.environ["MARKS"])

def ask(text, stream=False):
    messages = [{"role": "user", "content": text}]
    if stream:
        chunks = client.chat.completions.create(model="main", stream=True, messages=messages)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return client.chat.completions.create(model="main", messages=messages).choices[0].message.content

def mark(name):
    (MARKS / name).touch()

def die_after(*names):
    "Once, when all of these were reached."
    while not all((MARKS / name).exists() for name in names):
        time.sleep(0.01)
    if (MARKS / "die").exists():
        (MARKS / "die").unlink()
        os.kill(os.getpid(), 9)

@penstock.tool(effect="read", retry="safe")
def research(text):
    return ask(text)
"""

# Steps side by side: the first is committed when the second one, which has its answer, dies.
PLAIN = (
    COMMON
    + """
def first(text):
    return ask(text, stream=True)

def second(text):
    found = [research(text), ask(text), ask(text, stream=True)]
    die_after("first")
    return found

def agent(text):
    def one():
        said = penstock.step("first", first, text)
        mark("first")
        return said
    with ThreadPoolExecutor(2) as pool:
        works = [one, lambda: penstock.step("second", second, text)]
        futures = [pool.submit(contextvars.copy_context().run, work) for work in works]
        return [future.result() for future in futures]
"""
)

# Nodes of one superstep; all ask the same.
GRAPH = (
    COMMON
    + """
import operator
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    text: str
    said: Annotated[list, operator.add]

def plain(state):
    said = ask(state["text"])
    mark("plain")
    return {"said": [said]}

def streamed(state):
    said = ask(state["text"], stream=True)
    mark("streamed")
    return {"said": [said]}

def tools(state):
    said = [research(state["text"]), ask(state["text"])]
    die_after("plain", "streamed")
    return {"said": said}

builder = StateGraph(State)
for node in (plain, streamed, tools):
    builder.add_node(node)
    builder.add_edge(START, node.__name__)
agent = builder.compile()
"""
)


@pytest.mark.parametrize("agent", ["plain", "graph"])
def test_nothing_is_paid_twice(tmp_path, agent):
    with LedgerServer() as outside:
        server = ServerProcess(tmp_path / "home", environment=providers(outside.url))
        server.start()
        try:
            folder, marks = tmp_path / agent, tmp_path / "marks"
            folder.mkdir()
            marks.mkdir()
            (marks / "die").touch()
            (folder / "work.py").write_text(PLAIN if agent == "plain" else GRAPH)
            (folder / "penstock.yaml").write_text(
                f"agent: {agent}\nentrypoint: work:agent\n"
                "models: {main: [{model: ledger/ledger-2026-01-01,"
                " price: {input: $1, output: $1}}]}\n"
                f"limits: {{time: 60s}}\nenv: {{MARKS: '{marks}'}}\n"
            )
            for name in ("requirements.txt", "penstock.lock"):
                shutil.copy(SUPPORT / name, folder / name)
            with server.client() as client:
                cut = client.cut_release(packed(folder))
                client.deploy(agent, ref=cut["release"]["digest"])
                text = "task one call"
                given = text if agent == "plain" else {"text": text}
                task = client.create_task(agent=agent, input=given, wait=60)
                exchanges = client.exchanges(task["id"])["items"]
        finally:
            server.stop()
    assert task["state"] == "completed", task["error"]
    assert not (marks / "die").exists()
    assert len(outside.ledger.asked[text]) == 4
    paid = [one for one in exchanges if one["outcome"] == "ok" and not one["replayed_from"]]
    assert len(paid) == 4
    assert any(one["replayed_from"] for one in exchanges)
