"""Directories as compressed archives: packed the same way everywhere, unpacked without trust."""

from __future__ import annotations

import fnmatch
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath


class ArchiveError(ValueError):
    """A directory that cannot be packed, or an archive that must not be unpacked."""


def pack(folder: Path, *, ignore: Iterable[str] = ()) -> bytes:
    """A directory as tar.gz; the same files give the same bytes, whatever their times and owners.

    Args:
        folder: what is packed.
        ignore: patterns (``*.pyc``, ``data/*.log``, ``.venv``) of names or paths to leave out.

    Raises:
        ArchiveError: it holds a symbolic link, or something that is neither file nor directory.
    """
    patterns = tuple(ignore)
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(_files(folder, PurePosixPath(), patterns)):
            source = folder / path
            info = tarfile.TarInfo(str(path))
            content = source.read_bytes()
            info.size = len(content)
            info.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(tar_bytes.getvalue(), compresslevel=6, mtime=0)


def unpack(archive: bytes, folder: Path, *, most_bytes: int, most_files: int) -> None:
    """Unpack a tar.gz into an existing, empty directory.

    Raises:
        ArchiveError: it is no archive, too large, leads out of ``folder``, or holds anything but
            files and directories.
    """
    left = most_bytes
    count = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as tar:
            for member in tar:
                path = _inside(member)
                count += 1
                left -= member.size
                if count > most_files or left < 0:
                    raise ArchiveError(
                        f"the archive holds more than {most_files} files or {most_bytes >> 20} MiB"
                    )
                if member.isdir():
                    continue
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                if content is None or target.exists():
                    raise ArchiveError(f"the archive holds {member.name} twice, or as no file")
                target.write_bytes(content.read())
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ArchiveError(f"this is no readable tar.gz archive: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ArchiveError(f"the archive cannot be unpacked: {error}") from None


def _inside(member: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name:
        raise ArchiveError(f"the archive leads out of its directory: {member.name!r}")
    if not (member.isfile() or member.isdir()):
        raise ArchiveError(f"the archive holds a link or a device: {member.name!r}")
    return path


def _files(
    folder: Path, below: PurePosixPath, patterns: tuple[str, ...]
) -> Iterator[PurePosixPath]:
    for entry in folder.iterdir() if below == PurePosixPath() else (folder / below).iterdir():
        path = below / entry.name
        if _ignored(path, patterns):
            continue
        if entry.is_symlink():
            raise ArchiveError(
                f"{path} is a symbolic link; put the file itself there, or leave it out"
            )
        if entry.is_dir():
            yield from _files(folder, path, patterns)
        elif entry.is_file():
            yield path
        else:
            raise ArchiveError(f"{path} is neither a file nor a directory")


def _ignored(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(path.name, pattern) or fnmatch.fnmatchcase(str(path), pattern)
        for pattern in patterns
    )
