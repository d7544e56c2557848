"""``penstock.lock``: the exact versions and hashes of a project's dependencies.

It is a universal, hashed requirements file, compiled by uv. Its first line holds the digest of what
it was compiled from, which is how a stale one is noticed without resolving anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from penstock.domain.errors import BuildFailed, ProjectInvalid

NAME = "penstock.lock"

_USUAL = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py", "setup.cfg")
_HEADER = "# penstock.lock, compiled from dependencies sha256:"
_SECONDS = 600.0
_SHOWN = 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What a lock is compiled from."""

    files: tuple[Path, ...] = ()  # requirements.txt, pyproject.toml, setup.cfg …, or one uv.lock
    requirements: tuple[str, ...] = ()  # named where the project is described

    @property
    def name(self) -> str:
        """How an error names them."""
        return ", ".join([file.name for file in self.files] + list(self.requirements[:3]))


def sources(project: Path, chosen: Sequence[str] | None) -> Sources | None:
    """What names the project's dependencies, if anything does.

    Args:
        project: its directory.
        chosen: a file; or directories (``.``, ``./lib``) and requirements, as langgraph.json has
            them; None takes whichever of the usual files is there.

    Raises:
        ProjectInvalid: a chosen one is missing.
    """
    if chosen is None:
        found = [project / name for name in _USUAL if (project / name).is_file()][:1]
        return Sources(files=tuple(found)) if found else None
    files, requirements = [], []
    for item in chosen:
        place = project / item
        if item in _USUAL or item.startswith("."):
            if place.is_dir():
                files += [place / name for name in _USUAL if (place / name).is_file()][:1]
            elif place.is_file():
                files.append(place)
            else:
                raise ProjectInvalid(
                    f"is named as a dependency and is not there: {item}", file="the project"
                )
        else:
            requirements.append(item)
    if not files and not requirements:
        return None
    return Sources(files=tuple(files), requirements=tuple(requirements))


def digest(given: Sources | None) -> str:
    """The digest of what a lock is compiled from."""
    if given is None:
        return hashlib.sha256(b"").hexdigest()
    texts = [_essence(file) for file in given.files] + list(given.requirements)
    text = texts[0] if len(texts) == 1 else json.dumps(texts)
    return hashlib.sha256(text.encode()).hexdigest()


def _essence(file: Path) -> str:
    """What of a file matters to the lock: not its comments' place, not the project's name."""
    if file.name == "pyproject.toml":
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProjectInvalid(f"cannot be read: {error}", file=file.name) from None
        named = table.get("project", {}).get("dependencies", [])
        return json.dumps([*named, table.get("tool", {}).get("uv", {})], sort_keys=True)
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


def is_fresh(lock: str | None, dependencies: str) -> bool:
    """Whether a lock was compiled from the dependencies with this digest."""
    return lock is not None and lock.startswith(_HEADER + dependencies + "\n")


def pins_anything(lock: str) -> bool:
    """Whether a lock installs a package at all."""
    return any(line and not line.startswith(("#", " ")) for line in lock.splitlines())


async def compile_lock(project: Path, given: Sources | None, *, python: str) -> str:
    """Resolve the dependencies; what an earlier lock pinned stays where it can.

    Raises:
        BuildFailed: they cannot be resolved.
    """
    header = _HEADER + digest(given) + "\n"
    if given is None:
        return header
    target = project / NAME
    doing = f"the dependencies ({given.name}) cannot be resolved"
    if [file.name for file in given.files] == ["uv.lock"]:
        await run_uv(
            [
                "export", "--locked", "--quiet", "--no-emit-project", "--no-dev", "--no-header",
                "--no-annotate", "--format", "requirements.txt", "--output-file", str(target),
            ],
            doing=doing,
            cwd=given.files[0].parent,
        )  # fmt: skip
        return header + target.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        files = [str(file) for file in given.files]
        if given.requirements:
            extra = Path(name) / "requirements.in"
            extra.write_text("\n".join(given.requirements) + "\n", encoding="utf-8")
            files.append(str(extra))
        await run_uv(
            [
                "pip", "compile", *files, "--universal", "--generate-hashes",
                "--no-emit-index-url", "--no-header", "--no-annotate", "--quiet",
                "--python-version", python, "--output-file", str(target),
            ],
            doing=doing,
            cwd=project,
        )  # fmt: skip
    return header + target.read_text(encoding="utf-8")


async def run_uv(arguments: Sequence[str], *, doing: str, cwd: Path) -> None:
    """Run uv to its end; nothing it started is left behind.

    Raises:
        BuildFailed: it failed, or took too long; with what it said.
    """
    process = await asyncio.create_subprocess_exec(
        uv.find_uv_bin(),
        *arguments,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise BuildFailed(f"{doing}: uv took more than {_SECONDS:.0f} s") from None
        raise
    if process.returncode:
        said = output.decode(errors="replace").strip()
        raise BuildFailed(
            doing,
            output=said[-_SHOWN:],
            hint="Is the package index reachable, and does every name and version exist?",
        )
