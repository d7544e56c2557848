"""Two servers on one PostgreSQL: either answers for the other, and takes over when it is killed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import Conflict
from postgres_database import fresh_database
from server_process import ServerProcess

pytestmark = pytest.mark.postgres

CODE = """
import time
from penstock import step


def agent(given):
    first = step("first", lambda: time.time())
    time.sleep(given["seconds"])
    return [first, step("last", lambda: given["number"])]
"""


@pytest.fixture
async def url():
    async with fresh_database() as url:
        yield url


async def test_a_killed_servers_tasks_go_on_at_the_other(url, tmp_path):
    project = tmp_path / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: slow\nentrypoint: app:agent\n")
    (project / "app.py").write_text(CODE)
    one, other = (
        ServerProcess(tmp_path / name, environment={"PENSTOCK_DATABASE_URL": url})
        for name in ("one", "other")
    )
    try:
        one.start()
        with one.client() as client:
            cut = client.cut_release(packed(project))
            client.deploy("slow", ref=cut["release"]["digest"])
            ids = [
                client.create_task(agent="slow", input={"number": number, "seconds": 3})["id"]
                for number in range(20)
            ]
            begun = next(e for e in client.stream(ids[0]) if e["event"] == "step")
        assert begun
        other.start()
        one.kill()
        with other.client() as client:
            done = [client.wait_for_task(task, seconds=60) for task in ids]
            events = client.events(ids[-1])["items"]
        assert [task["output"][1] for task in done] == list(range(20))
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["data"]["key"] for event in events if event["kind"] == "step"] == [
            "first#1",
            "last#1",
        ]
    finally:
        one.stop()
        other.stop()


ASKING = """
import time
from penstock import ask


def agent(given):
    if given == "sleep":
        time.sleep(600)
    return [ask(given)]
"""


async def test_any_server_waits_streams_answers_and_cancels_for_the_other(url, tmp_path):
    project = tmp_path / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: asking\nentrypoint: app:agent\n")
    (project / "app.py").write_text(ASKING)
    one, other = (
        ServerProcess(tmp_path / name, environment={"PENSTOCK_DATABASE_URL": url})
        for name in ("one", "other")
    )
    try:
        one.start()
        other.start()
        with one.client() as here, other.client() as there:
            cut = here.cut_release(packed(project))
            here.deploy("asking", ref=cut["release"]["digest"])
            task = here.create_task(agent="asking", input="sure?")["id"]
            streamed = []
            reader = threading.Thread(
                target=lambda: streamed.extend(event["event"] for event in there.stream(task))
            )
            reader.start()
            waiting = there.wait_for_task(task, seconds=60)
            assert (waiting["state"], waiting["waits"][0]["value"]) == ("waiting", "sure?")

            def answers(client, answer):
                try:
                    return client.resume_task(task, answer=answer) and answer
                except Conflict:
                    return None

            with ThreadPoolExecutor(2) as pool:
                heard = list(pool.map(answers, (here, there), ("from here", "from there")))
            assert heard.count(None) == 1
            done = here.wait_for_task(task, seconds=60)
            assert done["output"] == [next(answer for answer in heard if answer)]
            reader.join(30)
            assert streamed.count("waiting") == streamed.count("resumed") == 1
            assert "finished" in streamed
            # Whichever server runs it, the other one is asked to stop it.
            for client in (here, there):
                sleeping = here.create_task(agent="asking", input="sleep")["id"]
                next(event for event in there.stream(sleeping) if event["event"] == "started")
                client.cancel_task(sleeping)
                assert client.wait_for_task(sleeping, seconds=30)["state"] == "cancelled"
            asked = here.create_task(agent="asking", input="?", wait=60)
            assert there.cancel_task(asked["id"])["state"] == "cancelled"
    finally:
        one.stop()
        other.stop()
