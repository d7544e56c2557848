"""Peers in environments of their own below ``.bench``: never dependencies of Penstock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import uv

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent / ".bench"


def install(name: str, *, pins: str, python: str = sys.executable) -> Path | None:
    """The interpreter of a peer's environment, made if it is not there; None if it cannot be.

    Args:
        name: of the directory below ``.bench``.
        pins: the file beside this one that names the versions.
        python: the interpreter it needs, or its version.
    """
    folder = BENCH / name
    wanted = (HERE / pins).read_text(encoding="utf-8")
    complete = folder / "complete"
    found = folder / "bin" / "python"
    if complete.exists() and complete.read_text(encoding="utf-8") == wanted:
        return found
    print(f"installing {pins} into .bench/{name} …", flush=True)
    tool = uv.find_uv_bin()
    for command in (
        [tool, "venv", "-q", "--clear", "--python", python, folder],
        [tool, "pip", "install", "-q", "--python", found, "-r", HERE / pins],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{name} cannot be installed here: {done.stderr.strip()[-400:]}", flush=True)
            return None
    complete.write_text(wanted, encoding="utf-8")
    return found
