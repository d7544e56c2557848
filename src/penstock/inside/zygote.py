"""The process that imports an agent once and forks one process per attempt.

Started as ``python -I -c "...; main()" FD CONFIG`` with the supervisor's control socket; see
``frames`` for the wire format. It runs no thread, no event loop and holds no socket but the control
socket, and it checks that: where an agent's imports leave a thread or a socket behind, forking is
not safe. Its mode is then ``spare``: it does not fork, but becomes the next attempt's process
itself, and the supervisor starts another one.

Nobody outlives anybody: the zygote dies with the supervisor's thread that started it, an attempt
with the zygote, and whatever processes an attempt leaves behind with the attempt.
"""

from __future__ import annotations

import array
import gc
import io
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

EXIT_FAILED = 3

_CHUNK = 64 * 1024
_FDS = 3
_SETTLING = 5.0

# Numerical libraries start one thread per core when imported; an attempt is one core's work, and
# a thread in the zygote would rule out forking. LangGraph must restrict what a checkpoint can
# name before it is imported. CrewAI reports home and asks questions unless it is told not to.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "LANGGRAPH_STRICT_MSGPACK": "true",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "ANONYMIZED_TELEMETRY": "false",
}


def main() -> NoReturn:
    """Import the agent, say so, and serve the control socket until it closes."""
    started = time.monotonic()
    control = socket.socket(fileno=int(sys.argv[1]))
    config: dict[str, Any] = json.loads(sys.argv[2])
    del sys.argv[1:]  # an agent's code may look at them
    control.set_inheritable(False)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    # Loaded after the environment is set, and before the agent's own code could shadow anything.
    from penstock.inside import limits  # noqa: PLC0415 - see above

    limits.die_with_parent()
    limits.adopt_orphans()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # Here, not after the fork: whoever keeps these objects (a logging handler) prints the same way.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")
    zygote = Zygote(control, config)
    zygote.load(started)
    zygote.serve()


