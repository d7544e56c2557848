"""People in the loop, through the real command and the HTTP API."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from penstock.cli.projects import packed
from penstock.domain.errors import Conflict, Invalid, NotFound, Unavailable
from server_process import KEY, ServerProcess

CODE = """
from penstock import ask, attachment


def agent(given):
    if isinstance(given, dict) and "attachment" in given:
        found = attachment(given)
        with open(found.path(), "rb") as file:
            same = file.read() == found.content
        return [found.content.decode(), found.content_type, found.filename, same]
    first = ask({"question": given})
    if first == "more":
        return [first, ask("and then?")]
    return [first]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    project = folder / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: asking\nentrypoint: app:agent\n")
    (project / "app.py").write_text(CODE)
    found = ServerProcess(folder / "home", environment={"PENSTOCK_ATTACHMENT_BYTES": str(1 << 20)})
    found.start()
    with found.client() as client:
        cut = client.cut_release(packed(project))
        client.deploy("asking", ref=cut["release"]["digest"])
    yield found
    found.stop()


@pytest.fixture
def penstock(server, tmp_path):
    """Runs the command against the server."""

    def run(*arguments, stdin=""):
        return subprocess.run(
            [sys.executable, "-m", "penstock", *map(str, arguments)],
            env={
                **os.environ,
                "PENSTOCK_HOME": str(tmp_path / "cli"),
                "PENSTOCK_URL": server.url,
                "PENSTOCK_KEY": KEY,
            },
            input=stdin, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
        )  # fmt: skip

    return run


