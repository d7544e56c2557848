"""Two servers on one PostgreSQL: either answers for the other, and takes over when it is killed."""

from __future__ import annotations

import pytest

from penstock.cli.projects import packed
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
