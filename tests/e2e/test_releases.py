"""Releases through the real command: each part alone, anywhere, whatever happens to the registry."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import mcp_server
from registry_process import RegistryProcess
from server_process import KEY, ServerProcess

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "support"
QUIET = {"PENSTOCK_SIMULATED_LATENCY": "0", "OPENAI_API_KEY": ""}
# No package index, no cache of one, and nothing on the way to another machine.
OFFLINE = {
    "UV_OFFLINE": "1",
    "UV_NO_CACHE": "1",
    "UV_NO_CONFIG": "1",
    "UV_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


@contextlib.contextmanager
def serving(home, **environment):
    found = ServerProcess(home, environment={**QUIET, **environment})
    found.start()
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("releases") / "home") as found:
        yield found


def command(server, folder):
    def run(*arguments, fails=False):
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *map(str, arguments)],
            env={
                **os.environ,
                "PENSTOCK_HOME": str(folder / "cli"),
                "PENSTOCK_URL": server.url,
                "PENSTOCK_KEY": KEY,
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder, timeout=300,
            check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + (done.stderr if fails else "")

    return run


def project(folder: Path, **files) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def answer(server, agent, text="go"):
    with server.client() as client:
        task = client.create_task(agent=agent, input=text, wait=60)
    assert task["state"] == "completed", task
    return task["output"]


def edited(folder, path, old, new):
    file = folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_each_part_is_released_and_rolled_back_alone(server, tmp_path):
    """Three releases of the example that differ in one part each; each part then goes back alone."""
    penstock = command(server, tmp_path)
    work = shutil.copytree(EXAMPLE, tmp_path / "support")

    def cut(agent="support"):
        penstock("release", work)
        penstock("deploy", agent, "latest", "--strategy", "all_at_once")
        return json.loads(penstock("release", "show", agent, "live", "--json"))

    first = cut()
    edited(work, "prompts/system.prompt", "friendly", "kind")
    second = cut()
    edited(work, "penstock.yaml", "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")
    third = cut()
    edited(work, "support/tools.py", "What the agent can do", "What it can do")
    fourth = cut()

    def differing(one, other):
        before, after = one["manifest"]["components"], other["manifest"]["components"]
        return {kind for kind in before if before[kind] != after[kind]}

    steps = [(first, second, "prompt"), (second, third, "model"), (third, fourth, "tools")]
    for before, after, kind in steps:
        assert differing(before, after) == {kind}
        said = json.loads(
            penstock("release", "diff", "support", before["digest"], after["digest"], "--json")
        )
        assert {item["difference"]["component"] for item in said} == {kind}
        parts = [release["composite"].split("+") for release in (before, after)]
        changed = {old.split("-")[0] for old, new in zip(*parts, strict=True) if old != new}
        assert changed == {kind}

    expected = fourth
    for kind, source in (("prompt", first), ("model", first), ("tools", first)):
        assert f"changes {kind} only" in penstock("rollback", "support", "--component", kind)
        live = json.loads(penstock("release", "show", "support", "live", "--json"))
        assert differing(expected, live) == {kind}
        assert live["manifest"]["components"][kind] == source["manifest"]["components"][kind]
        expected = live
    assert expected["digest"] == first["digest"]  # the same parts are the same release
    assert "1042" in json.dumps(answer(server, "support", "Where is order 1042?"))


def test_a_release_travels_to_an_empty_machine_without_network_or_project(server, tmp_path):
    """Exported, imported into an empty data directory with no package index: deployed, answering."""
    penstock = command(server, tmp_path)
    penstock("release", EXAMPLE)
    with server.client() as client:
        digest = client.releases("support")["items"][0]["digest"]
    exported = json.loads(
        penstock("release", "export", "support", digest, "-o", tmp_path / "support.tar", "--json")
    )
    unpacked = tmp_path / "unpacked"
    penstock("release", "export", "support", digest, "-o", unpacked)
    assert json.loads((unpacked / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    with serving(tmp_path / "elsewhere", **OFFLINE) as other:
        there = command(other, tmp_path)
        refused = there("release", "import", tmp_path / "support.tar", fails=True)
        assert exported["key"] in refused
        assert "not trusted" in refused
        there("release", "import", tmp_path / "support.tar", "--trust", exported["key"])
        again = json.loads(there("release", "import", unpacked, "--json"))
        assert again["created"] is False
        there("deploy", "support")
        assert "1042" in json.dumps(answer(other, "support", "Where is order 1042?"))
        with other.client() as client:
            assert client.release("support", "live")["digest"] == digest


AGENT = """\
import json, sys
from penstock import prompt
import {module} as library

