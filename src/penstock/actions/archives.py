"""Archives: the one file that a backup is, how it is written, and the proof that it is whole.

The file is a tar.gz that any tool unpacks: ``penstock-backup.json``, then ``tables/``,
``secrets/`` and ``files/``, and last ``index.json`` with the digest of every member. Behind the
archive stands an empty gzip member, the seal, which holds the digest of every byte before it: not
all bytes of a gzip file are covered by its own checksum.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from penstock.domain.errors import Damaged, Invalid, NotFound, Unavailable

FORMAT = 1
HEAD = "penstock-backup.json"
INDEX = "index.json"
TABLE = re.compile(r"tables/(\w+?)(?:\.\d+)?\.jsonl")
SECRET = re.compile(r"secrets/(\w+)")
FILE = re.compile(r"files/((?!\.\.?(?:/|$))[^/]+(?:/(?!\.\.?(?:/|$))[^/]+)*)")
CHUNK = 1 << 20
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


class ArchiveWriter:
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
        last = self.member(INDEX, msgspec.json.encode(self._members))
        last += self._pack(bytes(2 * tarfile.BLOCKSIZE))
        rest = self._zip.flush()
        self._whole.update(rest)
        return last + rest + _SEAL_HEAD + self._whole.digest() + _SEAL_TAIL

    def _pack(self, content: bytes) -> bytes:
        packed = self._zip.compress(content)
        self._whole.update(packed)
        return packed


def verify(file: Path) -> Contents:
    """Prove every byte of a backup; nothing is written.

    Raises:
        NotFound: there is no such file.
        Invalid: it is a backup of a format that is not known here.
        Damaged: it is no backup, or not as it was written.
    """
    with damage_named(file):
        _check_seal(file)
        found: dict[str, Member] = {}
        rows: dict[str, int] = {}
        about = index = None
        for name, size, content in members_of(file):
            if index is not None or name in found or (about is None) != (name == HEAD):
                raise ValueError(f"{name} stands where it must not")
            if name in (HEAD, INDEX):
                raw = content.read()
                found[name] = Member(name=name, size=size, sha256=hashlib.sha256(raw).hexdigest())
                if name == INDEX:
                    index = msgspec.json.decode(raw, type=list[Member])
                else:
                    about = _about(raw)
                continue
            found[name], lines = digested(name, size, content)
            if table := TABLE.fullmatch(name):
                rows[table[1]] = rows.get(table[1], 0) + lines - 1
        if about is None or index is None:
            raise ValueError("its first or its last member is missing")
        del found[INDEX]
        if list(found.values()) != index:
            raise ValueError("it does not hold what its index lists")
    files = [member for name, member in found.items() if FILE.fullmatch(name)]
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
        while left > 0 and (chunk := opened.read(min(left, CHUNK))):
            whole.update(chunk)
            left -= len(chunk)
        if left or opened.read() != _SEAL_HEAD + whole.digest() + _SEAL_TAIL:
            raise ValueError("its end does not vouch for the rest: it is cut off or was changed")


def members_of(file: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of every member, in order; contents are read one after the other."""
    with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|", bufsize=CHUNK) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            name = member.name
            known = name in (HEAD, INDEX) or any(
                kind.fullmatch(name) for kind in (TABLE, SECRET, FILE)
            )
            if content is None or not known:
                raise ValueError(f"{name} is nothing that a backup holds")
            yield name, member.size, content


def digested(
    name: str, size: int, content: IO[bytes], into: IO[bytes] | None = None
) -> tuple[Member, int]:
    """A member that was read, and the number of its lines; copied ``into`` a file, if given."""
    digest, lines = hashlib.sha256(), 0
    while chunk := content.read(CHUNK):
        digest.update(chunk)
        lines += chunk.count(b"\n")
        if into is not None:
            into.write(chunk)
    return Member(name=name, size=size, sha256=digest.hexdigest()), lines


@contextlib.contextmanager
def damage_named(file: Path) -> Iterator[None]:
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
