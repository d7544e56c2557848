"""A small filesystem in memory that can be filled to the last byte."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path
from typing import Self

import pytest

_CHUNK = b"\0" * (64 << 10)


class SmallDisk:
    """A tmpfs of its own, mounted for as long as it is used; a test is skipped who may not mount."""

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes
        self._filler = folder / "filler"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("only root may mount a filesystem")
        self.folder.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", self.folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if mounted.returncode:
            pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill(self) -> None:
        """Take whatever room there is; again, what has become free since."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(_CHUNK)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break

    def free(self) -> None:
        """Give all of it back."""
        self._filler.unlink()
