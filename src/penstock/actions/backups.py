"""Backups: a consistent copy of everything as one file, its proof, and the way back.

The file is a tar.gz that any tool unpacks: ``penstock-backup.json``, then ``tables/``,
``secrets/`` and ``files/``, and last ``index.json`` with the digest of every member. Behind the
archive stands an empty gzip member, the seal, which holds the digest of every byte before it: not
all bytes of a gzip file are covered by its own checksum.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

import penstock
from penstock.domain.access import Actor
from penstock.domain.errors import Conflict, Damaged, Invalid, NotFound, Unavailable
from penstock.kit.clock import BootClock, Clock
from penstock.rules.access import check
from penstock.store import Store, Transaction, audit, backups
from penstock.store.backups import Standing, Target

__all__ = ["About", "BackupActions", "Contents", "Standing", "restore", "standing", "verify"]

FORMAT = 1
FILES = ("wheels",)  # what of the data directory belongs to the data and is not in the database

_HEAD = "penstock-backup.json"
_INDEX = "index.json"
_TABLE = re.compile(r"tables/(\w+?)(?:\.\d+)?\.jsonl")
_SECRET = re.compile(r"secrets/(\w+)")
_FILE = re.compile(r"files/((?!\.\.?(?:/|$))[^/]+(?:/(?!\.\.?(?:/|$))[^/]+)*)")
_STAGING = ".restoring-"
_CHUNK = 1 << 20
_LEVEL = 6
_SEAL_HEAD = (
    b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"  # gzip, deflate, an extra field follows
    b"\x24\x00PS\x20\x00"  # of 36 bytes: our mark, and 32 bytes
)
_SEAL_TAIL = b"\x03\x00" + bytes(8)  # nothing, deflated; its checksum and its size
_SEAL = len(_SEAL_HEAD) + hashlib.sha256().digest_size + len(_SEAL_TAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a backup says of itself, in its first member."""

    format: int
    schema: int  # the newest migration of the database
    made_us: int
    penstock: str  # the version that wrote it
    database: str  # sqlite | postgres


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member as the index lists it."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a backup holds, proven."""

    about: About
    members: Mapping[str, Member]
    rows: Mapping[str, int]  # by table
    files: int
    file_bytes: int


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
        writer = _Writer()
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
            yield writer.magic + writer.member(_HEAD, msgspec.json.encode(about))
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


def _pieces(writer: _Writer, home: Path, names: Iterable[str]) -> Iterator[bytes]:
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
                chunk = file.read(min(left, _CHUNK))
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


class _Writer:
    """Makes the bytes of a backup; what it is given is packed at once."""

    def __init__(self) -> None:
        self._zip = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self._whole = hashlib.sha256()
        self._content = hashlib.sha256()
        self._name = ""
        self._size = 0
        self._members: list[Member] = []
        self.magic = self._pack(b"")

    def member(self, name: str, content: bytes) -> bytes:
        """A member whose content is at hand."""
        return self.begin(name, len(content)) + self.feed(content) + self.close()

    def begin(self, name: str, size: int) -> bytes:
        """A member's header; ``size`` bytes are fed next."""
        self._name, self._size, self._content = name, size, hashlib.sha256()
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = 0o600
        return self._pack(info.tobuf(format=tarfile.PAX_FORMAT))

    def feed(self, chunk: bytes) -> bytes:
        """Some of a member's content."""
        self._content.update(chunk)
        return self._pack(chunk)

    def close(self) -> bytes:
        """The end of a member."""
        found = Member(name=self._name, size=self._size, sha256=self._content.hexdigest())
        self._members.append(found)
        return self._pack(bytes(-self._size % tarfile.BLOCKSIZE))

    def end(self) -> bytes:
        """The index, the end of the archive, and the seal."""
        last = self.member(_INDEX, msgspec.json.encode(self._members))
        last += self._pack(bytes(2 * tarfile.BLOCKSIZE))
        rest = self._zip.flush()
        self._whole.update(rest)
        return last + rest + _SEAL_HEAD + self._whole.digest() + _SEAL_TAIL

    def _pack(self, content: bytes) -> bytes:
        packed = self._zip.compress(content)
        self._whole.update(packed)
        return packed


# ---------------------------------------------------------------- proof


def verify(file: Path) -> Contents:
    """Prove every byte of a backup; nothing is written.

    Raises:
        NotFound: there is no such file.
        Invalid: it is a backup of a format that is not known here.
        Damaged: it is no backup, or not as it was written.
    """
    with _damage_named(file):
        _check_seal(file)
        found: dict[str, Member] = {}
        rows: dict[str, int] = {}
        about = index = None
        for name, size, content in _members(file):
            if index is not None or name in found or (about is None) != (name == _HEAD):
                raise ValueError(f"{name} stands where it must not")
            if name in (_HEAD, _INDEX):
                raw = content.read()
                found[name] = Member(name=name, size=size, sha256=hashlib.sha256(raw).hexdigest())
                if name == _INDEX:
                    index = msgspec.json.decode(raw, type=list[Member])
                else:
                    about = _about(raw)
                continue
            found[name], lines = _digested(name, size, content)
            if table := _TABLE.fullmatch(name):
                rows[table[1]] = rows.get(table[1], 0) + lines - 1
        if about is None or index is None:
            raise ValueError("its first or its last member is missing")
        del found[_INDEX]
        if list(found.values()) != index:
            raise ValueError("it does not hold what its index lists")
    files = [member for name, member in found.items() if _FILE.fullmatch(name)]
    return Contents(
        about=about,
        members=found,
        rows=rows,
        files=len(files),
        file_bytes=sum(member.size for member in files),
    )


