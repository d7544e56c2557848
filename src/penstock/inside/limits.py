"""What a process may use, and with whom it dies: rlimits and the parent-death signal."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GIB = 1 << 30

# Kept back below the hard limit, so that a MemoryError can still be reported.
_RESERVE = 32 * 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to SIGKILL this process when the thread that made it ends.

    Args:
        parent: the pid that must still be the parent; it may have died before we asked.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every process below whose own parent ends, whatever session it is in."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def join(paths: Iterable[str]) -> None:
    """Join the control groups of these files; one that is gone is no limit any more.

    What watches the process from outside holds it to its limits with and without them.
    """
    for path in paths:
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:  # noqa: PTH123 - see prompts
            file.write(b"0")


def apply(limits: dict[str, Any]) -> None:
    """Set the rlimits of this process; an absent or null limit is left alone.

    The number of processes is not among them: the kernel counts those of a user, not ours.

    Memory: the private writable memory (RLIMIT_DATA) may grow by ``memory_bytes`` above what the
    process holds now. The address space (RLIMIT_AS), which bounds shared mappings too, gets one
    GiB more than that: address space that is reserved and never touched (thread arenas) is not
    memory.
    """
    _set(resource.RLIMIT_CORE, 0)
    if memory := limits.get("memory_bytes"):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - see prompts
            fields = file.read().split()
        size, data = int(fields[0]) * _PAGE, int(fields[5]) * _PAGE
        _set(resource.RLIMIT_DATA, data + memory, reserve=_RESERVE)
        _set(resource.RLIMIT_AS, size + memory + _GIB, reserve=_RESERVE)
    if seconds := limits.get("cpu_seconds"):
        used = time.process_time()  # by a process that was something else before
        _set(resource.RLIMIT_CPU, math.ceil(used + seconds), reserve=1)
    if files := limits.get("open_files"):
        _set(resource.RLIMIT_NOFILE, files)


def release_reserve() -> None:
    """Let the process use the last of its memory, to say that it ran out."""
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (hard, hard))


def _set(kind: int, value: int, *, reserve: int = 0) -> None:
    """Lower a limit: the soft one to ``value``, the hard one ``reserve`` above it."""
    _, hard = resource.getrlimit(kind)
    ceiling = value + reserve
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    resource.setrlimit(kind, (min(value, ceiling), ceiling))