def agent(text):
    if text == "all":
        return [str(prompt("system")), prompt("system").messages, prompt("system").parameters]
    return f"{{library.__version__}} {{prompt('system')}}".strip()
"""


def plain(folder, name, requirement, module, text="Hello."):
    return project(
        folder,
        **{
            "penstock.yaml": f"agent: {name}\nentrypoint: app:agent\n",
            "app.py": AGENT.format(module=module),
            "requirements.txt": requirement + "\n",
            "prompts/system.prompt": text,
        },
    )


def test_two_majors_of_one_dependency_serve_at_once(server, tmp_path):
    """A release on pydantic 1 and a release on pydantic 2 of the same agent answer side by side."""
    penstock = command(server, tmp_path)
    for major, requirement in (("old", "pydantic==1.10.*"), ("new", "pydantic==2.*")):
        penstock("release", plain(tmp_path / major, "majors", requirement, "pydantic"))
    penstock("deploy", "majors", "v1")
    penstock("deploy", "majors", "v2", "-e", "staging")
    with server.client() as client:
        tasks = [
            client.create_task(agent="majors", input="go", environment=where, wait=60)
            for where in ("production", "staging") * 3
        ]
    assert [task["output"].split(".")[0] for task in tasks] == ["1", "2"] * 3


def test_a_running_release_does_not_notice_what_happens_to_the_registry(tmp_path):
    """Label moved, prompt deleted, registry gone: not a byte changes, over a restart as well."""
    text = "---\nparameters: {temperature: 0.2}\n---\nSpeak of {{ what }}."
    source = AGENT.replace('prompt("system")', 'prompt("system", what="tulips")').replace(
        "prompt('system')", "prompt('system', what='tulips')"
    )
    with serving(tmp_path / "home") as server:
        penstock = command(server, tmp_path)
        folder = plain(tmp_path / "p", "steady", "six", "six", text)
        (folder / "app.py").write_text(source.format(module="six"))
        penstock("release", folder)
        penstock("deploy", "steady")
        before = answer(server, "steady", "all")
        assert before[0] == "Speak of tulips."
        assert before[2] == {"temperature": 0.2}
        penstock("prompt", "label", "steady", "system", "staging", "v1.0")
        (tmp_path / "other.prompt").write_text("Be rude.")
        penstock("prompt", "push", "steady", tmp_path / "other.prompt", "--name", "system",
                 "--label", "staging")  # fmt: skip
        refused = penstock("prompt", "delete", "steady", "system", "v1.0", fails=True)
        assert "part of v1" in refused
        assert answer(server, "steady", "all") == before
        server.stop()
        with contextlib.closing(sqlite3.connect(tmp_path / "home" / "penstock.sqlite")) as data:
            for table in ("release_components", "components", "labels", "label_moves"):
                data.execute(f"delete from {table}")
            data.commit()
        server.start()
        assert answer(server, "steady", "all") == before
        shutil.rmtree(tmp_path / "home" / "releases")  # it is made again from the artifact
        server.stop()
        server.start()
        assert answer(server, "steady", "all") == before


GRAPH = """\
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
from shop.words import greet

class State(TypedDict):
    text: str

def node(state: State) -> State:
    return {{"text": greet("{name}", state["text"])}}