class Zygote:
    """One agent, imported; its children; the supervisor's control socket."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        from penstock.inside.frames import Decoder  # noqa: PLC0415 - see main

        self._control = control
        self._config = config
        self._project: str = config["project"]
        self._decoder = Decoder()
        self._fds: list[int] = []
        self._children: dict[int, int] = {}
        self._own: frozenset[int] = frozenset()  # processes that importing the agent has started
        self._woken, self._waker = os.pipe()
        self._loaded: frozenset[str] = frozenset()
        self._why: str | None = None
        self._runner: Any = None

    def load(self, started: float) -> None:
        """Import prompts and entrypoint and get ready to fork; exits with status 3 on failure."""
        from penstock.inside import declarations, entrypoints, prompts, tracebacks, warming  # noqa: PLC0415 - see main
        from penstock.inside.frames import PROTOCOL  # noqa: PLC0415 - see main
        from penstock.inside.frameworks import hooks  # noqa: PLC0415 - see main

        if vendor := self._config.get("vendor"):
            sys.path.append(vendor)
        try:
            prompts.pin(self._config.get("prompts") or {})
            declarations.pin(
                self._config.get("tools") or [], self._config.get("tools_default") or {}
            )
            hooks.install()
            self._runner = entrypoints.load(self._config["entrypoint"])
        except BaseException as error:  # noqa: BLE001 - whatever an agent's import does is reported
            self._send({"t": "failed", "error": tracebacks.describe(error, self._project)})
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_FAILED)
        from penstock.inside import host, shared  # noqa: F401, PLC0415 - loaded once, for every child

        warming.warm_up(self._runner)
        self._freeze()
        self._own = frozenset(_processes_below(os.getpid()))
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        os.set_blocking(self._waker, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._send(
            {
                "t": "ready",
                "v": PROTOCOL,
                "pid": os.getpid(),
                "threads": _threads(),
                "seconds": round(time.monotonic() - started, 3),
                "mode": self._mode,
                "why": self._why,
            }
        )

    def serve(self) -> NoReturn:
        """Answer the supervisor and watch the children, until the socket closes."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._woken:
                    _drain(self._woken)
                    self._reap()
                else:
                    self._read()

    @property
    def _mode(self) -> str:
        return "fork" if self._why is None else "spare"

    def _read(self) -> None:
        """Take what the supervisor sent, file descriptors included."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                _CHUNK,
                socket.CMSG_SPACE(_FDS * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,  # what an agent starts must not hold its channel open
            )
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._stop()
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._fds += received
        for header, _ in self._decoder.feed(data):
            match header.get("t"):
                case "fork":
                    fds, self._fds = self._fds[:_FDS], self._fds[_FDS:]
                    self._fork(header, (fds[0], fds[1], fds[2]))
                case "warm":
                    self._warm(header.get("modules") or [])
                case "stop":
                    self._stop()

    def _fork(self, order: dict[str, Any], fds: tuple[int, int, int]) -> None:
        """Start an attempt's process; in mode ``spare``, become it."""
        started = time.perf_counter_ns()
        sys.stdout.flush()
        sys.stderr.flush()
        if self._why is not None:
            signal.set_wakeup_fd(-1)
            self._forked(order["order"], os.getpid(), started)
            self._become(fds, order, parent=None)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._become(fds, order, parent=parent)
        for fd in fds:
            os.close(fd)
        self._children[pid] = order["order"]
        self._forked(order["order"], pid, started)

    def _become(
        self, fds: tuple[int, int, int], order: dict[str, Any], *, parent: int | None
    ) -> NoReturn:
        """Be the attempt's process, to its end."""
        from penstock.inside import host, shared  # noqa: PLC0415 - see main

        try:
            self._control.close()
            os.close(self._woken)
            os.close(self._waker)
            channel = host.settle(fds, order, parent=parent)
            if order.get("shared"):
                shared.run_many(channel, self._runner, project=self._project)
            host.run_alone(channel, self._runner, project=self._project, loaded=self._loaded)
        except BaseException:  # noqa: BLE001 - never back into the zygote's loop
            sys.excepthook(*sys.exc_info())
        finally:
            host.end(1)

    def _forked(self, order: int, pid: int, started: int) -> None:
        took = (time.perf_counter_ns() - started) // 1000
        self._send({"t": "forked", "order": order, "pid": pid, "us": took})

    def _warm(self, names: list[str]) -> None:
        """Import what a first attempt had to import, so that the next ones need not."""
        from penstock.inside import warming  # noqa: PLC0415 - see main

        imported = warming.import_all(names)
        warming.warm_up(self._runner)
        self._freeze()
        self._send(
            {
                "t": "warmed",
                "imported": imported,
                "threads": _threads(),
                "mode": self._mode,
                "why": self._why,
            }
        )

    def _freeze(self) -> None:
        """Move all objects out of the collector's sight, and see whether forking is safe."""
        self._loaded = frozenset(sys.modules)
        gc.collect()
        gc.disable()
        gc.freeze()
        self._why = _unsafe(self._control.fileno())

    def _reap(self) -> None:
        """Report the children that have ended, and end whatever they left behind."""
        any_ended = False
        while self._reap_one():
            any_ended = True
        if any_ended:
            self._end_orphans()

    def _reap_one(self) -> bool:
        """Take one child that has ended; whether there was one."""
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if ended is None:
            return False
        pid = ended.si_pid
        if pid in self._children:
            # Before the pid is free to be used again.
            _kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        order = self._children.pop(pid, None)
        if order is not None:
            self._send(
                {
                    "t": "exited",
                    "order": order,
                    "pid": pid,
                    "status": os.waitstatus_to_exitcode(status),
                    "cpu_us": int((usage.ru_utime + usage.ru_stime) * 1_000_000),
                    "maxrss_kb": usage.ru_maxrss,
                }
            )
        return True

    def _end_orphans(self) -> None:
        """End what attempts have left behind in sessions of its own.

        While an attempt lives it is the parent of its orphans; after it, this process is.
        """
        known = self._children.keys() | self._own
        for pid in _processes_below(os.getpid()):
            if pid not in known:
                for other in (*_processes_below(pid, deep=True), pid):
                    _kill(other)

    def _stop(self) -> NoReturn:
        """Kill every attempt and end."""
        for pid in self._children:
            below = _processes_below(pid, deep=True)
            _kill_group(pid)
            for other in (pid, *below):  # also one that has not made its group yet
                _kill(other)
        os._exit(0)

    def _send(self, header: dict[str, Any]) -> None:
        from penstock.inside.frames import encode  # noqa: PLC0415 - see main

        try:
            self._control.sendall(encode(header))
        except OSError:
            self._stop()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _processes_below(pid: int, *, deep: bool = False) -> list[int]:
    """The children of a process; with ``deep``, theirs as well, the nearest first."""
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208 - pathlib is not needed here
        except OSError:
            continue
        children: list[int] = []
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123 - see above
                    children += map(int, file.read().split())
            except OSError:
                continue
        found += children
        if deep:
            pending += children
    return found


def _drain(fd: int) -> None:
    try:
        os.read(fd, _CHUNK)
    except BlockingIOError:
        return


def _threads() -> int:
    """How many threads the kernel sees in this process."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - pathlib is not needed here


def _unsafe(control: int) -> str | None:
    """Why this process must not be forked; None when it may."""
    until = time.monotonic() + _SETTLING
    while (count := _threads()) > 1 and time.monotonic() < until:
        time.sleep(0.005)  # a thread that has been joined takes a moment to be gone
    if count > 1:
        import threading  # noqa: PLC0415 - only to name them

        names = [thread.name for thread in threading.enumerate()][1:]
        named = f": {', '.join(names)}" if names else ""
        return f"importing the agent left {count - 1} threads running{named}"
    sockets = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - see above
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - see above
        except OSError:
            continue
        # 0 to 2 are whatever the supervisor gave us to print to.
        sockets += int(name) > 2 and int(name) != control and target.startswith("socket:")  # noqa: PLR2004
    return f"importing the agent left {sockets} sockets open" if sockets else None
