"""What builds releases and puts them on this machine, as the engines see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.domain.releases import ComponentKind, Manifest, Release


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Everything a release's process needs to start; all paths are absolute."""

    release: str  # digest
    manifest: Manifest
    python: str  # the interpreter of the release's own environment
    project: str  # directory of the project's code
    vendor: str  # directory of the packages that prompts need
    inside: str  # directory that holds Penstock's part inside the agent's process
    prompts: Mapping[str, str]  # name → file


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltComponent:
    """One part of a release as it was built."""

    kind: ComponentKind
    digest: str
    content: str  # canonical JSON
    label_hint: str | None  # the author's own version, a model id; None lets the registry count


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A release that is not published yet."""

    manifest: Manifest
    blobs: Mapping[str, bytes]  # by digest
    components: tuple[BuiltComponent, ...]
    lock: str | None  # a newly compiled penstock.lock, if the project's was missing or stale
    warnings: tuple[str, ...]


Fetch = Callable[[str], Awaitable[bytes]]


class Builder(Protocol):
    """Builds releases and materialises them."""

    async def build(self, archive: bytes, *, ci: bool = False) -> Built:
        """Build a project's archive; ``ci`` makes a missing or stale lock an error.

        Raises:
            Invalid: the archive is none, or unsafe.
            ProjectInvalid: a file of the project is wrong; names file and line.
            BuildFailed: its environment cannot be built, or its code cannot be imported.
        """
        ...

    async def prepare(self, release: Release, fetch: Fetch) -> Launch:
        """Put a release on this machine; it costs nothing when it is there already.

        Raises:
            BuildFailed: a content is not what its digest says, or the environment fails.
        """
        ...
