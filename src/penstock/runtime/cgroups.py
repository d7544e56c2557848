"""Control groups, version 2 or 1, where this process may make some: the kernel's own limits.

::

    <our group>/penstock-<pid>-…/<attempt>      memory.max  pids.max  cpu.stat  cgroup.kill   (v2)
    one such path per hierarchy               memory.limit_in_bytes  pids.max  cpuacct.usage (v1)

An attempt's process joins its group before any of the agent's code runs. Equal groups share the
processors equally, so that an attempt with fifty processes gets no more than one with a single one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock.domain.releases import Limits

log = logging.getLogger(__name__)

# The kernel counts threads where people count processes.
_THREADS = 512
_LEAF = "penstock-server"  # where a server goes to let groups be made beside it (version 2)
_KILL_ROUNDS = 50

_MEMORY, _PIDS = "memory", "pids"
_NEEDED = (_MEMORY, _PIDS)
_V1 = (_MEMORY, _PIDS, "cpuacct", "cpu")
_V2 = (_MEMORY, _PIDS, "cpu")


class Cgroup:
    """The group of one attempt: one directory for each hierarchy (v1), or one (v2)."""

    def __init__(self, folders: Mapping[str, Path], *, version: int) -> None:
        self._folders = dict(folders)  # controller → directory
        self._version = version
        self._paths = tuple(dict.fromkeys(folders.values()))

    @property
    def joins(self) -> tuple[str, ...]:
        """The files that a process writes ``0`` to, to be in this group."""
        return tuple(str(folder / "cgroup.procs") for folder in self._paths)

    def limit(self, limits: Limits, *, reserve_bytes: int) -> None:
        """Set what the group may use; memory gets ``reserve_bytes`` on top, for last words."""
        memory, pids = self._folders[_MEMORY], self._folders[_PIDS]
        if limits.memory_bytes is not None:
            most = str(limits.memory_bytes + reserve_bytes)
            if self._version == 2:  # noqa: PLR2004 - version two
                _write(memory / "memory.max", most)
                _try(memory / "memory.swap.max", "0")
                _try(memory / "memory.oom.group", "1")
            else:
                _write(memory / "memory.limit_in_bytes", most)
                _try(memory / "memory.memsw.limit_in_bytes", most)
                _try(memory / "memory.swappiness", "0")
        _write(pids / "pids.max", str(limits.processes + _THREADS))

    def broken(self) -> tuple[str, float] | None:
        """The limit that the kernel has held the group to, and how much it had used by then."""
        memory, pids = self._folders[_MEMORY], self._folders[_PIDS]
        events = "memory.events" if self._version == 2 else "memory.oom_control"  # noqa: PLR2004
        if _count(memory / events, "oom_kill"):
            peak = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"  # noqa: PLR2004
            return "memory", float(_number(memory / peak))
        if _count(pids / "pids.events", "max"):
            return "processes", float(_number(pids / "pids.current"))
        return None

    def cpu_seconds(self) -> float | None:
        """The CPU time of all that ever was in the group; nothing if it is not counted."""
        if self._version == 2:  # noqa: PLR2004 - version two
            used = _count(self._folders[_MEMORY] / "cpu.stat", "usage_usec")
            return None if used is None else used / 1e6
        folder = self._folders.get("cpuacct")
        return None if folder is None else _number(folder / "cpuacct.usage") / 1e9

    def pids(self) -> list[int]:
        """The processes that are in the group now."""
        return _pids(self._folders[_PIDS])

    def kill(self) -> None:
        """SIGKILL all that is in the group; nothing in it can start anything from now on."""
        folder = self._folders[_PIDS]
        if not _pids(folder):
            return  # and nothing can begin where nothing is
        _try(folder / "pids.max", "0")
        if self._version == 2 and _try(folder / "cgroup.kill", "1"):  # noqa: PLR2004 - version two
            return
        for _ in range(_KILL_ROUNDS):
            found = _pids(folder)
            if not found:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Give the group back; false while something in it is still dying."""
        gone = True
        for folder in self._paths:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


