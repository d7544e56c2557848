"""What builds releases and puts them on this machine, as the engines see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from penstock.domain.components import NewComponent
from penstock.domain.releases import Manifest, Release, ToolSource
from penstock.domain.tools import SourceFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Everything a release's process needs to start; all paths are absolute."""

    release: str  # digest
    manifest: Manifest
    python: str  # the interpreter of the release's own environment
    project: str  # directory of the project's code
    paths: tuple[str, ...]  # directories of it that modules are imported from, too
    vendor: str  # directory of the packages that prompts need
    inside: str  # directory that holds Penstock's part inside the agent's process
    prompts: Mapping[str, str]  # name → file
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment, secrets too


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A release that is not published yet."""

    manifest: Manifest
    blobs: Mapping[str, bytes]  # by digest
    components: tuple[NewComponent, ...]  # each prompt and alias before the whole
    lock: str | None  # a newly compiled penstock.lock, if the project's was missing or stale
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A file that installs a package, kept beside the releases that need it."""

    file: str  # name-version-tags.whl
    platform: str  # what it was chosen for: cp311-linux-x86_64
    digest: str
    size: int  # bytes


Fetch = Callable[[str], Awaitable[bytes]]
ReadSource = Callable[[ToolSource, Path], Awaitable[SourceFacts]]


class Builder(Protocol):
    """Builds releases and materialises them."""

    async def build(
        self, archive: bytes, *, ci: bool = False, strict: bool = False
    ) -> tuple[Built, ...]:
        """Build a project's archive: one release, or one for each graph of a langgraph.json.

        Args:
            archive: tar.gz of the project's directory.
            ci: a missing or stale lock is an error.
            strict: warnings are errors.

        Raises:
            Invalid: the archive is none, or unsafe.
            ProjectInvalid: a file of the project is wrong; names file and line.
            BuildFailed: its environment cannot be built, or its code cannot be imported.
        """
        ...

    async def examine(self, pinned: Manifest, fetch: Fetch) -> tuple[str, ...]:
        """Import a combination of parts that nobody has built yet; warnings for a person.

        Raises:
            BuildFailed: it cannot be imported, or its tools are not those it pins.
        """
        ...

    async def prepare(self, release: Release, fetch: Fetch) -> Launch:
        """Put a release on this machine, and verify every byte of what is there already.

        Raises:
            BuildFailed: a content is not what its digest says, or the environment fails.
        """
        ...

    async def wheels(self, lock: str) -> tuple[Wheel, ...]:
        """The wheels that install a lock on this platform, fetched if they are not here.

        Raises:
            BuildFailed: one cannot be had.
        """
        ...

    async def read_wheel(self, wheel: Wheel) -> bytes:
        """A wheel's content, checked against its digest.

        Raises:
            BuildFailed: it is missing or damaged.
        """
        ...

    async def keep_wheels(self, lock: str, platform: str, contents: Mapping[Wheel, bytes]) -> None:
        """Keep the wheels that came with an artifact, so that no package index is needed.

        Raises:
            BuildFailed: one is not what its digest says.
        """
        ...
