"""A release's own Python environment, built once for every lock."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from penstock.domain.errors import BuildFailed
from penstock.drivers.builders import Wheel, locks
from penstock.drivers.builders.platforms import platform_name, python_minor
from penstock.drivers.builders.wheels import Wheels
from penstock.rules.releases import digest_bytes

log = logging.getLogger(__name__)

_MARKER = ".penstock-complete"


class Environments:
    """The environments below one directory; several processes may build at the same time."""

    def __init__(self, folder: Path, wheels: Wheels) -> None:
        self._folder = folder
        self._wheels = wheels
        self._building: dict[str, asyncio.Lock] = {}

    async def python(self, lock: str, minor: str | None = None) -> Path:
        """The interpreter of the environment that a lock describes, built if it is not there.

        Args:
            lock: the text of penstock.lock.
            minor: the Python it is for, such as 3.11; the server's own if it is not given.

        Raises:
            BuildFailed: a package cannot be installed, or there is no such Python here.
        """
        minor = minor or python_minor()
        name = f"{digest_bytes(lock.encode())[:24]}-{platform_name(minor)}"
        target = self._folder / name
        python = target / "bin" / "python"
        if (target / _MARKER).exists() and python.exists():
            return python
        async with self._building.setdefault(name, asyncio.Lock()), _alone(self._folder, name):
            if not ((target / _MARKER).exists() and python.exists()):
                shutil.rmtree(target, ignore_errors=True)  # what a killed build has left
                await self._build(target, lock, minor)
                (target / _MARKER).touch()
        return python

    async def wheels(self, lock: str) -> tuple[Wheel, ...]:
        """The wheels that install a lock on this platform, fetched if they are not here.

        Raises:
            BuildFailed: one cannot be had.
        """
        if not locks.pins_anything(lock):
            return ()
        return await self._wheels.gather(lock, platform_name(python_minor()))

    async def _build(self, target: Path, lock: str, minor: str) -> None:
        await locks.run_uv(
            ["venv", "--quiet", "--no-project", "--python", _interpreter(minor), str(target)],
            doing=f"the release's environment for Python {minor} cannot be made",
            cwd=self._folder,
        )
        if not locks.pins_anything(lock):
            return
        python = str(target / "bin" / "python")
        doing = "the packages of penstock.lock cannot be installed"
        try:
            wheels = await self._wheels.gather(lock, platform_name(minor))
        except BuildFailed as error:
            # An index that wants a password gives files to uv that it does not give to us.
            log.warning("the wheels of a release are not kept beside it: %s", error)
            file = target / locks.NAME
            file.write_text(lock, encoding="utf-8")
            await locks.run_uv(
                [
                    "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode",
                    "--python", python, str(file),
                ],
                doing=doing,
                cwd=self._folder,
            )  # fmt: skip
            return
        await asyncio.to_thread(self._wheels.verify, wheels)
        await locks.run_uv(
            [
                "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps",
                "--compile-bytecode", "--python", python,
                *(str(self._wheels.path(wheel)) for wheel in wheels),
            ],
            doing=doing,
            cwd=self._folder,
        )  # fmt: skip


def _interpreter(minor: str) -> str:
    """The Python that runs a release: this one if it fits, or one of that version on the path.

    Raises:
        BuildFailed: there is none.
    """
    if minor == python_minor():
        return sys.executable
    found = shutil.which(f"python{minor}")
    if found is None:
        raise BuildFailed(
            f"the release needs Python {minor}, and there is no python{minor} on this machine",
            hint=f"Install it (apt-get install python{minor}-venv), or cut the release again here.",
        )
    return found


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
