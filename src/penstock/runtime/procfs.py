"""What /proc says of a process and of all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of /proc/PID/stat."""

    parent: int
    state: str
    cpu_seconds: float  # its own
    reaped_cpu_seconds: float  # of the children it has waited for
    threads: int
    began: int  # in ticks since the machine was started: with the pid, a name for ever
    rss_bytes: int

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie does not."""
        return self.state not in "ZX"


def stat(pid: int) -> Stat | None:
    """What is known of a process; nothing when it is gone, or there is no /proc."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The name may hold anything, also spaces and brackets.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(
        parent=int(fields[1]),
        state=fields[0].decode(),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        reaped_cpu_seconds=(int(fields[13]) + int(fields[14])) / _TICKS,
        threads=int(fields[17]),
        began=int(fields[19]),
        rss_bytes=int(fields[21]) * _PAGE,
    )


def pss_bytes(pid: int) -> int:
    """The memory of a process, what it shares divided among those who share it."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, those that these have started, and so on."""
    found: list[int] = []
    pending = [pid]
    while pending:
        children = _children(pending.pop())
        if children is None:
            return _scanned(pid)
        found += children
        pending += children
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a process, its group and whatever it has started, also outside of its group.

    Top down and again: a process that starts others while it is looked at has its name on no list
    the first time, and no parent left to hide behind the second.
    """
    known = {child: found.began for child in descendants(pid) if (found := stat(child))}
    kill_group(pid)
    for _ in range(_ROUNDS):
        alive = [
            child
            for child, began in known.items()
            if (found := stat(child)) and found.began == began and found.alive
        ]
        if not alive:
            return
        for child in alive:
            known |= {other: found.began for other in descendants(child) if (found := stat(other))}
            _kill(child)


def kill_group(pid: int) -> None:
    """SIGKILL a process group; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int] | None:
    """The children of a process; nothing where the kernel does not list them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - called for every attempt
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123 - see above
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):  # noqa: PTH110 - see above
                return None
        except OSError:
            continue
    return found


def _scanned(pid: int) -> list[int]:
    """The same by looking at every process of the machine."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - see above
        if name.isdigit() and (found := stat(int(name))):
            children.setdefault(found.parent, []).append(int(name))
    found_pids: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found_pids += below
        pending += below
    return found_pids


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - see above
            return file.read()
    except OSError:
        return b""