builder = StateGraph(State)
builder.add_node("{name}", node)
builder.add_edge(START, "{name}")
builder.add_edge("{name}", END)
"""


def test_a_langgraph_project_of_three_graphs_deploys_unchanged(server, tmp_path):
    """``langgraph.json`` with three graphs, a src layout and a factory: not one line is changed."""
    penstock = command(server, tmp_path)
    files = {
        "langgraph.json": json.dumps(
            {
                "dependencies": ["."],
                "graphs": {
                    "order_bot": "./src/shop/orders.py:graph",
                    "refunds": "./src/shop/refunds.py:make",
                    "help": {"path": "./src/shop/help.py:builder", "description": "Helps."},
                },
                "env": {"SHOP": "Tulip"},
                "python_version": "3.11",
            }
        ),
        "pyproject.toml": '[project]\nname = "shop"\nversion = "1"\ndependencies = ["langgraph>=1"]\n',
        "src/shop/__init__.py": "",
        "src/shop/words.py": (
            "import os\ndef greet(name, text):\n    return f\"{os.environ['SHOP']} {name}: {text}\"\n"
        ),
        "src/shop/orders.py": GRAPH.format(name="orders") + "graph = builder.compile()\n",
        "src/shop/refunds.py": GRAPH.format(name="refunds")
        + "def make(config):\n    return builder.compile()\n",
        "src/shop/help.py": GRAPH.format(name="helping"),
    }
    folder = project(tmp_path / "shop", **files)
    cut = json.loads(penstock("release", folder, "--json"))
    assert [release["agent"] for release in cut["releases"]] == ["help", "order-bot", "refunds"]
    assert {path: (folder / path).read_text() for path in files} == files
    for release, node in (("help", "helping"), ("order-bot", "orders"), ("refunds", "refunds")):
        penstock("deploy", release)
        with server.client() as client:
            task = client.create_task(agent=release, input={"text": "hi"}, wait=60)
        assert task["output"] == {"text": f"Tulip {node}: hi"}


def test_a_state_type_that_cannot_be_found_fails_the_release_by_name(server, tmp_path):
    penstock = command(server, tmp_path)
    nested = (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING, TypedDict\n"
        "from dataclasses import dataclass\n"
        "from langgraph.graph import END, START, StateGraph\n"
        "if TYPE_CHECKING:\n    from decimal import Decimal\n"
        "@dataclass\nclass Price:\n    amount: Decimal\n"
        "class State(TypedDict):\n    price: Price\n"
        "builder = StateGraph(State)\nbuilder.add_node('n', lambda state: state)\n"
        "builder.add_edge(START, 'n')\ngraph = builder.compile()\n"
    )
    folder = project(
        tmp_path / "bad",
        **{
            "langgraph.json": '{"dependencies": ["langgraph>=1"], "graphs": {"bad": "./g.py:graph"}}',
            "g.py": nested,
        },
    )
    said = penstock("release", folder, fails=True)
    assert "g.Price" in said
    assert "Decimal" in said


def test_an_environment_adds_variables_and_makes_its_own_release(server, tmp_path):
    """Variables reach the process and change no digest; an overlay makes a derived release."""
    penstock = command(server, tmp_path)
    (tmp_path / "token").write_text("s3cret\n")
    code = (
        "import os\nTOKEN = os.environ.get('TOKEN')\n"
        "def agent(text):\n    return [os.environ.get('WHERE'), TOKEN, os.environ.get('MODE')]\n"
    )
    folder = project(
        tmp_path / "env",
        **{
            "penstock.yaml": "agent: placed\nentrypoint: app:agent\nenv: {MODE: usual}\n",
            "app.py": code,
        },
    )
    penstock("release", folder)
    penstock("deploy", "placed")
    penstock("environments", "set", "placed", "staging", "WHERE=here",
             f"TOKEN=file:{tmp_path}/token", "--overlay", "policy.env.MODE=careful")  # fmt: skip
    penstock("deploy", "placed", "v1", "-e", "staging")
    with server.client() as client:
        outputs = {
            where: client.create_task(agent="placed", input="", environment=where, wait=60)[
                "output"
            ]
            for where in ("production", "staging")
        }
        staged = client.release("placed", "live@staging")
        assert client.release("placed", "live")["number"] == 1
    assert outputs == {
        "production": [None, None, "usual"],
        "staging": ["here", "s3cret", "careful"],
    }
    assert staged["number"] == 2
    assert "s3cret" not in json.dumps(staged)
    assert "s3cret" not in penstock("environments", "show", "placed")


def test_prompts_are_published_without_code_and_conflicts_are_clear(server, tmp_path):
    penstock = command(server, tmp_path)
    file = tmp_path / "hello.prompt"
    file.write_text("---\nversion: 3.2\ntags: [beta]\n---\nHi {{ name }}.\n")
    assert "hello v3.2" in penstock("prompt", "push", "words", file)
    file.write_text("Hello {{ name }}.\n")
    assert "hello v3.3" in penstock("prompt", "push", "words", file, "--expect", "v3.2")
    file.write_text("Hey {{ name }}.\n")
    refused = penstock("prompt", "push", "words", file, "--expect", "v3.2", fails=True)
    assert "v3.3 by admin" in refused
    file.write_text("---\nversion: 3.2\n---\nSomething else\n")
    assert "v3.2 of prompt hello has other content" in penstock(
        "prompt", "push", "words", file, fails=True
    )
    file.write_text("Dear {% if %}\n")
    assert "hello.prompt:1" in penstock("prompt", "push", "words", file, fails=True)
    listed = json.loads(penstock("prompt", "list", "words", "hello", "--json"))
    assert [item["label"] for item in listed] == ["v3.3", "v3.2"]
    assert "+Hello {{ name }}." in penstock("prompt", "diff", "words", "hello", "v3.2", "v3.3")
    penstock("prompt", "label", "words", "hello", "production", "v3.3", "-m", "the new one")
    penstock("prompt", "label", "words", "hello", "production", "v3.2")
    said = penstock("prompt", "label", "words", "hello")
    assert "the new one" in said
    assert "protected" in said
    with server.client() as client:
        operator = client.create_key("mover", role="operator")["key"]
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "prompt", "label", "words", "hello", "production", "v3.3"],
        env={**os.environ, "PENSTOCK_URL": server.url, "PENSTOCK_KEY": operator},
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "may not do this" in done.stderr


def test_tools_of_an_mcp_server_are_pinned_and_a_drift_is_refused_or_tolerated(tmp_path):
    """Pinned at the release; when the server offers something else, the policy decides."""
    tool = {
        "name": "find",
        "description": "Find it.",
        "inputSchema": {"type": "object", "properties": {"id": {"type": "integer"}}},
        "annotations": {"readOnlyHint": True},
    }
    (tmp_path / "mcp").mkdir()
    offered = mcp_server.McpServer(tmp_path / "mcp", tools=[tool])
    try:
        with serving(tmp_path / "home") as server:
            penstock = command(server, tmp_path)
            for name in ("refuse", "tolerate"):
                folder = project(
                    tmp_path / name,
                    **{
                        "penstock.yaml": f"agent: {name}\nentrypoint: app:agent\ntools:\n"
                        f"  - {{mcp: '{offered.url}', name: crm, on_drift: {name}}}\n",
                        "app.py": "def agent(text):\n    return 'done'\n",
                    },
                )
                penstock("release", folder)
                penstock("deploy", name)
                assert answer(server, name) == "done"
            pinned = json.loads(penstock("release", "show", "refuse", "live", "--json"))["manifest"]
            assert [found["name"] for found in pinned["tools"]] == ["find"]
            assert pinned["tools"][0]["retry"] == "safe"
            assert pinned["sources"][0]["version"].startswith("4.2.0")
            changed = {**tool, "inputSchema": {"type": "object", "required": ["key"],
                       "properties": {"key": {"type": "string"}}}}  # fmt: skip
            offered.set(tools=[changed])
            server.stop()
            server.start()  # nothing is remembered: the next task compares
            assert answer(server, "tolerate") == "done"
            with server.client() as client:
                task = client.create_task(agent="refuse", input="go", wait=60)
                entries = client.audit(object_kind="release")["items"]
            assert task["state"] != "completed"
            assert "crm" in json.dumps(task["error"])
            drifts = [entry for entry in entries if entry["action"] == "tools.drift"]
            assert {entry["detail"]["policy"] for entry in drifts} == {"refuse", "tolerate"}
            penstock("release", tmp_path / "refuse")
            penstock("deploy", "refuse", "--strategy", "all_at_once")
            assert answer(server, "refuse") == "done"
            said = penstock("release", "diff", "refuse", "v1", "v2")
            assert "tool find" in said
            assert "code" not in said.split()
    finally:
        offered.close()


def test_an_artifact_goes_through_a_real_registry(server, tmp_path):
    """Pushed to an OCI registry, pulled by an installation that trusts the key, deployed there."""
    registry = RegistryProcess(tmp_path / "registry")
    try:
        penstock = command(server, tmp_path)
        penstock("release", plain(tmp_path / "p", "carried", "six", "six"))
        reference = f"{registry.name}/team/carried:v1"
        pushed = json.loads(penstock("release", "push", "carried", "v1", reference, "--json"))
        with serving(tmp_path / "elsewhere", **OFFLINE) as other:
            there = command(other, tmp_path)
            assert "not trusted" in there("release", "pull", reference, fails=True)
            there("release", "pull", reference, "--trust", pushed["key_id"])
            there("deploy", "carried")
            assert answer(other, "carried").endswith("Hello.")
    finally:
        registry.stop()
