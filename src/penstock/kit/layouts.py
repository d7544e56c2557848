"""OCI image layouts as one file: written in one way only, read without trust.

The file is an uncompressed tar of ``oci-layout``, ``index.json`` and ``blobs/sha256/…``, in this
order, with headers that hold nothing but a name and a size. A reader demands exactly that, checks
every blob against its name, and so refuses any byte that is not as it was written.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_BLOCK = 512
_CHUNK = 1 << 20
_PLAIN = ("oci-layout", "index.json")
_MOST_PLAIN = 4 << 20
_START = "the start"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")


class LayoutError(ValueError):
    """A layout that is damaged, or that nobody wrote like this."""


def member(name: str, size: int) -> bytes:
    """The header of a member."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def end() -> bytes:
    """What stands behind the last member."""
    return bytes(2 * _BLOCK)


def padding(size: int) -> bytes:
    """What stands behind a member's content."""
    return bytes(-size % _BLOCK)


def write(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """A layout as the bytes of its file; the caller gives the members in order."""
    for name, content in members:
        yield member(name, len(content))
        yield content
        yield padding(len(content))
    yield end()


class Layout:
    """A layout's file, every byte of it checked when it was opened."""

    def __init__(self, path: Path, *, most_bytes: int) -> None:
        """Read and check ``path``.

        Raises:
            LayoutError: a byte of it is not as it should be; names the blob or file.
        """
        self.path = path
        self.plain: dict[str, bytes] = {}
        self._blobs: dict[str, tuple[int, int]] = {}  # digest → offset, size
        try:
            size = path.stat().st_size
            if size > most_bytes:
                raise LayoutError(f"the artifact is larger than {most_bytes >> 20} MiB")
            with path.open("rb") as file:
                self._scan(file)
        except OSError as error:
            raise LayoutError(f"the artifact cannot be read: {error}") from None

    @property
    def digests(self) -> set[str]:
        """Every blob that is there."""
        return set(self._blobs)

    def size(self, digest: str) -> int:
        """A blob's size in bytes.

        Raises:
            LayoutError: it is not there.
        """
        return self._where(digest)[1]

    def read(self, digest: str) -> bytes:
        """A blob, checked once more: the file may have changed since it was opened.

        Raises:
            LayoutError: it is not there, or damaged.
        """
        offset, size = self._where(digest)
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if hashlib.sha256(content).hexdigest() != digest:
            raise LayoutError(f"blob {digest} is damaged")
        return content

    def _where(self, digest: str) -> tuple[int, int]:
        if digest not in self._blobs:
            raise LayoutError(f"blob {digest} is missing")
        return self._blobs[digest]

    def _scan(self, file: BinaryIO) -> None:
        expected = list(_PLAIN)
        last = ""
        while True:
            head = file.read(_BLOCK)
            if head == bytes(_BLOCK):
                break
            name, size = _parse(head, after=last or (self.plain and "index.json") or _START)
            blob = _BLOB.fullmatch(name)
            if expected:
                wanted = expected.pop(0)
                if name != wanted or size > _MOST_PLAIN:
                    raise LayoutError(f"{wanted} is missing, or not where it should be")
                self.plain[name] = file.read(size)
            elif blob is None or name <= last:
                raise LayoutError(f"{name!r} does not belong to an artifact, or stands there twice")
            else:
                self._blob(file, blob[1], size)
                last = name
            if file.read(-size % _BLOCK).strip(b"\0"):
                raise LayoutError(f"there is something behind {name} that does not belong there")
        if expected:
            raise LayoutError(f"{expected[0]} is missing")
        if file.read(_BLOCK) != bytes(_BLOCK) or file.read(1):
            raise LayoutError("the artifact does not end where it should")

    def _blob(self, file: BinaryIO, digest: str, size: int) -> None:
        self._blobs[digest] = (file.tell(), size)
        found = hashlib.sha256()
        left = size
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise LayoutError(f"blob {digest} is cut off")
            found.update(chunk)
            left -= len(chunk)
        if found.hexdigest() != digest:
            raise LayoutError(f"blob {digest} is damaged: its content is {found.hexdigest()}")


def _parse(head: bytes, *, after: str) -> tuple[str, int]:
    """Name and size in a header, which must be exactly the one we write for them."""
    try:
        info = tarfile.TarInfo.frombuf(head, "ascii", "strict")
        name, size = info.name, info.size
        same = member(name, size) == head
    except (tarfile.TarError, UnicodeError, ValueError):
        same = False
    if not same and after == _START:
        raise LayoutError("the header behind the start is damaged, or this is no artifact at all")
    if not same:
        raise LayoutError(f"the header behind {after} is damaged")
    return name, size


def from_folder(folder: Path) -> Iterator[bytes]:
    """An unpacked layout as the bytes of its file.

    Raises:
        LayoutError: it holds something that is no part of a layout, or lacks one.
    """
    blobs = folder / "blobs" / "sha256"
    known = {folder / name for name in _PLAIN} | {folder / "blobs", blobs}
    found = sorted(blobs.iterdir()) if blobs.is_dir() else []
    for path in folder.rglob("*"):
        inside = path.parent == blobs and not path.is_symlink() and path.is_file()
        if path not in known and not inside:
            raise LayoutError(f"{path} does not belong to an OCI image layout")
    for path in [folder / name for name in _PLAIN] + found:
        if path.is_symlink() or not path.is_file():
            raise LayoutError(f"{path} is missing, or no file")
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        if not _BLOB.fullmatch(name) and name not in _PLAIN:
            raise LayoutError(f"{path} is not named by a digest")
        yield member(name, len(content))
        yield content
        yield padding(len(content))
    yield end()


def to_folder(layout: Layout, folder: Path) -> None:
    """Unpack a layout into a directory that is empty or does not exist.

    Raises:
        LayoutError: the directory is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise LayoutError(f"{folder} is not empty")
    for name, content in layout.plain.items():
        (folder / name).write_bytes(content)
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest in sorted(layout.digests):
        (blobs / digest).write_bytes(layout.read(digest))
