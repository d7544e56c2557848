"""The private key in a file that only the server's user can read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from pathlib import Path

from penstock.domain.errors import Unavailable


class FileKeys:
    """Implements ``drivers.signing.PrivateKeys`` with one file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def read(self) -> str | None:
        """See :class:`penstock.drivers.signing.PrivateKeys`."""
        return await asyncio.to_thread(self._read)

    async def write(self, pem: str, *, seen: str | None) -> str:
        """See :class:`penstock.drivers.signing.PrivateKeys`."""
        try:
            return await asyncio.to_thread(self._write, pem, seen)
        except OSError as error:
            raise Unavailable(
                f"the signing key cannot be written to {self._file}: {error.strerror}"
            ) from None

    def _read(self) -> str | None:
        try:
            return self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(
                f"the signing key {self._file} cannot be read: {error.strerror}"
            ) from None

    def _write(self, pem: str, seen: str | None) -> str:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._file.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            present = self._read()
            if present != seen and present is not None:
                return present
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".key-")
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._file)  # noqa: PTH105 - atomic, and said so
            return pem
        finally:
            os.close(lock)
