"""A backup is everything at one moment, in either database, or it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import sqlite3
import tarfile
import threading
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pytest

from penstock.actions import archives
from penstock.actions.access import AccessActions
from penstock.actions.archives import verify
from penstock.actions.backups import BackupActions
from penstock.actions.restores import restore
from penstock.actions.rollouts import RolloutActions
from penstock.actions.upgrades import standing
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, PenstockError
from penstock.store import (
    agents,
    audit,
    backups,
    blobs,
    migrate,
    postgres,
    restores,
    settings,
    sqlite,
)
from rollout_world import ADA, AGENT, ENVIRONMENT, VIEWER, release, serve

PEPPER = secrets.token_hex(32)
SIGNING = "-----BEGIN PRIVATE KEY-----\nnot really\n-----END PRIVATE KEY-----\n"
KEY = "psk_" + "a" * 64
KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=KINDS)
async def target(request, database, tmp_path):
    """Another empty database, of each kind; its home does not exist yet."""
    home = tmp_path / "target"
    if request.param == "sqlite":
        found = type(database)(kind="sqlite", home=home, url=None)
        yield found
        await _close(found)
        return
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    if not server:
        pytest.skip("PENSTOCK_TEST_POSTGRES is not set")
    import asyncpg  # noqa: PLC0415 - unit tests need no database driver

    name = f"penstock_test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name} template template0")
        url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        found = type(database)(kind="postgres", home=home, url=url)
        yield found
        await _close(found)
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


async def _close(database):
    for store in list(database.opened):
        await database.close(store)


@pytest.fixture
async def world(database):
    """A store with something in most tables, and what belongs to it in its home."""
    store = await database.open()
    await release(store, "one")
    await RolloutActions(store).deploy(ADA, agent=AGENT)
    await release(store, "two")
    await RolloutActions(store).deploy(ADA, agent=AGENT)  # and so a rollout is under way
    await serve(store, "ok", 20)
    await serve(store, "open", 3)
    await AccessActions(store, bytes.fromhex(PEPPER)).bootstrap(KEY)

    async def more(tx):
        await blobs.put(tx, {"a": b"", "b": bytes(range(256)), "c": os.urandom(100_000)})
        await agents.ensure(tx, "ägent \u2028 'quoted'")
        await settings.agree(tx, "kept", "a setting that is no secret")
        if database.url is not None:
            await settings.agree(tx, "pepper", PEPPER)
            await settings.agree(tx, "signing_key", SIGNING)

    await store.transact(more)
    home = database.home
    (home / "wheels" / "ab").mkdir(parents=True)
    (home / "wheels" / "ab" / ("ab" * 32)).write_bytes(os.urandom(3 << 20))
    (home / "wheels" / "empty").touch()
    (home / "releases").mkdir()
    (home / "releases" / "again").write_text("can be made again")
    if database.url is None:
        (home / "pepper").write_text(PEPPER)
        (home / "signing").mkdir()
        (home / "signing" / "key.pem").write_text(SIGNING)
    return store


async def back_up(store, database, file):
    """A backup of everything, into a file."""
    with file.open("wb") as out:
        async for chunk in await BackupActions(store, home=database.home).stream(ADA):
            out.write(chunk)
    return file


async def everything(database):
    """Every row of every table, without the secrets that are elsewhere in the other kind."""
    async with _reading(database) as fetch:
        names = {row["table"] for row in await fetch("columns")} - {"migrations"}
        found = {name: await fetch(f'select * from "{name}"') for name in names}
    return {
        name: sorted(
            (tuple(row) for row in rows if name != "settings" or row["name"] == "kept"), key=repr
        )
        for name, rows in found.items()
    }


@contextlib.asynccontextmanager
async def _reading(database):
    if database.url is None:
        connection = sqlite3.connect(database.home / "penstock.sqlite")
        connection.row_factory = sqlite3.Row

        async def fetch(what):
            return connection.execute(_sql("sqlite", what)).fetchall()

        with contextlib.closing(connection):
            yield fetch
        return
    import asyncpg  # noqa: PLC0415 - see above

    connection = await asyncpg.connect(database.url)

    async def fetch(what):
        return await connection.fetch(_sql("postgres", what))

    yield fetch
    await connection.close()


def _sql(dialect, what):
    return what if " " in what else backups.statement(dialect, what)


async def is_empty(database):
    """Whether there is neither a row nor a file that a restore has put there."""
    left = {path.name for path in database.home.glob("*")} - {"lock"}
    if database.url is None:
        return not left
    async with _reading(database) as fetch:
        return not left and not await fetch("columns")


async def secrets_of(database):
    if database.url is None:
        return [(database.home / file).read_text() for file in ("pepper", "signing/key.pem")]
    async with _reading(database) as fetch:
        rows = await fetch("select value from settings where name <> 'kept' order by name")
        return [row["value"] for row in rows]


async def test_every_row_file_and_secret_is_equal_after_a_restore(
    world, database, target, tmp_path, monkeypatch
):
    """Also when tables come in many parts, and behind a restore that was killed."""
    monkeypatch.setattr(backups, "_PART_BYTES", 3000)
    monkeypatch.setattr(sqlite, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(postgres, "_CHUNK_ROWS", 7)
    file = await back_up(world, database, tmp_path / "backup")
    await database.close(world)
    before = await everything(database)
    killed = target.home / ".restoring-killed"
    killed.mkdir(parents=True)
    (killed / "half").touch()

    contents = await restore(file, home=target.home, url=target.url)

    after = await everything(target)
    assert after == before
    assert contents.rows == {name: len(rows) for name, rows in before.items()}
    assert sum(contents.rows.values()) > 100
    assert sum(name.startswith("tables/tasks") for name in contents.members) > 1
    assert await secrets_of(target) == [PEPPER, SIGNING]
    for path in ("wheels/ab/" + "ab" * 32, "wheels/empty"):
        assert (target.home / path).read_bytes() == (database.home / path).read_bytes()
    assert not (target.home / "releases").exists()
    assert not list(target.home.glob(".restoring-*"))


async def test_a_restored_store_goes_on(world, database, target, tmp_path):
    """Keys work, numbers continue behind the restored ones, and references are guarded."""
    file = await back_up(world, database, tmp_path / "backup")
    await restore(file, home=target.home, url=target.url)
    store = await target.open()
    pepper = bytes.fromhex((await secrets_of(target))[0])
    assert (await AccessActions(store, pepper).authenticate(KEY)).name == "admin"

    async def entry(tx):
        await audit.add(tx, SYSTEM, "test", object_kind="test", object_id="1", detail={})
        return [item.seq for item in await audit.listing(tx, limit=1000)]

    numbers = await store.transact(entry)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == numbers[-2] + 1
    with pytest.raises(Conflict):
        await store.transact(partial(_orphan))


async def _orphan(tx):
    await tx.execute("labels.protect", agent="nobody", label="x")


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
async def test_a_write_during_a_backup_is_whole_or_absent(world, database, target, tmp_path):
    """Pairs of rows, in the first and the last table that is read, all along."""
    written = 0
    done = asyncio.Event()

    async def pair(tx):
        await agents.ensure(tx, f"pair-{written}")
        await tx.execute(
            "workers.register",
            id=f"pair-{written}",
            host="h",
            pid=1,
            lease_us=1,
            capacity=1,
            kind="server",
            process="",
        )

    async def write():
        nonlocal written
        while not done.is_set():
            await world.transact(pair)
            written += 1

    async def wait_for(number):
        while written < number:
            assert not writing.done()
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await wait_for(5)
    seen = []
    file = tmp_path / "backup"
    with file.open("wb") as out:
        async for chunk in await BackupActions(world, home=database.home).stream(ADA):
            out.write(chunk)
            seen.append(written)
            await wait_for(written + 1)
    done.set()
    await writing
    await restore(file, home=target.home)
    found = await everything(target)
    names = {row[0] for row in found["agents"] if row[0].startswith("pair-")}
    assert names == {row[0] for row in found["workers"] if row[0].startswith("pair-")}
    assert 5 <= len(names) <= seen[0] + 1
    assert written > len(names)  # the writer was not held up


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_byte_that_was_changed_or_cut_off_is_found_and_nothing_restored(
    world, database, target, tmp_path
):
    whole = (await back_up(world, database, tmp_path / "backup")).read_bytes()
    dice = random.Random(7)
    size = len(whole)
    places = [0, 3, 4, 9, size - 59, size - 58, size - 1] + [
        dice.randrange(size) for _ in range(50)
    ]
    harmed = [
        whole[:place] + bytes([whole[place] ^ (1 << dice.randrange(8))]) + whole[place + 1 :]
        for place in places
    ]
    harmed += [whole[:length] for length in (0, 1, 57, 58, 1000, size // 2, size - 58, size - 1)]
    harmed.append(whole + b"\0")
    for content in harmed:
        (tmp_path / "harmed").write_bytes(content)
        with pytest.raises(Damaged):
            await restore(tmp_path / "harmed", home=target.home, url=target.url)
    assert not target.home.exists()
    assert await is_empty(target)
    verify(tmp_path / "backup")


def made(file, members, *, about=None, index=None):
    """A backup whose seal is right, whatever it holds."""
    writer = archives.ArchiveWriter()
    said = {
        "format": 1, "schema": migrate.newest("sqlite"), "made_us": 1, "penstock": "0",
        "database": "sqlite", **(about or {}),
    }  # fmt: skip
    content = writer.magic + writer.member("penstock-backup.json", msgspec.json.encode(said))
    for name, raw in members:
        content += writer.member(name, raw)
    if index is not None:
        writer._members = index(writer._members)
    file.write_bytes(content + writer.end())
    return file


def table(columns, *rows, binary=()):
    lines = [{"columns": columns, "binary": list(binary)}, *rows]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


ORPHAN = table(
    ["agent", "label"],
    ["nobody", "x"],
)
ONE_AGENT = table(["name", "created_us"], ["a", 1])
UNFIT = {
    "a row without what it refers to": [("tables/protected_labels.jsonl", ORPHAN)],
    "a row that is there twice": [("tables/agents.jsonl", ONE_AGENT), ("tables/agents.2.jsonl", ONE_AGENT)],
    "a row with a value too few": [("tables/agents.jsonl", table(["name", "created_us"], ["a"]))],
    "a null where there is none": [
        ("tables/agents.jsonl", table(["name", "created_us"], ["a", None]))
    ],
    "a column that is not known": [("tables/agents.jsonl", table(["name", "x"], ["a", 1]))],
    "a table that is not known": [("tables/strange.jsonl", ONE_AGENT)],
    "the list of migrations": [("tables/migrations.jsonl", table(["version"], [1]))],
    "no JSON": [("tables/agents.jsonl", b"{")],
    "no base64": [
        ("tables/blobs.jsonl", table(["digest", "content"], ["a", "?"], binary=[1])),
    ],
    "a secret that is not known": [("secrets/other", b"x")],
}  # fmt: skip


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("what", UNFIT)
async def test_a_restore_that_fails_late_leaves_the_target_empty(target, tmp_path, what):
    """The seal is right, so the rows themselves must be refused."""
    file = made(tmp_path / "backup", [("files/wheels/x", b"x"), *UNFIT[what]])
    with pytest.raises(Damaged):
        await restore(file, home=target.home, url=target.url)
    assert await is_empty(target)


BAD = {
    "out of the directory": {"members": [("files/../../x", b"")]},
    "an absolute path": {"members": [("files//etc/x", b"")]},
    "no kind of member": {"members": [("other", b"")]},
    "a second head": {"members": [("penstock-backup.json", b"{}")]},
    "a member twice": {"members": [("files/x", b""), ("files/x", b"")]},
    "one that the index does not list": {
        "members": [("files/x", b"")], "index": lambda listed: listed[:-1],
    },
    "one that is not there": {"members": [], "index": lambda listed: listed * 2},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_nobody_wrote_like_this_is_refused(tmp_path, what):
    with pytest.raises(Damaged):
        verify(made(tmp_path / "backup", **BAD[what]))


def test_another_format_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(Invalid, match="format 2"):
        verify(made(tmp_path / "backup", [], about={"format": 2}))
    with pytest.raises(NotFound):
        verify(tmp_path / "nothing")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_backup_of_a_newer_penstock_is_refused(target, tmp_path):
    file = made(tmp_path / "backup", [], about={"schema": 9999})
    with pytest.raises(Conflict, match="newer Penstock"):
        await restore(file, home=target.home, url=target.url)
    assert await is_empty(target)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_target_with_one_row_is_left_as_it_is(world, database, target, tmp_path):
    file = await back_up(world, database, tmp_path / "backup")
    store = await target.open()
    await store.transact(partial(agents.ensure, name="only"))
    await target.close(store)
    before = await everything(target)
    with pytest.raises(Conflict, match="agents has rows"):
        await restore(file, home=target.home, url=target.url)
    assert await everything(target) == before


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_target_that_has_tables_and_no_row_is_filled(world, database, target, tmp_path):
    file = await back_up(world, database, tmp_path / "backup")
    await target.close(await target.open())
    await restore(file, home=target.home, url=target.url)
    assert await everything(target) == await everything(database)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_directory_that_a_server_uses_is_left_alone(world, database, tmp_path):
    file = await back_up(world, database, tmp_path / "backup")
    with pytest.raises(Conflict, match="is using"):
        await restore(file, home=database.home)


async def test_a_backup_of_an_older_schema_is_brought_up_to_date(
    database, target, tmp_path, monkeypatch
):
    first = {kind: migrate.migrations(kind)[:1] for kind in ("sqlite", "postgres")}
    with monkeypatch.context() as older:
        older.setattr(migrate, "migrations", first.get)
        store = await database.open()
        await database.execute("insert into agents (name, created_us) values ('a', 1)")
        await database.execute(
            "insert into components (agent, kind, digest, number, label, content, created_us)"
            " values ('a', 'prompt', 'd', 1, 'v1', '{}', 1)"
        )
        file = await back_up(store, database, tmp_path / "backup")
    assert verify(file).about.schema == 1
    await restore(file, home=target.home, url=target.url)
    async with _reading(target) as fetch:
        (schema,) = await fetch("schema")
        assert schema["version"] == migrate.newest(target.kind)
        (row,) = await fetch("select agent, name, label from components")
        assert tuple(row) == ("a", "", "v1")


async def test_only_an_administrator_makes_a_backup_and_it_is_audited(world, database):
    actions = BackupActions(world, home=database.home)
    with pytest.raises(Forbidden):
        await actions.stream(VIEWER)
    stream = await actions.stream(ADA)
    await stream.aclose()
    entries = await world.read(partial(audit.listing, limit=1000))
    assert [entry.actor for entry in entries if entry.action == "backup.read"] == ["ada"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_who_goes_away_early_gives_the_snapshot_back(world, database):
    stream = await BackupActions(world, home=database.home).stream(ADA)
    assert any(thread.name.startswith("penstock-snapshot") for thread in threading.enumerate())
    await stream.aclose()
    while any(thread.name.startswith("penstock-snapshot") for thread in threading.enumerate()):
        await asyncio.sleep(0)


async def test_any_tool_unpacks_a_backup(world, database, tmp_path):
    file = await back_up(world, database, tmp_path / "backup")
    with tarfile.open(file, "r:gz") as tar:
        names = tar.getnames()
    assert names[0] == "penstock-backup.json"
    assert names[-1] == "index.json"
    assert {"tables/agents.jsonl", "secrets/pepper", "secrets/signing_key"} <= set(names)


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("target", ["postgres"], indirect=True)
async def test_both_databases_have_the_same_tables_columns_and_kinds_of_values(database, target):
    """What a backup of one into the other stands on; a migration that breaks it fails here."""
    same = {"integer": "bigint", "blob": "bytea", "int": "bigint"}
    found = []
    for one in (database, target):
        await one.close(await one.open())
        async with _reading(one) as fetch:
            rows = await fetch("columns")
        found.append({
            (row["table"], row["column"], same.get(row["type"], row["type"])) for row in rows
        })  # fmt: skip
    assert found[0] == found[1]
    assert {kind for _, _, kind in found[0]} <= {"text", "bigint", "double precision", "bytea"}


def test_a_restore_and_a_server_that_starts_wait_for_the_same_lock():
    assert restores._MIGRATING == migrate._LOCK


async def test_a_look_at_a_database_sees_what_waits_and_changes_nothing(world, database):
    await database.close(world)
    home = database.home
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    found = await standing(home=home, url=database.url)
    assert (found.database, found.schema, found.pending) == (
        database.kind, migrate.newest(database.kind), (),
    )  # fmt: skip
    assert (found.queued, found.running, found.servers) == (0, 0, ())
    assert found.rollouts == (f"{AGENT}/{ENVIRONMENT} ramping",)
    assert found.database_bytes > 10_000
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_target_that_cannot_be_reached_is_an_error_in_words(world, database, tmp_path):
    file = await back_up(world, database, tmp_path / "backup")
    (tmp_path / "file").touch()
    for home, url in (
        (tmp_path / "file" / "home", None),
        (tmp_path / "new", "postgresql://x@127.0.0.1:9/x"),
    ):
        with pytest.raises(PenstockError) as raised:
            await restore(file, home=home, url=url)
        assert raised.value.hint
