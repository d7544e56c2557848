"""CrewAI itself: a crew and a flow, killed in their second part, in an environment of their own.

The package with what it needs takes about 850 MB on disk, so this is a target of its own:
``make test-crewai``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from penstock.cli.projects import packed
from server_process import ServerProcess, providers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "chaos"))

from ledger import LedgerServer

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("PENSTOCK_TEST_CREWAI"), reason="PENSTOCK_TEST_CREWAI is not set"
    ),
    pytest.mark.timeout(900),
]

CREW = """
import os
from pathlib import Path

from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start

FOLDER = Path(os.environ["MARKS"])

def die_once(output):
    try:
        (FOLDER / "die").unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), 9)

def note(name):
    with open(FOLDER / "done", "a") as file:
        file.write(name + "\\n")

def crew():
    agent = Agent(role="writer", goal="write", backstory="You write.", llm="gpt-4o")
    first = Task(description="collect facts about {topic}", expected_output="facts", agent=agent,
                 callback=lambda _: note("first"))
    second = Task(description="write about {topic}", expected_output="a text", agent=agent,
                  callback=die_once)
    return Crew(agents=[agent], tasks=[first, second])

class Report(Flow):
    @start()
    def fetch(self):
        note("fetch")
        self.state["facts"] = 3
        return "facts"

    @listen(fetch)
    def write(self, found):
        die_once(None)
        return f"{found}: {self.state['facts']} about {self.state['topic']}"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crewai")
    with LedgerServer() as outside:
        found = ServerProcess(folder / "home", environment=providers(outside.url))
        found.start()
        found.ledger, found.folder = outside.ledger, folder
        try:
            yield found
        finally:
            found.stop()


def released(server, agent, entrypoint):
    folder = server.folder / agent
    marks = server.folder / f"{agent}-marks"
    folder.mkdir()
    marks.mkdir()
    (folder / "work.py").write_text(CREW)
    (folder / "requirements.txt").write_text("crewai==1.15.30\n")
    lock = server.folder / "penstock.lock"
    if lock.exists():
        (folder / "penstock.lock").write_text(lock.read_text())
    (folder / "penstock.yaml").write_text(
        f"agent: {agent}\nentrypoint: work:{entrypoint}\n"
        "models: {gpt-4o: [{model: ledger/ledger-2026-01-01, price: {input: $1, output: $1}}]}\n"
        f"limits: {{time: 120s, memory: 4GiB}}\nenv: {{MARKS: '{marks}'}}\n"
    )
    with server.client() as client:
        cut = client.cut_release(packed(folder))
        if cut.get("lock"):
            lock.write_text(cut["lock"])
        client.deploy(agent, ref=cut["release"]["digest"])
    return marks


def ended(server, agent):
    with server.client() as client:
        task = client.create_task(agent=agent, input={"topic": "rain"})
        for _ in range(12):
            task = client.wait_for_task(task["id"], seconds=25)
            if task["state"] not in ("queued", "running"):
                return task
    raise AssertionError(f"it has not ended: {task}")


def test_a_crew_goes_on_at_the_task_that_was_killed(server):
    marks = released(server, "crew", "crew")
    (marks / "die").touch()
    task = ended(server, "crew")
    assert task["state"] == "completed", task["error"]
    assert (marks / "done").read_text() == "first\n"
    assert [one["name"] for one in task["output"]["tasks"]] == [
        "collect facts about rain", "write about rain",
    ]  # fmt: skip
    assert task["output"]["tasks"][1]["raw"] == task["output"]["raw"]
    # The first task was not repeated, and the second one's answer came from the record.
    asked = Counter({call: len(times) for call, times in server.ledger.asked.items()})
    assert asked
    assert set(asked.values()) == {1}, asked


def test_a_flow_goes_on_at_the_method_that_was_killed(server):
    marks = released(server, "flow", "Report")
    (marks / "die").touch()
    task = ended(server, "flow")
    assert task["state"] == "completed", task["error"]
    assert task["output"] == "facts: 3 about rain"
    assert (marks / "done").read_text() == "fetch\n"
