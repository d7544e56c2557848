"""CPU of everything that takes part: servers, agents, databases, also of what has ended."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """CPU of a process, of its descendants, and of those of them that have ended."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def postmaster(url: str) -> int:
    """The process that all processes of a local PostgreSQL descend from."""
    found = subprocess.run(
        ["psql", url, "-XAtc", "show data_directory"], check=True, capture_output=True, text=True
    )
    return int((Path(found.stdout.strip()) / "postmaster.pid").read_text().split()[0])


def redis_server(url: str) -> int:
    """The process of a local Redis."""
    port = url.rpartition(":")[2].partition("/")[0]
    found = subprocess.run(
        ["redis-cli", "-p", port, "info", "server"], check=True, capture_output=True, text=True
    )
    for line in found.stdout.splitlines():
        if line.startswith("process_id:"):
            return int(line.partition(":")[2])
    raise RuntimeError("Redis does not say which process it is")