def _about(raw: bytes) -> About:
    said = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if msgspec.json.decode(said["format"]) != FORMAT:
        raise Invalid(
            f"the backup has format {bytes(said['format']).decode()}, this program reads {FORMAT}",
            hint="Restore it with the version of Penstock that wrote it.",
        )
    return msgspec.json.decode(raw, type=About)


def _check_seal(file: Path) -> None:
    with file.open("rb") as opened:
        left = os.fstat(opened.fileno()).st_size - _SEAL
        whole = hashlib.sha256()
        while left > 0 and (chunk := opened.read(min(left, _CHUNK))):
            whole.update(chunk)
            left -= len(chunk)
        if left or opened.read() != _SEAL_HEAD + whole.digest() + _SEAL_TAIL:
            raise ValueError("its end does not vouch for the rest: it is cut off or was changed")


def _members(file: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of every member, in order; contents are read one after the other."""
    with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|", bufsize=_CHUNK) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            name = member.name
            known = name in (_HEAD, _INDEX) or any(
                kind.fullmatch(name) for kind in (_TABLE, _SECRET, _FILE)
            )
            if content is None or not known:
                raise ValueError(f"{name} is nothing that a backup holds")
            yield name, member.size, content


def _digested(
    name: str, size: int, content: IO[bytes], into: IO[bytes] | None = None
) -> tuple[Member, int]:
    """A member that was read, and the number of its lines; copied ``into`` a file, if given."""
    digest, lines = hashlib.sha256(), 0
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        lines += chunk.count(b"\n")
        if into is not None:
            into.write(chunk)
    return Member(name=name, size=size, sha256=digest.hexdigest()), lines


@contextlib.contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Says of which file what is wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except (EOFError, ValueError, LookupError, OSError, zlib.error, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise Unavailable(f"{file} cannot be read: {error.strerror}") from None
        raise Damaged(
            f"{file} is no whole backup: {error}",
            hint="Take another copy of it, or an earlier backup. Nothing was changed.",
        ) from None


# ---------------------------------------------------------------- the way back


async def restore(file: Path, *, home: Path, url: str | None = None) -> Contents:
    """Put a backup into an empty store that no server uses; all of it, or nothing.

    Args:
        file: the backup; it is proven before anything is written.
        home: directory of the data; made when it is missing.
        url: PostgreSQL database that takes the tables instead of a file in ``home``.

    Raises:
        Damaged: the backup is not whole, or its rows do not fit together.
        Conflict: the target is not empty or in use, or the backup is newer than this program.
        Unavailable: the target cannot be written.
    """
    contents = verify(file)
    known = backups.newest("postgres" if url else "sqlite")
    if contents.about.schema > known:
        raise Conflict(
            f"the backup was written by a newer Penstock ({contents.about.penstock}, schema"
            f" {contents.about.schema}; this program knows {known})",
            hint="Restore it with that version. Nothing was changed.",
        )
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _owned(home), _scratch(home) as staging:
            target = backups.target(home=home, url=url, staging=staging)
            try:
                await target.begin(contents.about.schema)
                await _fill(target, file, contents, staging)
                await target.finish()
                with _moved(staging, home):
                    await target.commit()
                _sync(home)
            finally:
                await target.close()
    except OSError as error:
        raise Unavailable(
            f"{home} cannot be written: {error.strerror or error}",
            hint="Is its disk full or read-only? Nothing was changed.",
        ) from None
    return contents


async def _fill(target: Target, file: Path, contents: Contents, staging: Path) -> None:
    with _damage_named(file):
        for name, size, content in _members(file):
            if name in (_HEAD, _INDEX):
                continue
            if path := _FILE.fullmatch(name):
                place = staging / path[1]
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with place.open("xb") as opened:
                    found, _ = _digested(name, size, content, into=opened)
                    opened.flush()
                    os.fsync(opened.fileno())
                raw = b""
            else:
                raw = content.read()
                found = Member(name=name, size=size, sha256=hashlib.sha256(raw).hexdigest())
            if contents.members.get(name) != found:
                raise ValueError(f"{name} was changed while it was read")
            if table := _TABLE.fullmatch(name):
                await target.put(table[1], raw)
            elif secret := _SECRET.fullmatch(name):
                if secret[1] not in backups.SECRETS:
                    raise ValueError(f"{name} is a secret that is not known here")
                await target.put_secret(secret[1], raw)


@contextlib.contextmanager
def _owned(home: Path) -> Iterator[None]:
    """Holds a data directory as a server does, so that none starts in it meanwhile."""
    handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a Penstock server is using {home}",
                hint="Restore into another directory, or stop the server. Nothing was changed.",
            ) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """An empty directory on the disk of ``home``; those of restores that were killed go too."""
    for left in home.glob(f"{_STAGING}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=home) as folder:
        staging = Path(folder, "home")
        staging.mkdir(mode=0o700)
        yield staging


@contextlib.contextmanager
def _moved(staging: Path, home: Path) -> Iterator[None]:
    """Moves what was staged to its place; what had no place before leaves it on an error."""
    new: list[Path] = []
    try:
        for source in sorted(path for path in staging.rglob("*") if path.is_file()):
            place = home / source.relative_to(staging)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not place.exists():
                new.append(place)
            os.replace(source, place)  # noqa: PTH105 - atomic, and said so
        for folder in {path.parent for path in new}:
            _sync(folder)
        yield
    except BaseException:
        for place in new:
            place.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- before an upgrade


async def standing(*, home: Path, url: str | None = None) -> Standing:
    """What a database holds and what a start of this program would do to it; changes nothing.

    Raises:
        Unavailable: it does not answer, or cannot be read.
    """
    return await backups.standing(home=home, url=url)
