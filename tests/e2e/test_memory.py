"""What agents remember, seen and deleted from outside with the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from penstock.cli.projects import packed
from penstock.client import Client
from penstock.domain.errors import Forbidden, Invalid, NotFound
from server_process import KEY, ServerProcess

CODE = """
from penstock import memory

def agent(given):
    memory.put(memory.user("likes"), "colour", {"text": given})
    memory.put("facts", given, {"text": "somebody likes " + given})
    return [item.key for item in memory.search()]
"""


@pytest.fixture
def server(tmp_path):
    found = ServerProcess(tmp_path / "home")
    found.start()
    project = tmp_path / "keeper"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: keeper\nentrypoint: app:agent\n")
    (project / "app.py").write_text(CODE)
    with found.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("keeper", ref=cut["release"]["digest"])
    yield found
    found.stop()


def test_memory_is_listed_shown_and_deleted(server, tmp_path):
    def penstock(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "penstock", "memory", *arguments],
            env={**os.environ, "PENSTOCK_URL": server.url, "PENSTOCK_KEY": KEY},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    with server.client() as client:
        for user, colour in (("ada@example.com", "red"), ("bob", "blue")):
            done = client.create_task(agent="keeper", input=colour, user_id=user, wait=60)
            assert done["state"] == "completed", done
        assert set(done["output"]) == {"colour", "red", "blue"}  # bob's colour, all facts
        every = client.memories("keeper")["items"]
        assert len(every) == 4
        ada = ["users", "ada@example.com"]
        [item] = client.memories("keeper", namespace=ada)["items"]
        assert item["namespace"] == [*ada, "likes"]
        assert [
            one["key"]
            for one in client.memories("keeper", query="blue", user="ada@example.com")["items"]
        ] == ["blue"]
        assert client.memory("keeper", [*ada, "likes"], "colour")["value"] == {"text": "red"}

        shown = penstock("list", "keeper", "-n", "users", "-n", "bob")
        assert "users/bob/likes" in shown.stdout
        got = penstock("get", "keeper", "red", "-n", "facts")
        assert json.loads(got.stdout) == {"text": "somebody likes red"}
        assert penstock("get", "keeper", "none", "-n", "facts").returncode == 1
        assert "was not said" in penstock("delete", "keeper").stderr

        viewer = client.create_key("reader", role="viewer")["key"]
        with Client(server.url, viewer) as reader:
            assert len(reader.memories("keeper")["items"]) == 4
            with pytest.raises(Forbidden):
                reader.delete_memories("keeper", user="bob")
        with pytest.raises(Invalid):
            client.delete_memories("keeper")
        deleted = penstock("delete", "keeper", "--user", "ada@example.com", "--json")
        assert json.loads(deleted.stdout) == {"deleted": 2}
        with pytest.raises(NotFound):
            client.memory("keeper", [*ada, "likes"], "colour")
        assert client.delete_memories("keeper", all="true") == {"deleted": 2}
        assert [one["action"] for one in client.audit(object_kind="memory")["items"]] == [
            "memory.delete",
            "memory.delete",
        ]
