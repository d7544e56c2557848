"""Builds releases on this machine, with uv and a child process."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.domain.errors import BuildFailed, Invalid, ProjectInvalid
from penstock.domain.releases import Manifest, Release, Tool, ToolSource
from penstock.drivers.builders import (
    Built,
    Fetch,
    Launch,
    ReadSource,
    Wheel,
    locks,
    project_files,
    trees,
)
from penstock.drivers.builders.agent_side import install
from penstock.drivers.builders.environments import Environments
from penstock.drivers.builders.examination import Subject, examine
from penstock.drivers.builders.platforms import python_minor
from penstock.drivers.builders.wheels import Wheels
from penstock.kit.archives import ArchiveError, unpack
from penstock.rules import versions
from penstock.rules.compositions import prompt_name
from penstock.rules.projects import Project
from penstock.rules.prompts import Prompt
from penstock.rules.releases import manifest

_MOST_BYTES = 512 << 20
_MOST_FILES = 20_000


async def _no_sources(source: ToolSource, folder: Path) -> Any:  # noqa: ARG001 - the signature of all
    raise Invalid(f"{source.name}: this builder reads no tools from {source.kind} sources")


class LocalBuilder:
    """Implements ``drivers.builders.Builder`` below one directory."""

    def __init__(self, home: Path, read_source: ReadSource = _no_sources) -> None:
        """Build below ``home``; ``read_source`` asks a server for its tools."""
        self._releases = home / "releases"
        self._side = home / "inside"
        self._wheels = Wheels(home / "wheels")
        self._environments = Environments(home / "environments", self._wheels)
        self._read_source = read_source
        self._preparing: dict[str, asyncio.Lock] = {}

    async def build(
        self, archive: bytes, *, ci: bool = False, strict: bool = False
    ) -> tuple[Built, ...]:
        """See :class:`penstock.drivers.builders.Builder`."""
        with tempfile.TemporaryDirectory(prefix="penstock-project-") as name:
            folder = Path(name).resolve()
            try:
                await asyncio.to_thread(
                    unpack, archive, folder, most_bytes=_MOST_BYTES, most_files=_MOST_FILES
                )
            except ArchiveError as error:
                raise Invalid(str(error)) from None
            found = project_files.read(folder, strict=strict)
            for project in found:
                project_files.check_modules(project, folder)
            prompts = project_files.read_prompts(found[0], folder)
            lock, compiled = await self._lock(found[0], folder, ci=ci)
            return tuple([await self._build(one, folder, prompts, lock, compiled) for one in found])

    async def examine(self, pinned: Manifest, fetch: Fetch) -> tuple[str, ...]:
        """See :class:`penstock.drivers.builders.Builder`."""
        with tempfile.TemporaryDirectory(prefix="penstock-release-") as name:
            target = Path(name).resolve() / "release"
            await trees.materialise(pinned, target, fetch)
            folder = target / "project"
            lock = (folder / locks.NAME).read_text(encoding="utf-8")
            names = {source.name for source in pinned.sources}
            modules = sorted({tool.module for tool in pinned.tools} - names)
            subject = Subject(
                entrypoint=pinned.entrypoint,
                tools=tuple(modules),
                tools_default=pinned.tools_default,
                evaluators=pinned.policy.evaluators,
                env=pinned.policy.env,
                paths=pinned.paths,
            )
            found = await examine(
                subject,
                folder,
                python=await self._environments.python(lock, pinned.python),
                side=await asyncio.to_thread(install, self._side),
                prompts={prompt_name(e.path): folder / e.path for e in pinned.prompts},
            )
        return _differences(pinned, found, names)

    async def prepare(self, release: Release, fetch: Fetch) -> Launch:
        """See :class:`penstock.drivers.builders.Builder`."""
        async with self._preparing.setdefault(release.digest, asyncio.Lock()):
            return await self._prepare(release, fetch)

    async def wheels(self, lock: str) -> tuple[Wheel, ...]:
        """See :class:`penstock.drivers.builders.Builder`."""
        return await self._environments.wheels(lock)

    async def read_wheel(self, wheel: Wheel) -> bytes:
        """See :class:`penstock.drivers.builders.Builder`."""
        try:
            content = await asyncio.to_thread(self._wheels.path(wheel).read_bytes)
        except OSError:
            raise BuildFailed(f"the wheel {wheel.file} is not on this machine") from None
        if hashlib.sha256(content).hexdigest() != wheel.digest:
            raise BuildFailed(f"the wheel {wheel.file} (blob {wheel.digest}) is damaged")
        return content

    async def keep_wheels(self, lock: str, platform: str, contents: Mapping[Wheel, bytes]) -> None:
        """See :class:`penstock.drivers.builders.Builder`."""

        def keep() -> None:
            for wheel, content in contents.items():
                self._wheels.add(wheel, content)
            self._wheels.settle(lock, platform, tuple(contents))

        await asyncio.to_thread(keep)

    # ------------------------------------------------------------ one release

    async def _prepare(self, release: Release, fetch: Fetch) -> Launch:
        pinned = release.manifest
        target = self._releases / release.digest
        project = target / "project"
        if target.exists():
            damages = await asyncio.to_thread(trees.verify, pinned, project)
            if damages:
                await asyncio.to_thread(trees.discard, target, damages)
        if not target.exists():
            await trees.materialise(pinned, target, fetch)
        lock = (project / locks.NAME).read_text(encoding="utf-8")
        python = await self._environments.python(lock, pinned.python)
        side = await asyncio.to_thread(install, self._side)
        return Launch(
            release=release.digest,
            manifest=pinned,
            python=str(python),
            project=str(project),
            paths=tuple(str(project / path) for path in pinned.paths),
            vendor=str(side.vendor),
            inside=str(side.inside),
            prompts={
                prompt_name(entry.path): str(project / entry.path) for entry in pinned.prompts
            },
        )

    async def _build(
        self,
        project: Project,
        folder: Path,
        prompts: Mapping[str, Prompt],
        lock: str,
        compiled: str | None,
    ) -> Built:
        found = await examine(
            Subject(
                entrypoint=project.entrypoint,
                tools=project.tools,
                tools_default=project.tools_default,
                evaluators=project.policy.evaluators,
                env=project.policy.env,
                paths=tuple(path for path in project.paths if (folder / path).is_dir()),
            ),
            folder,
            python=await self._environments.python(lock),
            side=await asyncio.to_thread(install, self._side),
            prompts={prompt_name(path): folder / path for path in prompts},
        )
        sources = [await self._source(source, folder) for source in project.sources]
        made = project_files.sort(
            project, folder, found, prompts=prompts, lock=lock, sources=sources
        )
        warnings = list(project.warnings)
        if compiled is not None:
            warnings.append(
                "penstock.lock was missing or stale and has been compiled anew; commit it, so that"
                " the next release gets the same packages"
            )
        return Built(
            manifest=manifest(made.parts),
            blobs=made.blobs,
            components=versions.of_parts(made.parts, prompts),
            lock=compiled,
            warnings=tuple(warnings),
        )

    async def _source(
        self, source: ToolSource, folder: Path
    ) -> tuple[ToolSource, tuple[Tool, ...]]:
        """A source as it is now, with its tools as the release pins them."""
        facts = await self._read_source(source, folder)
        return project_files.pinned_source(source, facts)

    async def _lock(self, project: Project, folder: Path, *, ci: bool) -> tuple[str, str | None]:
        """The lock, and the same once more if it had to be compiled."""
        given = locks.sources(folder, project.dependencies)
        file = folder / locks.NAME
        present = file.read_text(encoding="utf-8") if file.is_file() else None
        if present is not None and locks.is_fresh(present, locks.digest(given)):
            return present, None
        if ci and given is not None:
            state = "is missing" if present is None else "is stale: the dependencies have changed"
            raise ProjectInvalid(
                state, file=locks.NAME, hint="Run penstock release here and commit penstock.lock."
            )
        compiled = await locks.compile_lock(folder, given, python=python_minor())
        return compiled, compiled if given is not None else None


def _differences(pinned: Manifest, found: Mapping[str, Any], sources: set[str]) -> tuple[str, ...]:
    """What a combination is that its parts did not say.

    Raises:
        BuildFailed: it offers other tools than it pins.
    """
    own = sorted(
        (tool for tool in pinned.tools if tool.module not in sources),
        key=lambda tool: (tool.module, tool.name),
    )
    offered = sorted(
        (Tool(**tool) for tool in found["tools"]), key=lambda tool: (tool.module, tool.name)
    )
    if own != offered:
        names = sorted({tool.name for tool in own} ^ {tool.name for tool in offered})
        raise BuildFailed(
            "with this code the tools are not those that were pinned"
            + (f": {', '.join(names)}" if names else "; their schemas differ"),
            hint="These versions do not fit together: choose tools and code of one release.",
        )
    if found["graph"] != pinned.graph:
        return ("the graph is not the one that was pinned with the code: its nodes follow tools",)
    return ()
