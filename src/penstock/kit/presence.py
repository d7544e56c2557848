"""Whether a process that named itself still lives, seen from another one of the same machine."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_DEAD = frozenset("ZXx")  # as /proc/PID/stat says it
_STATE, _START = 0, 19  # fields behind the name of the program


def of_this_process() -> str:
    """What names this process on its machine for good; nothing where that cannot be told.

    A boot, the namespaces in which numbers and times hold, the number, and when it was started.
    """
    found = _fields(os.getpid())
    where = _where()
    return "" if found is None or not where else f"{where}/{os.getpid()}/{found[_START]}"


def is_gone(name: str) -> bool:
    """Whether the process that was given ``name`` has certainly ended.

    False also means that it cannot be known: it is of another machine, or of another container.
    """
    where, _, rest = name.rpartition("/")
    where, _, number = where.rpartition("/")
    if not where or where != _where():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and alive
    found = _fields(int(number))  # which may be hidden from us
    return found is not None and (found[_START] != rest or found[_STATE] in _DEAD)


@cache
def _where() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        spaces = [Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("pid", "time")]
        return f"{boot}/{spaces[0]}.{spaces[1]}"
    except OSError:
        return ""


def _fields(pid: int) -> list[str] | None:
    """What the kernel says of a process, behind the name of its program."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
