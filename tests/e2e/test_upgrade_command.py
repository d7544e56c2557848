"""`penstock upgrade --check`: whether a new version may be started on the data, and it only looks."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from server_process import ServerProcess


@pytest.fixture
def check(tmp_path):
    """Runs the command."""

    def run(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "upgrade", *map(str, arguments)],
            env={**os.environ, "PENSTOCK_HOME": str(tmp_path / "unused")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def files(home):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        # Readers of a database note themselves in the shared memory beside it.
        if path.is_file() and path.suffix != ".sqlite-shm"
    }


def test_a_home_without_data_is_safe(check, tmp_path):
    found = json.loads(check("--check", "--home", tmp_path / "none", "--json").stdout)
    assert found["safe"]
    assert found["schema"] == 0
    assert len(found["pending"]) == found["newest"]
    assert not (tmp_path / "none").exists()


def test_a_server_that_is_on_is_named_and_not_disturbed(check, tmp_path):
    server = ServerProcess(tmp_path / "home")
    server.start()
    try:
        found = json.loads(check("--check", "--home", server.home, "--json").stdout)
        assert found["servers"] == [f"process {server.process.pid}"]
        assert found["safe"]
        assert found["pending"] == []
        with server.client() as client:
            assert client.whoami()["name"] == "admin"
    finally:
        server.stop()
    before = files(server.home)
    said = check("--check", "--home", server.home).stdout
    assert "none has it open" in said
    assert "Safe." in said
    assert files(server.home) == before  # to the last byte, and no file more


def test_what_waits_and_what_a_start_would_do_is_said(check, tmp_path):
    home = old(tmp_path)
    found = json.loads(check("--check", "--home", home, "--json").stdout)
    assert found["schema"] == 1
    assert found["pending"][0] == "0002_registry"
    assert (found["queued"], found["running"]) == (2, 1)
    assert found["rollouts"] == ["a/production ramping"]
    assert "backup first" in check("--check", "--home", home).stdout


def test_data_of_a_newer_penstock_are_no_place_to_start(check, tmp_path):
    home = old(tmp_path)
    with sqlite3.connect(home / "penstock.sqlite") as database:
        database.execute("insert into migrations values (9999, 'future')")
    database.close()
    done = check("--check", "--home", home, status=1)
    assert "newer Penstock" in done.stdout
    assert not json.loads(check("--check", "--home", home, "--json", status=1).stdout)["safe"]


def test_a_database_that_cannot_be_read_is_an_error_in_words(check, tmp_path):
    (tmp_path / "penstock.sqlite").write_text("no database " * 100)
    assert "cannot be read" in check("--check", "--home", tmp_path, status=1).stderr
    gone = check("--check", "--database-url", "postgresql://x@127.0.0.1:9/x", status=1)
    assert "does not answer" in gone.stderr
    assert "--check" in check(status=2).stderr


def old(tmp_path):
    """A home of schema 1 with tasks and a rollout."""
    from penstock.store.migrate import migrations  # noqa: PLC0415 - nothing else needs it

    home = tmp_path / "home"
    home.mkdir()
    database = sqlite3.connect(home / "penstock.sqlite")
    (version, name, sql), *_ = migrations("sqlite")
    database.executescript(sql)
    database.execute("create table migrations (version bigint primary key, name text not null)")
    database.execute("insert into migrations values (?, ?)", (version, name))
    for number, state in enumerate(("queued", "queued", "running", "completed")):
        database.execute(
            "insert into tasks (id, session_id, agent, environment, release, state, input, epoch,"
            " crashes, losses, run_after_us, close_session, cancel_requested, events, steps,"
            " cost_nanos, created_us) values (?, ?, 'a', 'e', 'r', ?, '', 0, 0, 0, 0, 0, 0, 0, 0,"
            " 0, 0)",
            (str(number), str(number), state),
        )
    database.execute(
        "insert into rollouts (id, agent, environment, stable, candidate, plan, salt, phase, step,"
        " weight, step_since, revision, assigned, folded, baseline, reason, active, started_us,"
        " phase_since_us) values ('r', 'a', 'production', 's', 'c', '', '', 'ramping', 0, 0, 0, 0,"
        " 0, 0, '', '', 1, 0, 0)"
    )
    database.commit()
    database.close()
    return home
