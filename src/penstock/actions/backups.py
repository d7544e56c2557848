"""Backups: a consistent copy of everything as one archive, made while servers work."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

import penstock
from penstock.actions.archives import CHUNK, FORMAT, HEAD, About, ArchiveWriter
from penstock.domain.access import Actor
from penstock.domain.errors import Damaged
from penstock.kit.clock import BootClock, Clock
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, backups

FILES = ("wheels",)  # what of the data directory belongs to the data and is not in the database


class BackupActions:
    """Makes backups of what a server serves."""

    def __init__(
        self,
        store: Store,
        *,
        home: Path,
        files: Sequence[str] = FILES,
        clock: Clock | None = None,
    ) -> None:
        """Back up ``store``, and of its directory ``home`` the files and directories ``files``."""
        self._store = store
        self._home = home
        self._files = files
        self._clock = clock or BootClock()

    async def stream(self, actor: Actor) -> AsyncGenerator[bytes, None]:
        """Everything as it is now, as the bytes of a backup.

        A directory of ``files`` is listed after the database was read: what is only ever added to
        it before a row names it is there.

        Raises:
            Unavailable: the database cannot be read.
        """
        check(actor, "backup.read")

        async def work(tx: Transaction) -> None:
            await audit.add(tx, actor, "backup.read", object_kind="backup", object_id="", detail={})

        await self._store.transact(work)
        made = self._made()
        return _joined(await anext(made), made)

    async def _made(self) -> AsyncGenerator[bytes, None]:
        writer = ArchiveWriter()
        async with self._store.snapshot() as snapshot:
            about = About(
                format=FORMAT,
                schema=await backups.schema(snapshot),
                made_us=self._clock.now_us(),
                penstock=penstock.__version__,
                database=snapshot.dialect,
            )
            # The first bytes are sent once the snapshot was read: until then an error has a status.
            tables = await backups.tables(snapshot)
            yield writer.magic + writer.member(HEAD, msgspec.json.encode(about))
            for table in tables:
                number = 0
                async for part in backups.parts(snapshot, table):
                    number += 1
                    name = f"{table.name}.{number}" if number > 1 else table.name
                    yield await asyncio.to_thread(writer.member, f"tables/{name}.jsonl", part)
            secrets = await backups.secrets(snapshot)
        if self._store.embedded:
            secrets = await asyncio.to_thread(_read_secrets, self._home)
        for name, secret in secrets.items():
            yield writer.member(f"secrets/{name}", secret)
        pieces = _pieces(writer, self._home, self._files)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
        yield await asyncio.to_thread(writer.end)


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(rest):  # who goes away early gives the snapshot back at once
        yield first
        async for chunk in rest:
            if chunk:
                yield chunk


def _read_secrets(home: Path) -> dict[str, bytes]:
    files = {name: home / file for name, file in backups.SECRETS.items()}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def _pieces(writer: ArchiveWriter, home: Path, names: Iterable[str]) -> Iterator[bytes]:
    """The members of files and directories below ``home``, some bytes at a time."""
    for path in _regular_files(home, names):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # it was being written under another name: nothing refers to it yet
        with file:
            left = os.fstat(file.fileno()).st_size
            yield writer.begin(f"files/{path.relative_to(home).as_posix()}", left)
            while left:
                chunk = file.read(min(left, CHUNK))
                if not chunk:
                    raise Damaged(f"{path} became shorter while it was read")
                left -= len(chunk)
                yield writer.feed(chunk)
            yield writer.close()


def _regular_files(home: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        top = home / name
        if top.is_file():
            yield top
        for folder, folders, files in os.walk(top):
            folders.sort()
            for path in (Path(folder, file) for file in sorted(files)):
                if path.is_file() and not path.is_symlink():
                    yield path
