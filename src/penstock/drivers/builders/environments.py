"""A release's own Python environment, built once for every lock."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from penstock.drivers.builders import locks
from penstock.rules.releases import digest_bytes

_MARKER = ".penstock-complete"


class Environments:
    """The environments below one directory; several processes may build at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._building: dict[str, asyncio.Lock] = {}

    async def python(self, lock: str) -> Path:
        """The interpreter of the environment that a lock describes, built if it is not there.

        Raises:
            BuildFailed: a package cannot be installed.
        """
        name = f"{digest_bytes(lock.encode())[:24]}-{_platform()}"
        target = self._folder / name
        python = target / "bin" / "python"
        if (target / _MARKER).exists():
            return python
        async with self._building.setdefault(name, asyncio.Lock()), _alone(self._folder, name):
            if not (target / _MARKER).exists():
                shutil.rmtree(target, ignore_errors=True)  # what a killed build has left
                await self._build(target, lock)
                (target / _MARKER).touch()
        return python

    async def _build(self, target: Path, lock: str) -> None:
        doing = "the release's environment cannot be made"
        await locks.run_uv(
            ["venv", "--quiet", "--no-project", "--python", sys.executable, str(target)],
            doing=doing,
            cwd=self._folder,
        )
        if not locks.pins_anything(lock):
            return
        file = target / locks.NAME
        file.write_text(lock, encoding="utf-8")
        await locks.run_uv(
            [
                "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode",
                "--python", str(target / "bin" / "python"), str(file),
            ],
            doing="the packages of penstock.lock cannot be installed",
            cwd=self._folder,
        )  # fmt: skip


def python_minor() -> str:
    """The Python that releases cut here run on: ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _platform() -> str:
    return f"cp{python_minor().replace('.', '')}-{sys.platform}-{platform.machine()}"


@contextlib.asynccontextmanager
async def _alone(folder: Path, name: str) -> AsyncIterator[None]:
    """Hold the lock of an environment against other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
