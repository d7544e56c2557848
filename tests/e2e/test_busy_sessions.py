"""A message to a busy session, in the middle of a graph's step, on one server and on two."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import Conflict
from server_process import ServerProcess
from waiting import wait_until

SUPPORT = Path(__file__).resolve().parents[2] / "examples" / "support"

CODE = """
import operator
import time
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    folder: str
    name: str
    told: Annotated[list[str], operator.add]


def first(state):
    return {"told": ["first " + state["name"]]}


def slow(state):
    folder = Path(state["folder"])
    (folder / (state["name"] + ".slow")).touch()
    while not (folder / (state["name"] + ".go")).exists():
        time.sleep(0.02)
    return {"told": ["slow " + state["name"]]}


graph = StateGraph(State)
graph.add_node("first", first)
graph.add_node("slow", slow)
graph.add_edge(START, "first")
graph.add_edge("first", "slow")
graph.add_edge("slow", END)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the agent's environment is built, once for both kinds of database."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", params=["one", pytest.param("two", marks=pytest.mark.postgres)])
def servers(request, home, tmp_path_factory):
    """One server on SQLite, or two on one PostgreSQL."""
    folder = tmp_path_factory.mktemp(request.param)
    project = folder / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: graph\nentrypoint: app:graph\n")
    (project / "app.py").write_text(CODE)
    for name in ("requirements.txt", "penstock.lock"):
        shutil.copy(SUPPORT / name, project / name)
    if request.param == "one":
        found = [ServerProcess(home)]
        yield _serve(found, project) * 2
        found[0].stop()
        return
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    if not server:
        pytest.skip("PENSTOCK_TEST_POSTGRES is not set")
    name = f"penstock_e2e_{secrets.token_hex(6)}"
    asyncio.run(_execute(server, f"create database {name} template template0"))
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    found = [
        ServerProcess(where, environment={"PENSTOCK_DATABASE_URL": url})
        for where in (home, folder / "there")
    ]
    try:
        yield _serve(found, project)
    finally:
        for one in found:
            one.stop()
        asyncio.run(_execute(server, f"drop database {name} with (force)"))


async def _execute(server, statement):
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(statement)
    finally:
        await admin.close()


def _serve(servers, project):
    for server in servers:
        server.start()
    with servers[0].client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("graph", ref=cut["release"]["digest"])
    return servers


class Conversation:
    """One session; what it says goes to one server, what interrupts it to the other."""

    def __init__(self, servers, folder):
        self.here, self.there = (server.client() for server in servers)
        self.folder = folder
        self.session = None

    def say(self, name, *, client=None, **asked):
        task = (client or self.here).create_task(
            agent="graph", input={"folder": str(self.folder), "name": name},
            session_id=self.session, **asked,
        )  # fmt: skip
        self.session = task["session_id"]
        return task["id"]

    def let(self, name):
        (self.folder / f"{name}.go").touch()

    def in_the_middle(self, name):
        """Waits until a message is in the middle of its second step."""
        wait_until((self.folder / f"{name}.slow").exists, 90)

    def ended(self, task):
        return self.there.wait_for_task(task, seconds=60)


@pytest.fixture
def talk(servers, tmp_path):
    """A session with one message behind it, and one in the middle of a step."""
    found = Conversation(servers, tmp_path)
    found.let("z")
    assert found.ended(found.say("z"))["output"]["told"] == ["first z", "slow z"]
    found.a = found.say("a")
    found.in_the_middle("a")
    yield found
    found.here.cancel_task(found.a)
    found.here.close()
    found.there.close()


def test_a_message_waits_for_the_one_before_it(talk):
    talk.let("b")
    b = talk.say("b", client=talk.there)
    assert talk.here.task(b)["state"] == "queued"
    talk.let("a")
    assert talk.ended(b)["output"]["told"][2:] == ["first a", "slow a", "first b", "slow b"]


def test_a_message_is_refused_while_another_runs(talk):
    with pytest.raises(Conflict, match=f"task {talk.a} is running"):
        talk.say("b", client=talk.there, multitask_strategy="reject")
    talk.let("a")
    assert talk.ended(talk.a)["output"]["told"][2:] == ["first a", "slow a"]


def test_a_message_interrupts_another_which_leaves_what_it_committed(talk):
    talk.let("b")
    b = talk.ended(talk.say("b", client=talk.there, multitask_strategy="interrupt"))
    assert b["output"]["told"][2:] == ["first a", "first b", "slow b"]
    a = talk.ended(talk.a)
    assert (a["state"], a["outcome"], a["output"]) == ("cancelled", "interrupted", None)
    assert b["started_us"] > a["finished_us"]


def test_a_message_rolls_another_back_as_if_it_had_not_been(talk):
    talk.let("b")
    b = talk.ended(talk.say("b", client=talk.there, multitask_strategy="rollback"))
    assert b["output"]["told"] == ["first z", "slow z", "first b", "slow b"]
    a = talk.ended(talk.a)
    assert (a["state"], a["outcome"], a["output"]) == ("cancelled", "rolled_back", None)
    assert "later message" in a["error"]["message"]
    assert b["started_us"] > a["finished_us"]
    last = talk.here.events(talk.a)["items"][-1]
    assert (last["kind"], last["data"]["outcome"]) == ("finished", "rolled_back")


def test_of_messages_that_interrupt_each_other_the_last_one_runs(talk):
    for name in "bcd":
        talk.let(name)
    made = [
        talk.say(name, client=client, multitask_strategy="rollback")
        for name, client in (("b", talk.there), ("c", talk.here), ("d", talk.there))
    ]
    done = [talk.ended(task) for task in made]
    assert done[-1]["state"] == "completed"
    told = done[-1]["output"]["told"]
    assert told[:2] == ["first z", "slow z"]
    assert told[-2:] == ["first d", "slow d"]
    assert "first a" not in told
    kept = [name for name, task in zip("bcd", done, strict=True) if task["outcome"] == "ok"]
    assert told[2:] == [f"{what} {name}" for name in kept for what in ("first", "slow")]