class Cgroups:
    """Makes groups below our own."""

    def __init__(
        self, bases: Mapping[str, Path], *, version: int, mkdir: Callable[[Path], None]
    ) -> None:
        self.version = version
        self._bases = dict(bases)  # controller → directory
        self._mkdir = mkdir
        self._made = 0

    @classmethod
    def detect(
        cls, proc: Path = Path("/proc/self"), *, mkdir: Callable[[Path], None] = Path.mkdir
    ) -> Cgroups | None:
        """What this process may use; nothing where groups are not delegated to it.

        Args:
            proc: where the kernel describes this process.
            mkdir: makes a group; another one in tests, where no kernel fills it with files.
        """
        try:
            mounts = _mounts(proc)
        except (OSError, ValueError):
            return None
        for version, bases in _candidates(mounts):
            found = cls._usable(bases, version, mkdir)
            if found is not None:
                return found
        return None

    @classmethod
    def _usable(
        cls, bases: Mapping[str, Path], version: int, mkdir: Callable[[Path], None]
    ) -> Cgroups | None:
        """Groups below these directories, if making one and limiting it works."""
        name = f"penstock-{os.getpid()}-{secrets.token_hex(4)}"
        made: list[Path] = []
        try:
            if version == 2:  # noqa: PLR2004 - version two
                _delegate(bases[_MEMORY], mkdir)
            for base in dict.fromkeys(bases.values()):
                _sweep(base)
                _make(base / name, mkdir, made)
            if version == 2:  # noqa: PLR2004 - version two
                _write(bases[_MEMORY] / name / "cgroup.subtree_control", _enabled(_V2))
            found = cls(
                {controller: base / name for controller, base in bases.items()},
                version=version,
                mkdir=mkdir,
            )
            probe = found.create()
            probe.limit(Limits(), reserve_bytes=0)
            probe.remove()
        except OSError as error:
            log.debug("cgroups v%d are not delegated: %s", version, error)
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return None
        return found

    def create(self) -> Cgroup:
        """A group for one attempt.

        Raises:
            OSError: the kernel makes no more.
        """
        self._made += 1
        folders = {controller: base / str(self._made) for controller, base in self._bases.items()}
        made: list[Path] = []
        try:
            for folder in dict.fromkeys(folders.values()):
                _make(folder, self._mkdir, made)
        except OSError:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        return Cgroup(folders, version=self.version)

    def close(self) -> None:
        """Remove our groups; those whose processes are still dying are swept by the next start."""
        for base in dict.fromkeys(self._bases.values()):
            for folder in (*_below(base), base):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _mounts(proc: Path) -> dict[str, Path]:
    """Our own directory in each hierarchy, by controller; version 2 is under the empty name.

    Raises:
        OSError: there is no such file.
    """
    own: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found: dict[str, Path] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = left.split(" ")[3:5]
        if kind == "cgroup2":
            names = [""]
        elif kind == "cgroup":
            names = [name for name in options.replace(" ", ",").split(",") if name in _V1]
        else:
            continue
        for name in names:
            if name in own:
                path = own[name]
                below = path.removeprefix(root.rstrip("/")) if path.startswith(root) else "/"
                found.setdefault(name, Path(point) / below.strip("/"))
    return found


def _candidates(mounts: Mapping[str, Path]) -> list[tuple[int, dict[str, Path]]]:
    """Version 2 where it has what we need, then version 1."""
    found: list[tuple[int, dict[str, Path]]] = []
    if "" in mounts:
        base = mounts[""]
        if base.name == _LEAF:  # we have made room already, or whoever started us has
            base = base.parent
        with contextlib.suppress(OSError):
            if set(_NEEDED) <= set((base / "cgroup.controllers").read_text().split()):
                found.append((2, dict.fromkeys(_V2, base)))
    if all(name in mounts for name in _NEEDED):
        found.append((1, {name: mounts[name] for name in _V1 if name in mounts}))
    return found


def _delegate(base: Path, mkdir: Callable[[Path], None]) -> None:
    """Let groups below ``base`` have controllers: it must then hold no process itself.

    Raises:
        OSError: it is not ours, or holds processes that are not.
    """
    try:
        _write(base / "cgroup.subtree_control", _enabled(_V2))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return
    leaf = base / _LEAF
    _make(leaf, mkdir, [])
    _write(leaf / "cgroup.procs", "0")
    try:
        _write(base / "cgroup.subtree_control", _enabled(_V2))
    except OSError:
        _try(base / "cgroup.procs", "0")
        with contextlib.suppress(OSError):
            leaf.rmdir()
        raise


def _enabled(controllers: tuple[str, ...]) -> str:
    return " ".join(f"+{name}" for name in controllers)


def _sweep(base: Path) -> None:
    """Remove the empty groups of servers that were killed."""
    for folder in base.glob("penstock-[0-9]*-*"):
        pid = folder.name.split("-")[1]
        if not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - no file of ours
            for below in (*_below(folder), folder):
                with contextlib.suppress(OSError):
                    below.rmdir()


def _below(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _make(folder: Path, mkdir: Callable[[Path], None], made: list[Path]) -> None:
    with contextlib.suppress(FileExistsError):
        mkdir(folder)
        made.append(folder)


def _write(path: Path, text: str) -> None:
    """Write to a file that the kernel has made; one that does not exist is an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _try(path: Path, text: str) -> bool:
    try:
        _write(path, text)
    except OSError:
        return False
    return True


def _pids(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _count(path: Path, name: str) -> int | None:
    """One number of a file with names and numbers."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - read for every attempt
            for line in file:
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
    except (OSError, ValueError):
        return None
    return None
