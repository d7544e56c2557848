"""The checker of what must hold whatever happened, from outside: the store's rows and a ledger.

I1  a task that was acknowledged is there, and has ended once
I2  a step has one committed result, and steps are numbered without gaps
I3  what was committed is not done again
I4  an effect with an idempotency key is seen once by whoever looks at the key
I5  events are numbered without gaps
I6  a session is free when its tasks have ended
"""

from __future__ import annotations

from collections import Counter, defaultdict

TERMINAL = {"completed", "failed", "cancelled", "dead_lettered"}


def check_tasks(query, acknowledged, *, expected="completed"):
    """I1: every task that was acknowledged is there once and has ended as it should."""
    rows = query("select id, state, outcome, error from tasks")
    known = {row["id"]: row for row in rows}
    assert len(known) == len(rows)
    missing = set(acknowledged) - known.keys()
    assert not missing, f"{len(missing)} acknowledged tasks are gone: {sorted(missing)[:5]}"
    odd = [row for row in rows if row["state"] not in TERMINAL]
    assert not odd, f"tasks that have not ended: {odd[:5]}"
    if expected is not None:
        odd = [row for row in rows if row["state"] != expected]
        assert not odd, f"tasks that should be {expected}: {odd[:5]}"


def check_events(query):
    """I5, and the second half of I1: gap-free numbers, and one end."""
    seqs, ends = defaultdict(list), Counter()
    for row in query("select task_id, seq, kind from events order by task_id, seq"):
        seqs[row["task_id"]].append(row["seq"])
        ends[row["task_id"]] += row["kind"] == "finished"
    for task, found in seqs.items():
        assert found == list(range(1, len(found) + 1)), f"{task}: events {found}"
        assert ends[task] == 1, f"{task} ended {ends[task]} times"


def check_steps(query):
    """I2: one result a step, numbered without gaps, none of an epoch the task never had."""
    numbers, keys = defaultdict(list), Counter()
    epochs = {row["id"]: row["epoch"] for row in query("select id, epoch from tasks")}
    for row in query("select task_id, key, number, epoch from steps order by task_id, number"):
        numbers[row["task_id"]].append(row["number"])
        keys[row["task_id"], row["key"]] += 1
        assert 1 <= row["epoch"] <= epochs[row["task_id"]]
    twice = [key for key, count in keys.items() if count > 1]
    assert not twice, f"steps committed twice: {twice[:5]}"
    for task, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), f"{task}: steps {found}"


def check_sessions(query):
    """I6: no session is held by a task that has ended."""
    held = query(
        "select s.id, s.state from sessions s where s.state = 'open' and exists"
        " (select 1 from tasks t where t.session_id = s.id and t.close_session = 1)"
    )
    assert not held, f"sessions that their last task did not close: {held[:5]}"


def commits(query):
    """(task id, step key) → when it was committed, in seconds."""
    return {
        (row["task_id"], row["key"]): row["created_us"] / 1e6
        for row in query("select task_id, key, created_us from steps")
    }


def check_not_repeated(done, committed, what):
    """I3: nothing was done after its commit.

    Args:
        done: (task, step key) → the times at which the outside saw it.
        committed: what :func:`commits` returns.
        what: for the message.
    """
    late = {
        key: [at for at in times if at > committed[key]]
        for key, times in done.items()
        if key in committed
    }
    late = {key: times for key, times in late.items() if times}
    assert not late, f"{what} after the commit: {dict(list(late.items())[:5])}"
