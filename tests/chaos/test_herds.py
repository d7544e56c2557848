"""Thousands of tasks of a dead worker at once, one request many times, notices that nobody sent."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import asyncpg
import history
import pytest
from cluster import Cluster
from small_agents import SmallAgent

from penstock.domain.errors import Conflict
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)

TIMES = int(os.environ.get("PENSTOCK_CHAOS_ROUNDS", "1"))
HERD = 1000 if TIMES == 1 else 10_000
AT_ONCE = 50
FORGED = 2000
DEAD = "wrk_dead"
PATIENCE_SECONDS = 300.0

LIGHT = """
async def agent(given):
    return await step("work", noted, given)


async def noted(given):
    return note(given)
"""

# What a worker has begun and never ended, as its claims have left it.
NUMBERS = (
    f"with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {HERD})"
)
SESSIONS = (
    "insert into sessions (id, agent, environment, release, metadata, state, tasks, failures,"
    f" cost_nanos, busy_us, thumb, created_us) {NUMBERS} select 'ses_herd_' || n, 'light',"
    " 'production', '{release}', '{{}}', 'open', 0, 0, 0, 0, 0, {now_us} from numbers"
)
TASKS = (
    "insert into tasks (id, session_id, agent, environment, release, state, input, epoch, crashes,"
    " losses, worker_id, run_after_us, due_us, place, tenant, priority, stateless, close_session,"
    " cancel_requested, events, steps, cost_nanos, created_us, started_us, waited_us)"
    f" {NUMBERS} select 'task_herd_' || n, 'ses_herd_' || n, 'light', 'production', '{{release}}',"
    " 'running', cast(n as text), 1, 0, 0, '" + DEAD + "', {now_us}, {now_us}, 2, '', 0, 0, 1, 0,"
    " 0, 0, 0, {now_us}, {now_us}, 0 from numbers"
)
# Its lease has gone by long ago, on a machine that nobody can look at.
WORKER = (
    "insert into workers (id, host, pid, process, started_us, heartbeat_us, lease_until_us,"
    " draining, capacity) values ('" + DEAD + "', 'elsewhere', 1, '', 1, 1, 1, 0, 32)"
)


def test_a_herd_of_lost_tasks_is_taken_over_and_ends(url, tmp_path, capsys):
    servers = 1 if url is None else 2
    with Cluster(tmp_path, url=url, servers=servers, environment={}) as cluster:
        light = SmallAgent(cluster, tmp_path, "light", LIGHT, "isolation: shared\n")
        other = SmallAgent(cluster, tmp_path, "other", LIGHT, "isolation: shared\n")
        warm = [
            cluster.created(one.name, "warm", f"{one.name} warm")["id"] for one in (light, other)
        ]
        for task in warm:
            cluster.until_ended(task)
        begun = time.monotonic()
        lose(cluster, light.release)
        taken = until(lambda: count(cluster, f"worker_id = '{DEAD}'") < HERD)
        new = cluster.created("other", "new", "new")["id"]
        cluster.until_ended(new)
        left = count(cluster, "finished_us is null")
        over = until(lambda: not count(cluster, f"worker_id = '{DEAD}'"))
        ended = until(lambda: not count(cluster, "finished_us is null"))
        check(cluster.query, [*warm, new, *(f"task_herd_{n}" for n in range(1, HERD + 1))])
    assert left, "the new task had to wait until the whole herd had gone by"
    expected = {"warm": 1, **{str(n): 1 for n in range(1, HERD + 1)}}
    assert light.notes() == expected
    assert other.notes() == {"warm": 1, "new": 1}
    with capsys.disabled():
        print(
            f"\n{HERD} lost tasks, {servers} server(s): first taken over after {taken - begun:.1f}"
            f" s, all after {over - begun:.1f} s, all ended after {ended - begun:.1f} s;"
            f" {left} were left when another agent's new task had ended"
        )


def lose(cluster, release):
    """Leave what a worker leaves that dies with everything it had."""
    values = {"release": release, "now_us": time.time_ns() // 1000}
    statements = [sql.format(**values) for sql in (SESSIONS, TASKS)]
    if cluster.url is not None:
        asyncio.run(_execute(cluster.url, [WORKER, *statements]))
        return
    # Nobody but its server opens the file: it is killed, and its successor finds what was running.
    server = cluster.servers[0]
    server.kill()
    with closing(sqlite3.connect(cluster.home / "penstock.sqlite")) as connection:
        for sql in statements:
            connection.execute(sql)
        connection.commit()
    server.start()


async def _execute(url, statements):
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for sql in statements:
                await connection.execute(sql)
    finally:
        await connection.close()


def count(cluster, condition):
    return cluster.query(f"select count(*) as n from tasks where {condition}")[0]["n"]


def until(holds):
    """Wait for something; when it came true."""
    wait_until(holds, PATIENCE_SECONDS)
    return time.monotonic()


def check(query, tasks):
    history.check_tasks(query, tasks)
    history.check_events(query)
    history.check_steps(query)
    history.check_sessions(query)
    steps = query("select task_id, count(*) as n from steps group by task_id")
    assert {row["task_id"]: row["n"] for row in steps} == dict.fromkeys(tasks, 1)
    assert len(query("select id from tasks")) == len(tasks)


def test_one_request_many_times_at_once_is_one_task(url, tmp_path):
    servers = 1 if url is None else 2
    with Cluster(tmp_path, url=url, servers=servers, environment={}) as cluster:
        light = SmallAgent(cluster, tmp_path, "light", LIGHT)
        tasks = []
        for round_ in range(TIMES):
            key = f"one {round_}"

            def ask(number, key=key):
                with cluster.servers[number % servers].client() as client:
                    return client.create_task(
                        agent="light", input=key, idempotency_key=key, close_session=True
                    )

            with ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(ask, range(AT_ONCE)))
            assert len({answer["id"] for answer in answers}) == 1
            tasks.append(answers[0]["id"])
            for server in cluster.servers:
                with server.client() as client, pytest.raises(Conflict) as refused:
                    client.create_task(agent="light", input="another", idempotency_key=key)
                assert refused.value.hint
            cluster.until_ended(tasks[-1])
            assert ask(0)["id"] == tasks[-1], "a key that is repeated later is another task"
        check(cluster.query, tasks)
        assert light.notes() == {f"one {round_}": 1 for round_ in range(TIMES)}


@pytest.mark.postgres
def test_a_storm_of_notices_that_nobody_sent_changes_nothing(postgres_url, tmp_path):
    number = 40 * TIMES
    with Cluster(tmp_path, url=postgres_url, servers=2, environment={}) as cluster:
        light = SmallAgent(cluster, tmp_path, "light", LIGHT, "isolation: shared\n")
        with Storm(postgres_url) as storm:
            tasks = [cluster.created("light", str(n), str(n))["id"] for n in range(number)]
            ended = [cluster.until_ended(task) for task in tasks]
            storm.until_told(FORGED)
        assert [task["output"] for task in ended] == [str(n) for n in range(number)]
        check(cluster.query, tasks)
        assert light.notes() == {str(n): 1 for n in range(number)}
        for server in cluster.servers:
            assert "Exception" not in (server.home / "server.log").read_text()


class Storm:
    """Says again whatever is said on the channel, twice, and much that nobody ever said."""

    def __init__(self, url):
        self._url = url
        self._told = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._blow()), daemon=True)
        self._over = threading.Event()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(60)

    def until_told(self, number):
        by = time.monotonic() + PATIENCE_SECONDS
        while self._told < number:
            assert self._thread.is_alive()
            assert time.monotonic() < by
            time.sleep(0.05)

    async def _blow(self):
        connection = await asyncpg.connect(self._url)
        heard = []
        await connection.add_listener("penstock", lambda *said: heard.append(said[-1]))
        forged = ["", " ", "- queue ", "x queue", "- task task_none", "- task ", "- stop task_none",
                  "- nobody channel", "- watch x", "- deltas {", "- deltas 1", "- cancel task_none",
                  "- deleted {", "- done x", "- judge x", "- rollout x", "\u2603 \u2603", "- queue " + "x" * 7000]  # fmt: skip
        try:
            while not self._over.is_set():
                again = [said.split(" ", 1)[-1] for said in heard[-50:]]
                heard.clear()
                batch = forged + [f"- {said}" for said in again if "\u2603" not in said]
                await connection.execute(
                    "select pg_notify('penstock', n || '') from unnest($1::text[]) n", batch * 2
                )
                self._told += len(batch) * 2
                await asyncio.sleep(0.01)
        finally:
            await connection.close()
