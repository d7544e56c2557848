"""Fenced steps a second beside PostgreSQL's own ``pgbench`` inserting rows of the same size.

Both with 16 clients on one server, in turns. *Strict* gives every commit a transaction of its own;
*grouped* is what a server does: commits that wait at the same moment share one.

    python scripts/with_services.py -- python benchmarks/steps.py [--seconds 4]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import uvloop

from cpu import cpu_seconds, postmaster
from penstock.library.placeholder import release
from penstock.store import Store, steps, workflows
from penstock.store.databases import Deliver
from penstock.store.postgres import PostgresDatabase

CLIENTS = 16
ROUNDS = 3
OUTPUT = "x" * 1000
GOALS = {"strict": 0.5, "grouped": 1.0}


def pgbench(url: str, seconds: float) -> float:
    """Rows of 1 KB a second, each with a commit of its own."""
    setup = (
        "drop table if exists plain;"
        " create table plain (id bigserial primary key, data text not null)"
    )
    subprocess.run(["psql", url, "-Xqc", setup], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("insert into plain (data) values (repeat('x', 1000));\n")
        script.flush()
        told = subprocess.run(
            ["pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2",
             "-T", str(max(1, round(seconds))), "-f", script.name, url],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    line = next(line for line in told.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def strict(url: str, deliver: Deliver) -> PostgresDatabase:
    """A database of as many connections as pgbench has, one transaction for every commit."""
    return PostgresDatabase(url, deliver, lanes=CLIENTS, strict=True)


async def fenced(store: Store, digest: str, seconds: float) -> float:
    """Steps of 1 KB a second, each refused if its task were another's."""

    async def begin(number: int) -> str:
        beginning = workflows.beginning(
            task_id=f"task_{secrets.token_hex(8)}",
            session_id=f"ses_{secrets.token_hex(8)}",
            function="bench",
            release=digest,
            given=number,
            key=None,
            worker_id="bench",
        )
        return (await store.begin(beginning)).task.id

    async def client(number: int, until: float) -> int:
        task_id = await begin(number)
        done = 0
        while time.perf_counter() < until:
            key = f"s#{done}"
            await store.commit(steps.of(task_id=task_id, epoch=1, key=key, output=OUTPUT, said=[]))
            done += 1
        return done

    begun = time.perf_counter()
    done = await asyncio.gather(*(client(n, begun + seconds) for n in range(CLIENTS)))
    return sum(done) / (time.perf_counter() - begun)


async def main(seconds: float) -> int:
    """All three in turns, then the rows."""
    server = os.environ.get("PENSTOCK_TEST_POSTGRES")
    if server is None:
        print("steps: needs PostgreSQL (scripts/with_services.py)")
        return 1
    database = f"bench_{secrets.token_hex(4)}"
    await asyncio.to_thread(
        subprocess.run, ["psql", server, "-Xqc", f"create database {database}"], check=True
    )
    url = urlunsplit(urlsplit(server)._replace(path=f"/{database}"))
    rates: dict[str, list[float]] = {"pgbench": [], "strict": [], "grouped": []}
    cpu: dict[str, list[float]] = {"strict": [], "grouped": []}
    stores = {
        "strict": Store(home=Path(), database=partial(strict, url)),
        "grouped": Store(home=Path(), url=url),
    }
    for store in stores.values():
        await store.open()
    digest = await store.transact(release)
    cluster = postmaster(server)
    for turn in range(ROUNDS):
        print(f"round {turn + 1} of {ROUNDS} …", flush=True)
        rates["pgbench"].append(await asyncio.to_thread(pgbench, url, seconds))
        for mode in GOALS:
            before = time.process_time() + cpu_seconds(cluster)
            rate = await fenced(stores[mode], digest, seconds)
            rates[mode].append(rate)
            spent = time.process_time() + cpu_seconds(cluster) - before
            cpu[mode].append(spent / (rate * seconds) * 1000)
    for store in stores.values():
        await store.close()
    await asyncio.to_thread(
        subprocess.run, ["psql", server, "-Xqc", f"drop database {database}"], check=True
    )
    peer = statistics.median(rates["pgbench"])
    print(f"\ncommits of 1 KB a second, {CLIENTS} clients: medians of {ROUNDS} rounds")
    print(f"{'pgbench, one row':24} {peer:8.0f}/s")
    for mode, goal in GOALS.items():
        rate = statistics.median(rates[mode])
        print(
            f"{'fenced steps, ' + mode:24} {rate:8.0f}/s  {rate / peer:5.2f} of pgbench, goal >="
            f" {goal}: {'met' if rate / peer >= goal else 'NOT met'}"
            f"  ({statistics.median(cpu[mode]):.2f} ms CPU each, with PostgreSQL)"
        )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(parser.parse_args().seconds)))
