"""What happened in the database, written down by triggers, and what must be true of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

TERMINAL = ("completed", "failed", "cancelled", "dead_lettered")

_TRIGGERS = """
create temp trigger note_new after insert on tasks begin
  select note('task', new.id, '', new.state, 0, new.epoch, new.session_id); end;
create temp trigger note_task after update on tasks
when old.state is not new.state or old.epoch is not new.epoch begin
  select note('task', new.id, old.state, new.state, old.epoch, new.epoch,
              coalesce(new.worker_id, old.worker_id)); end;
create temp trigger note_step after insert on steps begin
  select note('step', new.task_id, new.key, new.epoch, t.epoch, t.state, new.output)
  from tasks t where t.id = new.task_id; end;
create temp trigger note_event after insert on events begin
  select note('event', new.task_id, new.seq, new.kind, new.epoch); end;
create temp trigger note_worker after delete on workers begin
  select note('buried', old.id); end;
"""


@dataclass(frozen=True)
class Moved:
    """A task has another state or another epoch."""

    at: float
    task: str
    before: str
    after: str
    old_epoch: int
    epoch: int


@dataclass(frozen=True)
class Committed:
    """A step has been committed."""

    at: float
    task: str
    key: str
    epoch: int
    task_epoch: int  # the task's own, and its state, at this moment
    task_state: str


class History:
    """Everything that was committed, in order."""

    def __init__(self, loop):
        self._loop = loop
        self._pending = []
        self.lines = []  # for people
        self.moves = []
        self.steps = []
        self.states = {}
        self.owners = {}  # (task, epoch) → worker
        self.buried = []  # workers whose row was deleted: also by themselves, when they left

    def watch(self, connection):
        connection.create_function("note", -1, self._pend)
        connection.executescript(_TRIGGERS)

    def owner(self, task, epoch):
        return self.owners.get((task, epoch))

    def line(self, what):
        self.lines.append(f"{self._loop.time():9.4f}  {what}")

    def begin(self):
        self._pending.clear()

    def commit(self, who):
        for note in self._pending:
            self._keep(who, *note)
        self._pending.clear()

    def _pend(self, *note):
        if note[0] == "task" and note[3] == "running":
            self.owners[note[1], note[5]] = note[6]
        self._pending.append(note)

    def _keep(self, who, kind, task, *rest):
        now = self._loop.time()
        if kind == "task":
            before, after, old_epoch, epoch, _ = rest
            self.moves.append(Moved(now, task, before, after, old_epoch, epoch))
            self.states[task] = after
            self.line(f"{who:8} {task}: {before or 'new'} → {after}, epoch {epoch}")
        elif kind == "step":
            key, epoch, task_epoch, state, _ = rest
            self.steps.append(Committed(now, task, key, epoch, task_epoch, state))
            self.line(f"{who:8} {task}: step {key} committed by epoch {epoch}")
        elif kind == "buried":
            self.buried.append(task)
            self.line(f"{who:8} worker {task} is no more")
        elif kind == "event" and rest[1] not in ("progress", "step"):
            self.line(f"{who:8} {task}: event {rest[0]} {rest[1]} by epoch {rest[2]}")


def violations(world) -> list[str]:
    """What is not as it was promised; nothing when all is well."""
    history = world.history
    return [
        *_lost(world),
        *_terminal(history),
        *_steps(history),
        *_repeated(world),
        *_events(world),
        *_outputs(world),
        *_sessions(world),
        *_workers(world),
        *world.refused,
    ]


def _lost(world):
    """I1, I8: what was acknowledged is there, and has ended in time."""
    for task in world.acknowledged.values():
        state = world.history.states.get(task)
        if state is None:
            yield f"I1: {task} was acknowledged and is not there"
        elif state not in TERMINAL:
            yield f"I8: {task} is still {state} {world.loop.time() - world.healed_at:.0f} s after the last fault"
        elif state == "dead_lettered" and task not in world.poisonous:
            yield f"I1: {task} is a dead letter, and did nobody harm"
    if len(set(world.acknowledged.values())) != len(world.acknowledged):
        yield "I1: two keys have one task"
    known = set(world.acknowledged.values())
    if doubled := set(world.history.states) - known:
        yield f"I1: tasks that nobody was told of: {sorted(doubled)}"


def _terminal(history):
    """I1: exactly one terminal state; epochs only rise, and every claim raises them."""
    for move in history.moves:
        if move.before in TERMINAL:
            yield f"I1: {move.task} was {move.before} and became {move.after} at {move.at:.3f}"
        if move.epoch < move.old_epoch:
            yield f"I2: the epoch of {move.task} fell to {move.epoch}"
        if move.after == "running" and move.epoch == move.old_epoch:
            yield f"I2: {move.task} was claimed without a new epoch"


def _steps(history):
    """I2: one committed output per step, by the epoch that owned the task."""
    seen = set()
    for step in history.steps:
        if (step.task, step.key) in seen:
            yield f"I2: {step.key} of {step.task} was committed twice"
        seen.add((step.task, step.key))
        if step.epoch != step.task_epoch or step.task_state != "running":
            yield (
                f"I2: {step.key} of {step.task} was committed by epoch {step.epoch}; the task was"
                f" {step.task_state} under epoch {step.task_epoch}"
            )


def _repeated(world):
    """I3: nothing began a step that was committed."""
    committed = {(step.task, step.key): step.at for step in world.history.steps}
    for at, task, epoch, key in world.ledger.begun:
        if at > committed.get((task, key), at):
            yield f"I3: epoch {epoch} began {key} of {task} at {at:.3f}, after its commit"


def _events(world):
    """I5: numbers without gaps, one beginning per epoch, one end."""
    numbers, kinds = defaultdict(list), defaultdict(Counter)
    for row in world.database.rows(
        "select task_id, seq, kind, epoch from events order by task_id, seq"
    ):
        numbers[row["task_id"]].append(row["seq"])
        kinds[row["task_id"]][row["kind"], row["epoch"] if row["kind"] == "started" else 0] += 1
    for row in world.database.rows("select id, events, state from tasks"):
        found = numbers[row["id"]]
        if found != list(range(1, row["events"] + 1)):
            yield f"I5: the events of {row['id']} are {found}, and the last is {row['events']}"
        if row["state"] in TERMINAL and kinds[row["id"]]["finished", 0] != 1:
            yield f"I5: {row['id']} has ended {kinds[row['id']]['finished', 0]} times"
        for (kind, epoch), count in kinds[row["id"]].items():
            if kind == "started" and count != 1:
                yield f"I5: {row['id']} was started {count} times under epoch {epoch}"


def _outputs(world):
    """A completed task says what its steps committed, in their order."""
    import json  # noqa: PLC0415

    for row in world.database.rows("select id, state, output, input from tasks"):
        if row["state"] != "completed":
            continue
        steps = world.database.rows(
            "select output from steps where task_id = ? and kind = 'step'"
            " and key like 's%' order by number",
            row["id"],
        )
        committed = [json.loads(step["output"]) for step in steps]
        if json.loads(row["output"]) != committed:
            yield f"I2: {row['id']} says {row['output']}, and committed {committed}"
        if len(committed) != json.loads(row["input"])["steps"]:
            yield f"I1: {row['id']} completed with {len(committed)} steps"


def _sessions(world):
    """I6: a session is free once its tasks have ended, and its account is theirs."""
    for row in world.database.rows(
        "select s.id, s.tasks, s.failures, s.state,"
        " (select count(*) from tasks t where t.session_id = s.id and t.finished_us is not null) ended,"
        " (select count(*) from tasks t where t.session_id = s.id"
        "    and t.state in ('failed', 'dead_lettered')) failed,"
        " (select coalesce(sum(close_session), 0) from tasks t where t.session_id = s.id) closing,"
        " (select count(*) from tasks t where t.session_id = s.id and t.finished_us is null) live"
        " from sessions s"
    ):
        if (row["tasks"], row["failures"]) != (row["ended"], row["failed"]):
            yield f"I6: the account of {row['id']} is {tuple(row)[1:3]}, its tasks say {tuple(row)[4:6]}"
        if row["closing"] and not row["live"] and row["state"] != "closed":
            yield f"I6: {row['id']} is open, and nothing in it has not ended"


def _workers(world):
    """A worker that believes it owns what it claims is known to the others."""
    known = {row["id"] for row in world.database.rows("select id from workers")}
    for server in world.servers:
        if server.worker is not None and server.worker.ready and server.worker.id not in known:
            yield f"I8: {server.who} works, and everything it takes is taken from it"
