"""Behind PgBouncer in transaction mode everything works, over few connections and without notices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from penstock.cli.projects import packed
from postgres_database import fresh_database
from postgres_server import services
from server_process import ServerProcess
from waiting import wait_until

pytestmark = pytest.mark.postgres

CONNECTIONS = 6

CODE = """
import time
from penstock import step


def agent(given):
    first = step("first", lambda: given["number"])
    time.sleep(given["seconds"])
    return step("last", lambda: first)
"""


@pytest.fixture
async def database():
    async with fresh_database() as url:
        yield url


@contextmanager
def pooler(folder, url):
    """PgBouncer in front of a database; its address, as a server is told it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    folder.chmod(0o777)
    users = folder / "users"
    users.write_text(f'"{parts.username}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
        f"default_pool_size = {CONNECTIONS}\nmax_client_conn = 100\n"
    )
    user = services._unprivileged()
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, folder / "pgbouncer.ini"], stdout=log, stderr=log, cwd=folder, **options
        )
    try:
        services._await_port(port, process, folder / "log")
        netloc = f"{parts.username}@127.0.0.1:{port}"
        yield urlunsplit(parts._replace(netloc=netloc, query="pgbouncer=true"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


async def connections(url):
    """How many connections a database has, ours not counted."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


async def test_two_servers_share_a_pooler_and_take_over_from_each_other(database, tmp_path):
    project = tmp_path / "agent"
    project.mkdir()
    (project / "penstock.yaml").write_text("agent: slow\nentrypoint: app:agent\n")
    (project / "app.py").write_text(CODE)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)  # the pooler runs as somebody else
    with pooler(tmp_path / "pooler", database) as url:
        one, other = (
            ServerProcess(tmp_path / name, environment={"PENSTOCK_DATABASE_URL": url})
            for name in ("one", "other")
        )
        try:
            one.start()
            other.start()
            with one.client() as client:
                cut = client.cut_release(packed(project))
                client.deploy("slow", ref=cut["release"]["digest"])
                ids = [
                    client.create_task(agent="slow", input={"number": number, "seconds": 1})["id"]
                    for number in range(20)
                ]
                doomed = client.create_task(agent="slow", input={"number": 0, "seconds": 300})["id"]
            with other.client() as client:
                wait_until(lambda: client.task(doomed)["state"] == "running", 60)
                client.cancel_task(doomed)
                assert client.wait_for_task(doomed, seconds=60)["state"] == "cancelled"
            assert await connections(database) <= CONNECTIONS
            one.kill()
            with other.client() as client:
                done = [client.wait_for_task(task, seconds=90)["output"] for task in ids]
            assert done == list(range(20))
        finally:
            one.stop()
            other.stop()