def ok(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_task_is_answered_from_the_command_line(penstock, server):
    shown = ok(penstock("task", "create", "asking", "refund?"))
    assert "waiting" in shown
    assert "penstock task resume" in shown
    (task,) = json.loads(ok(penstock("task", "list", "--state", "waiting", "--json")))
    assert task["waits"] == [{"id": "ask#1", "kind": "interrupt", "value": {"question": "refund?"}}]
    assert penstock("task", "wait", task["id"]).returncode == 3
    refused = penstock("task", "resume", task["id"], "--answers", '{"ask#7": 1}')
    assert refused.returncode != 0
    assert "does not wait for ask#7" in refused.stderr
    again = json.loads(ok(penstock("task", "resume", task["id"], "--answer", "more", "--json")))
    assert (again["state"], again["waits"][0]["value"]) == ("waiting", "and then?")
    ended = penstock("task", "resume", task["id"], "--answers", '{"ask#2": {"x": 1}}', "--json")
    assert json.loads(ok(ended))["output"] == ["more", {"x": 1}]
    late = penstock("task", "resume", task["id"], "--answer", "1")
    assert "it waits for nobody" in late.stderr


def test_a_stream_stays_open_over_the_answer(server):
    with server.client() as client:
        task = client.create_task(agent="asking", input="?", wait=60)
        assert task["state"] == "waiting"
        kinds = []
        for event in client.stream(task["id"]):
            kinds.append(event["event"])
            if event["event"] == "waiting":
                with pytest.raises(Invalid):
                    client.resume_task(task["id"], answers={})
                client.resume_task(task["id"], answer="done")
                with pytest.raises(Conflict):
                    client.resume_task(task["id"], answer="again")
        told = [kind for kind in kinds if kind in ("waiting", "resumed", "finished")]
        assert told == ["waiting", "resumed", "finished"]


def test_a_session_closes_behind_the_answer_and_a_cancel_frees_it(server):
    with server.client() as client:
        session = client.create_session("asking")
        first, second = (
            client.create_task(agent="asking", input=name, session_id=session["id"])
            for name in ("first", "second")
        )
        assert client.wait_for_task(first["id"], seconds=60)["state"] == "waiting"
        assert client.task(second["id"])["state"] == "queued"
        assert client.close_session(session["id"])["state"] == "open"
        assert client.cancel_task(first["id"])["state"] == "cancelled"
        assert client.wait_for_task(second["id"], seconds=60)["state"] == "waiting"
        client.resume_task(second["id"], answer="done")
        assert client.wait_for_task(second["id"], seconds=60)["output"] == ["done"]
        assert client.session(session["id"])["state"] == "closed"


def test_a_chat_puts_the_question_to_the_person(penstock):
    said = ok(penstock("chat", "asking", stdin="refund?\nmore\nnothing\n"))
    assert "refund?" in said
    assert "and then?" in said
    assert '["more", "nothing"]' in said


def test_a_question_that_nobody_answers_ends_in_time(server, tmp_path):
    (tmp_path / "penstock.yaml").write_text(
        "agent: hasty\nentrypoint: app:agent\nlimits: {wait: 0.2s}\n"
    )
    (tmp_path / "app.py").write_text(CODE)
    with server.client() as client:
        cut = client.cut_release(packed(tmp_path))
        client.deploy("hasty", ref=cut["release"]["digest"])
        task = client.create_task(agent="hasty", input="?")
        (last,) = [one for one in client.stream(task["id"]) if one["event"] == "finished"]
        ended = client.task(task["id"])
    assert last["data"]["data"]["state"] == "failed"
    assert (ended["state"], ended["outcome"], ended["waits"]) == ("failed", "timeout", [])
    assert "nobody answered" in ended["error"]["message"]


def test_a_session_is_deleted_from_the_command_line(penstock, server):
    with server.client() as client:
        session = client.create_session("asking", user_id="somebody", ttl_seconds=3600)
        assert session["expires_us"] > session["created_us"]
        task = client.create_task(agent="asking", input="secret", session_id=session["id"], wait=60)
        refused = penstock("session", "delete", session["id"])
        assert refused.returncode != 0
        assert "has not ended" in refused.stderr
        done = json.loads(ok(penstock("session", "delete", session["id"], "--force", "--json")))
        assert done == {"id": session["id"], "deleted": True}
        for path in (lambda: client.session(session["id"]), lambda: client.task(task["id"])):
            with pytest.raises(NotFound):
                path()
        other = client.create_task(agent="asking", input="done", wait=60)
        client.resume_task(other["id"], answer="x")
        client.wait_for_task(other["id"], seconds=60)
        ok(penstock("task", "delete", other["id"]))
        with pytest.raises(NotFound):
            client.events(other["id"])
        assert client.session(other["session_id"])["tasks"] == 1


def test_a_file_of_the_session_is_read_by_its_agent(penstock, server, tmp_path):
    (tmp_path / "bill.txt").write_text("12.50")
    with server.client() as client:
        session = client.create_session("asking")["id"]
        known = ok(penstock("session", "attach", session, "bill.txt")).strip()
        assert client.attachment(session, known) == b"12.50"
        (listed,) = client.attachments(session)["items"]
        assert (listed["id"], listed["size"], listed["filename"]) == (known, 5, "bill.txt")
        given = {"attachment": known}
        task = client.create_task(agent="asking", input=given, session_id=session, wait=60)
        assert task["output"] == ["12.50", "text/plain", "bill.txt", True]
        other = client.create_task(agent="asking", input=given, wait=60)  # of another session
        assert (other["state"], other["error"]["type"]) == ("failed", "LookupError")
        with pytest.raises(NotFound):
            client.attachment(other["session_id"], known)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(server):
    with server.client() as client:
        session = client.create_session("asking")["id"]
        with pytest.raises(Invalid, match="larger than 1 MiB"):
            client.add_attachment(session, b"x" * ((1 << 20) + 1))
        with pytest.raises((Invalid, Unavailable)):  # the connection may be cut while it is sent
            client.add_attachment(session, b"x" * (50 << 20))
        assert client.attachments(session)["items"] == []
        assert client.whoami()
        with pytest.raises((Invalid, Unavailable)):
            client.create_task(agent="asking", input="x" * (50 << 20))
        with pytest.raises(Invalid, match="content type"):
            client.add_attachment(session, b"x", content_type="no type")
        client.close_session(session)
        with pytest.raises(Conflict, match="closed"):
            client.add_attachment(session, b"x")


def test_a_plain_agent_keeps_no_state_and_says_so(penstock, server):
    with server.client() as client:
        session = client.create_session("asking")["id"]
    for arguments in (("state",), ("history",), ("edit", session, "{}")):
        refused = penstock("session", arguments[0], session, *arguments[2:])
        assert refused.returncode != 0
        assert "its agent is a plain function" in refused.stderr
    assert "has no state to begin with" in penstock("session", "fork", session).stderr
    unknown = penstock("session", "state", session, "--checkpoint", "none")
    assert "has no checkpoint none" in unknown.stderr
