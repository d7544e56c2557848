"""`penstock backup` and `penstock restore`: what a server held works again somewhere else."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from penstock.cli.projects import packed
from penstock.client import Client
from server_process import KEY, ServerProcess

PROJECT = {
    "penstock.yaml": "agent: echo\nentrypoint: app:f\n",
    "app.py": "def f(x):\n    return x\n",
}


@pytest.fixture
def penstock(tmp_path):
    """Runs the command."""

    def run(*arguments, server=None, key=KEY, **environment):
        return subprocess.run(
            [sys.executable, "-m", "penstock", *map(str, arguments)],
            env={
                **os.environ,
                "PENSTOCK_HOME": str(tmp_path / "cli"),
                "PENSTOCK_URL": server or "http://127.0.0.1:9",
                "PENSTOCK_KEY": key,
                **environment,
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path, timeout=300,
            check=False,
        )  # fmt: skip

    return run


@pytest.fixture
async def url():
    """An empty PostgreSQL database."""
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    if not server:
        pytest.skip("PENSTOCK_TEST_POSTGRES is not set")
    name = f"penstock_e2e_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name} template template0")
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A server with a release, a task that has run, and a key for a colleague."""
    folder = tmp_path_factory.mktemp("source")
    for name, text in PROJECT.items():
        (folder / "project").mkdir(exist_ok=True)
        (folder / "project" / name).write_text(text)
    found = ServerProcess(folder / "home")
    found.start()
    with found.client() as client:
        cut = client.cut_release(packed(folder / "project"))
        client.deploy("echo", ref=cut["release"]["digest"])
        found.task = client.create_task(agent="echo", input={"n": 1}, wait=60)
        found.colleague = client.create_key("colleague", role="operator")["key"]
    assert found.task["state"] == "completed"
    yield found
    found.stop()


def ok(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def works(server, source):
    """Whether a restored server knows what the source knew, and goes on."""
    server.start()
    try:
        for key in (source.colleague, KEY):
            with Client(server.url, key) as client:
                assert client.task(source.task["id"])["output"] == {"n": 1}
                done = client.create_task(agent="echo", input={"n": 2}, wait=60)
                assert done["output"] == {"n": 2}
    finally:
        server.stop()


def test_a_key_made_before_works_after_the_restore(source, penstock, tmp_path):
    file, home = tmp_path / "backup.tar.gz", tmp_path / "restored"
    made = json.loads(ok(penstock("backup", file, "--json", server=source.url)))
    assert made["rows"]["tasks"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "is whole" in ok(penstock("backup", "--check", file))
    assert [path.name for path in tmp_path.glob("*backup*")] == ["backup.tar.gz"]
    assert "Start a server" in ok(penstock("restore", file, "--home", home))
    assert stat.S_IMODE((home / "pepper").stat().st_mode) == 0o600
    again = penstock("restore", file, "--home", home)
    assert again.returncode == 1
    assert "not empty" in again.stderr
    works(ServerProcess(home), source)


@pytest.mark.postgres
def test_a_key_made_on_sqlite_works_on_postgres_and_back(source, penstock, tmp_path, url):
    first, second = tmp_path / "first", tmp_path / "second"
    ok(penstock("backup", first, server=source.url))
    home = tmp_path / "shared"
    ok(penstock("restore", first, "--home", home, "--database-url", url))
    assert not (home / "pepper").exists()
    shared = ServerProcess(home, environment={"PENSTOCK_DATABASE_URL": url})
    works(shared, source)
    shared.start()
    try:
        ok(penstock("backup", second, server=shared.url))
    finally:
        shared.stop()
    ok(penstock("restore", second, "--home", tmp_path / "alone"))
    works(ServerProcess(tmp_path / "alone"), source)


def test_only_an_administrator_gets_a_backup(source, penstock, tmp_path):
    done = penstock("backup", tmp_path / "no", server=source.url, key=source.colleague)
    assert done.returncode == 1
    assert "--role admin" in done.stderr
    assert not list(tmp_path.iterdir())


class _Cut(BaseHTTPRequestHandler):
    """Begins a chunked answer and goes away."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"400\r\n" + bytes(100))
        self.close_connection = True

    def log_message(self, *_):
        pass


def test_an_interrupted_backup_leaves_what_was_there_and_nothing_else(penstock, tmp_path):
    with HTTPServer(("127.0.0.1", 0), _Cut) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        missing = penstock("backup", tmp_path / "new", server=address)
        (tmp_path / "old").write_text("an earlier one")
        kept = penstock("backup", tmp_path / "old", server=address)
        server.shutdown()
        thread.join()
    assert missing.returncode == kept.returncode == 1
    assert "broke off" in missing.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "an earlier one"


def test_a_damaged_backup_and_a_mistake_end_in_a_sentence(source, penstock, tmp_path):
    file = tmp_path / "backup"
    ok(penstock("backup", file, server=source.url))
    file.write_bytes(file.read_bytes()[:-1])
    for arguments in (("backup", "--check", file), ("restore", file, "--home", tmp_path / "new")):
        done = penstock(*arguments)
        assert done.returncode == 1
        assert "no whole backup" in done.stderr
    assert not (tmp_path / "new").exists()
    assert "no file" in penstock("backup", "--check", tmp_path / "nothing").stderr
    assert "postgresql://" in penstock("restore", file, "--database-url", "mysql://x").stderr
    assert "such a directory" in penstock("backup", tmp_path / "a/b", server=source.url).stderr
