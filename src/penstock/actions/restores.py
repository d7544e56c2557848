"""Restores: a backup into an empty store that no server uses; all of it, or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from penstock.actions.archives import (
    FILE,
    HEAD,
    INDEX,
    SECRET,
    TABLE,
    Contents,
    Member,
    damage_named,
    digested,
    members_of,
    verify,
)
from penstock.domain.errors import Conflict, Unavailable
from penstock.store import backups, migrate, restores
from penstock.store.restores import Target

_STAGING = ".restoring-"


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
    known = migrate.newest("postgres" if url else "sqlite")
    if contents.about.schema > known:
        raise Conflict(
            f"the backup was written by a newer Penstock ({contents.about.penstock}, schema"
            f" {contents.about.schema}; this program knows {known})",
            hint="Restore it with that version. Nothing was changed.",
        )
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _owned(home), _scratch(home) as staging:
            target = restores.target(home=home, url=url, staging=staging)
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
    with damage_named(file):
        for name, size, content in members_of(file):
            if name in (HEAD, INDEX):
                continue
            if path := FILE.fullmatch(name):
                place = staging / path[1]
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with place.open("xb") as opened:
                    found, _ = digested(name, size, content, into=opened)
                    opened.flush()
                    os.fsync(opened.fileno())
                raw = b""
            else:
                raw = content.read()
                found = Member(name=name, size=size, sha256=hashlib.sha256(raw).hexdigest())
            if contents.members.get(name) != found:
                raise ValueError(f"{name} was changed while it was read")
            if table := TABLE.fullmatch(name):
                await target.put(table[1], raw)
            elif secret := SECRET.fullmatch(name):
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
