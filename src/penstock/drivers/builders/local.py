"""Builds releases on this machine, with uv and a child process."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from penstock.domain.errors import BuildFailed, Invalid, ProjectInvalid
from penstock.domain.releases import ComponentKind, FileEntry, Manifest, Release, Tool
from penstock.drivers.builders import Built, BuiltComponent, Fetch, Launch, locks
from penstock.drivers.builders.agent_side import install
from penstock.drivers.builders.environments import Environments, python_minor
from penstock.drivers.builders.examination import examine
from penstock.inside.prompts import split_front_matter
from penstock.kit.archives import ArchiveError, unpack
from penstock.rules import projects
from penstock.rules.documents import Document
from penstock.rules.projects import Project
from penstock.rules.releases import (
    Parts,
    canonical,
    contents,
    digest_bytes,
    digest_json,
    manifest,
)

_MOST_BYTES = 512 << 20
_MOST_FILES = 20_000
_SUFFIX = ".prompt"


class LocalBuilder:
    """Implements ``drivers.builders.Builder`` below one directory."""

    def __init__(self, home: Path) -> None:
        self._releases = home / "releases"
        self._side = home / "inside"
        self._environments = Environments(home / "environments")
        self._launches: dict[str, Launch] = {}

    async def build(self, archive: bytes, *, ci: bool = False) -> Built:
        """See :class:`penstock.drivers.builders.Builder`."""
        with tempfile.TemporaryDirectory(prefix="penstock-project-") as name:
            folder = Path(name).resolve()
            try:
                await asyncio.to_thread(
                    unpack, archive, folder, most_bytes=_MOST_BYTES, most_files=_MOST_FILES
                )
            except ArchiveError as error:
                raise Invalid(str(error)) from None
            return await self._build(folder, ci=ci)

    async def prepare(self, release: Release, fetch: Fetch) -> Launch:
        """See :class:`penstock.drivers.builders.Builder`."""
        known = self._launches.get(release.digest)
        if known is not None:
            return known
        pinned = release.manifest
        target = self._releases / release.digest
        if not target.exists():
            await self._materialise(pinned, target, fetch)
        lock = (target / "project" / locks.NAME).read_text(encoding="utf-8")
        python = await self._environments.python(lock)
        side = await asyncio.to_thread(install, self._side)
        launch = Launch(
            release=release.digest,
            manifest=pinned,
            python=str(python),
            project=str(target / "project"),
            vendor=str(side.vendor),
            inside=str(side.inside),
            prompts={
                _prompt_name(entry.path): str(target / "project" / entry.path)
                for entry in pinned.prompts
            },
        )
        self._launches[release.digest] = launch
        return launch

    # ------------------------------------------------------------ building

    async def _build(self, folder: Path, *, ci: bool) -> Built:
        project = _read_project(folder)
        _check_modules(project, folder)
        prompts = _prompts(project, folder)
        lock, compiled = await self._lock(project, folder, ci=ci)
        python = await self._environments.python(lock)
        side = await asyncio.to_thread(install, self._side)
        found = await examine(
            project,
            folder,
            python=python,
            side=side,
            prompts={_prompt_name(path): folder / path for path in prompts},
        )
        parts, blobs = _parts(project, folder, found, set(prompts), lock)
        built = manifest(parts)
        warnings = list(project.warnings)
        if compiled is not None:
            warnings.append(
                "penstock.lock was missing or stale and has been compiled anew; commit it, so that"
                " the next release gets the same packages"
            )
        return Built(
            manifest=built,
            blobs=blobs,
            components=_components(parts, folder, prompts),
            lock=compiled,
            warnings=tuple(warnings),
        )

    async def _lock(self, project: Project, folder: Path, *, ci: bool) -> tuple[str, str | None]:
        """The lock, and the same once more if it had to be compiled."""
        dependencies = locks.source(folder, project.dependencies)
        file = folder / locks.NAME
        present = file.read_text(encoding="utf-8") if file.is_file() else None
        if present is not None and locks.is_fresh(present, locks.digest(dependencies)):
            return present, None
        if ci and dependencies is not None:
            state = "is missing" if present is None else "is stale: the dependencies have changed"
            raise ProjectInvalid(
                state, file=locks.NAME, hint="Run penstock release here and commit penstock.lock."
            )
        compiled = await locks.compile_lock(folder, dependencies, python=python_minor())
        return compiled, compiled if dependencies is not None else None

    # ------------------------------------------------------------ materialising

    async def _materialise(self, pinned: Manifest, target: Path, fetch: Fetch) -> None:
        self._releases.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=self._releases, prefix=".making-"))
        try:
            entries = (*pinned.code, *pinned.prompts, *pinned.tool_files, pinned.lock)
            for entry in entries:
                content = await fetch(entry.digest)
                if digest_bytes(content) != entry.digest:
                    raise BuildFailed(
                        f"the content of {entry.path} is not what the release pins"
                        f" (blob {entry.digest})",
                        hint="The stored artifact is damaged; cut the release again.",
                    )
                _place(making / "project" / entry.path, content, executable=entry.executable)
            try:
                os.rename(making, target)  # noqa: PTH104 - must fail when another was faster
            except OSError:
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _read_project(folder: Path) -> Project:
    file = folder / projects.FILE
    if not file.is_file():
        raise ProjectInvalid(
            "is missing",
            file=projects.FILE,
            hint="Is this the project's directory? penstock init makes a new project.",
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProjectInvalid(f"is not UTF-8: {error}", file=projects.FILE) from None
    return projects.parse(text)


def _check_modules(project: Project, folder: Path) -> None:
    """Name a missing file before anything is built for it."""
    module = project.entrypoint.partition(":")[0]
    path = folder / Path(*module.split("."))
    if not (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() or path.is_dir()):
        raise ProjectInvalid(
            f"entrypoint: there is no module {module} in the project",
            file=projects.FILE,
            hint=f"Expected {'/'.join(module.split('.'))}.py below the project's directory.",
        )


def _prompts(project: Project, folder: Path) -> list[str]:
    """The prompt files, as paths in the project; their front matter is checked."""
    root = folder / project.prompts
    found = []
    for file in sorted(root.rglob(f"*{_SUFFIX}")) if root.is_dir() else []:
        path = file.relative_to(folder).as_posix()
        _front_matter(file, path)
        found.append(path)
    return found


def _front_matter(file: Path, path: str) -> dict[str, Any]:
    try:
        front, _ = split_front_matter(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ProjectInvalid(f"is not UTF-8: {error}", file=path) from None
    return {} if front is None else Document("\n" + front, file=path).data


def _prompt_name(path: str) -> str:
    return Path(path).name.removesuffix(_SUFFIX)


def _parts(
    project: Project, folder: Path, found: dict[str, Any], prompts: set[str], lock: str
) -> tuple[Parts, dict[str, bytes]]:
    """The parts of the release and the contents of its files."""
    blobs: dict[str, bytes] = {}

    def entry(path: str, content: bytes, *, executable: bool = False) -> FileEntry:
        digest = digest_bytes(content)
        blobs[digest] = content
        return FileEntry(path=path, digest=digest, executable=executable)

    sorts: dict[str, list[FileEntry]] = {"code": [], "prompts": [], "tools": []}
    tool_files = set(found["tool_files"])
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if not file.is_file() or path in (projects.FILE, locks.NAME) or "__pycache__" in path:
            continue
        sort = "prompts" if path in prompts else "tools" if path in tool_files else "code"
        executable = bool(file.stat().st_mode & stat.S_IXUSR)
        sorts[sort].append(entry(path, file.read_bytes(), executable=executable))
    parts = Parts(
        agent=project.agent,
        entrypoint=project.entrypoint,
        python=python_minor(),
        code=tuple(sorts["code"]),
        prompts=tuple(sorts["prompts"]),
        tool_files=tuple(sorts["tools"]),
        tools=tuple(Tool(**tool) for tool in found["tools"]),
        models=project.models,
        lock=entry(locks.NAME, lock.encode()),
        graph=found["graph"],
        state_schema=digest_json(found["state"]),
        policy=project.policy,
    )
    return parts, blobs


def _components(parts: Parts, folder: Path, prompts: list[str]) -> tuple[BuiltComponent, ...]:
    hints: dict[ComponentKind, str | None] = {ComponentKind.PROMPT: None, ComponentKind.MODEL: None}
    if len(prompts) == 1:
        version = _front_matter(folder / prompts[0], prompts[0]).get("version")
        hints[ComponentKind.PROMPT] = None if version is None else f"v{version}".replace("vv", "v")
    chains = list(parts.models.values())
    hints[ComponentKind.MODEL] = chains[0][0].model if chains and chains[0] else "none"
    return tuple(
        BuiltComponent(
            kind=kind,
            digest=digest_json(content),
            content=canonical(content).decode(),
            label_hint=hints.get(kind),
        )
        for kind, content in contents(parts).items()
    )


def _place(path: Path, content: bytes, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o555 if executable else 0o444)
