"""Workflows in a program's own process: Penstock's beside DBOS, three no-op steps on PostgreSQL.

Each runs in an interpreter of its own, in turns, on fresh databases of one server; CPU is that of
the program and of the database.

    python scripts/with_services.py -- python benchmarks/library.py [--seconds 6]
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cpu import cpu_seconds, postmaster
from peers import install

HERE = Path(__file__).resolve().parent
CONCURRENCY = 16
ROUNDS = 3
PROGRAMS = {"penstock": "library_penstock.py", "dbos": "library_dbos.py"}


def measure(python: Path | str, program: str, server: str, seconds: float) -> tuple[float, float]:
    """Workflows a second, and CPU milliseconds of one."""
    database = f"bench_{secrets.token_hex(4)}"
    subprocess.run(["psql", server, "-Xqc", f"create database {database}"], check=True)
    url = urlunsplit(urlsplit(server)._replace(path=f"/{database}"))
    cluster = postmaster(server)
    try:
        with subprocess.Popen(
            [python, HERE / program, url, str(CONCURRENCY), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            _until(process, "warm")
            before = cpu_seconds(process.pid) + cpu_seconds(cluster)
            process.stdin.write("go\n")
            process.stdin.flush()
            _, done, took = _until(process, "done").split()
            cpu = cpu_seconds(process.pid) + cpu_seconds(cluster) - before
            process.stdin.write("leave\n")
            process.stdin.flush()
            process.stdout.read()
        return int(done) / float(took), cpu / int(done) * 1000
    finally:
        subprocess.run(
            ["psql", server, "-Xqc", f"drop database {database} with (force)"], check=True
        )


def _until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line
    raise RuntimeError(f"the program ended before it said {word!r}")


def main(seconds: float) -> int:
    """Both in turns, then the row."""
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    peer = install("dbos", pins="peers_dbos.txt")
    if server is None or peer is None:
        print("library: needs PostgreSQL (scripts/with_services.py) and DBOS")
        return 1
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for turn in range(ROUNDS):
        for name, program in PROGRAMS.items():
            print(f"round {turn + 1} of {ROUNDS}: {name} …", flush=True)
            python = peer if name == "dbos" else sys.executable
            found[name].append(measure(python, program, server, seconds))
    rate = {name: statistics.median(one[0] for one in rows) for name, rows in found.items()}
    cpu = {name: statistics.median(one[1] for one in rows) for name, rows in found.items()}
    print(f"\n3 no-op steps on PostgreSQL, {CONCURRENCY} at once: medians of {ROUNDS} rounds")
    for name in PROGRAMS:
        print(f"{name:12} {rate[name]:8.1f} workflows/s {cpu[name]:7.2f} ms CPU (with PostgreSQL)")
    more, less = rate["penstock"] / rate["dbos"], cpu["penstock"] / cpu["dbos"]
    print(
        f"workflows/s: {more:.1f} times DBOS, goal >= 4: {'met' if more >= 4 else 'NOT met'};"
        f" CPU: {less:.2f} of DBOS, goal <= 0.25: {'met' if less <= 0.25 else 'NOT met'}"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    sys.exit(main(parser.parse_args().seconds))
