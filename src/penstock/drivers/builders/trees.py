"""A release's files on this machine: put there from contents, checked before every load."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.domain.errors import BuildFailed
from penstock.domain.releases import FileEntry, Manifest
from penstock.drivers.builders import Fetch
from penstock.rules.releases import digest_bytes

log = logging.getLogger(__name__)

_DAMAGED = "The stored artifact is damaged: import it again, or restore a backup."


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A file that is not what the release pins."""

    path: str
    what: str


def entries(pinned: Manifest) -> tuple[FileEntry, ...]:
    """Every file of a release."""
    return (*pinned.code, *pinned.prompts, *pinned.tool_files, pinned.lock)


def verify(pinned: Manifest, project: Path) -> list[Damage]:
    """What of a tree is not as the release pins it: changed, missing, or not of the release."""
    found = []
    known = {entry.path for entry in entries(pinned)}
    for entry in entries(pinned):
        try:
            with (project / entry.path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            found.append(Damage(path=entry.path, what=os.strerror(error.errno or 0)))
            continue
        if digest != entry.digest:
            found.append(Damage(path=entry.path, what=f"is not blob {entry.digest}"))
    found += [
        Damage(path=path, what="is not part of the release")
        for path in _walk(project)
        if path not in known
    ]
    return found


async def materialise(pinned: Manifest, target: Path, fetch: Fetch) -> None:
    """Put a release's files below ``target/project``, each checked against its digest.

    Raises:
        BuildFailed: a content is not what its digest says; names file and blob.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        (making / "project").mkdir()
        for entry in entries(pinned):
            content = await fetch(entry.digest)
            if digest_bytes(content) != entry.digest:
                raise BuildFailed(
                    f"the content of {entry.path} is not what the release pins"
                    f" (blob {entry.digest})",
                    hint=_DAMAGED,
                )
            _place(making / "project" / entry.path, content, executable=entry.executable)
        try:
            os.rename(making, target)  # noqa: PTH104 - must fail when another was faster
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def discard(target: Path, damages: list[Damage]) -> None:
    """Remove a damaged tree, and say what was wrong with it."""
    for damage in damages:
        log.warning("release %s: %s %s", target.name[:12], damage.path, damage.what)
    away = Path(tempfile.mkdtemp(dir=target.parent, prefix=".damaged-"))
    os.rename(target, away / "tree")  # noqa: PTH104 - one step: nobody meets half a tree
    shutil.rmtree(away, ignore_errors=True)


def _walk(project: Path) -> Iterator[str]:
    for folder, _, names in os.walk(project):
        for name in names:
            yield (Path(folder) / name).relative_to(project).as_posix()


def _place(path: Path, content: bytes, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o555 if executable else 0o444)
