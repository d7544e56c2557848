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
import tomllib
from collections.abc import Sequence
from pathlib import Path

import uv

from penstock.domain.errors import BuildFailed, ProjectInvalid

NAME = "penstock.lock"

_HEADER = "# penstock.lock, compiled from dependencies sha256:"
_SECONDS = 600.0
_SHOWN = 3000


def source(project: Path, chosen: str | None) -> Path | None:
    """The file that names the project's dependencies, if there is one.

    Raises:
        ProjectInvalid: the chosen one is missing, or a pyproject.toml cannot be read.
    """
    if chosen is not None:
        if not (project / chosen).is_file():
            raise ProjectInvalid(f"dependencies: there is no {chosen}", file="penstock.yaml")
        return project / chosen
    for name in ("requirements.txt", "pyproject.toml"):
        if (project / name).is_file():
            return project / name
    return None


def digest(dependencies: Path | None) -> str:
    """The digest of what a lock is compiled from."""
    if dependencies is None:
        text = ""
    elif dependencies.suffix == ".toml":
        try:
            table = tomllib.loads(dependencies.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProjectInvalid(f"cannot be read: {error}", file=dependencies.name) from None
        named = table.get("project", {}).get("dependencies", [])
        text = json.dumps([*named, table.get("tool", {}).get("uv", {})], sort_keys=True)
    else:
        lines = dependencies.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.strip() for line in lines if line.strip())
    return hashlib.sha256(text.encode()).hexdigest()


def is_fresh(lock: str | None, dependencies: str) -> bool:
    """Whether a lock was compiled from the dependencies with this digest."""
    return lock is not None and lock.startswith(_HEADER + dependencies + "\n")


def pins_anything(lock: str) -> bool:
    """Whether a lock installs a package at all."""
    return any(line and not line.startswith(("#", " ")) for line in lock.splitlines())


async def compile_lock(project: Path, dependencies: Path | None, *, python: str) -> str:
    """Resolve the dependencies; what an earlier lock pinned stays where it can.

    Raises:
        BuildFailed: they cannot be resolved.
    """
    header = _HEADER + digest(dependencies) + "\n"
    if dependencies is None:
        return header
    target = project / NAME
    await run_uv(
        [
            "pip", "compile", str(dependencies), "--universal", "--generate-hashes",
            "--no-emit-index-url", "--no-header", "--no-annotate", "--quiet",
            "--python-version", python, "--output-file", str(target),
        ],
        doing=f"the dependencies in {dependencies.name} cannot be resolved",
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
