"""Tasks: one unit of work in a session, and what is seen of it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WORKFLOWS = "library"  # the environment of tasks that a program runs in its own process


class TaskState(StrEnum):
    """Where a task is in its life; drawn in ``rules/tasks.py``."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for a person; it keeps its place in its session
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD_LETTERED = "dead_lettered"


TERMINAL = frozenset(
    {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.DEAD_LETTERED}
)

SETTLED = TERMINAL | {TaskState.WAITING}  # nothing more happens by itself


class Ending(StrEnum):
    """How one attempt ended."""

    OK = "ok"
    ERROR = "error"  # the agent raised
    EXIT = "exit"  # the agent called sys.exit
    TIMEOUT = "timeout"  # the limit of wall time
    CPU = "cpu"  # the limit of CPU time
    MEMORY = "memory"
    PROCESSES = "processes"
    FILES = "files"  # open ones
    OUTPUT = "output"  # the result was larger than the limit
    BUDGET = "budget_exceeded"  # the limit of cost
    TOKENS = "tokens"
    STEPS = "steps"
    CRASH = "crash"  # the process died
    LOST = "lost"  # its worker died, or gave it back while draining
    CANCELLED = "cancelled"
    WAITING = "waiting"  # it asks a person and goes on with the answer
    INTERRUPTED = "interrupted"  # for a later message of its session; what it committed stays
    ROLLED_BACK = "rolled_back"  # for a later message of its session; as if it had not been


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One thing a task waits for."""

    id: str  # an answer names it
    kind: str  # interrupt | tool
    value: Any  # what the agent asks


class ResourceClass(StrEnum):
    """How much memory an attempt gets: ``limits.memory``, or ``limits.memory_large``."""

    STANDARD = "standard"
    LARGE = "large"


class MultitaskStrategy(StrEnum):
    """What a new task does when its session is busy."""

    ENQUEUE = "enqueue"  # it runs after those before it
    REJECT = "reject"  # it is refused
    INTERRUPT = "interrupt"  # those before it are stopped where they are
    ROLLBACK = "rollback"  # … and what they did to the session is undone


class Stop(StrEnum):
    """What somebody wants a task stopped for; the later ones outweigh the earlier ones."""

    CANCEL = "cancel"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True, slots=True)
class Streaming:
    """What a task's attempts say of themselves while they work; see ``rules/streams.py``."""

    modes: tuple[str, ...] = ("updates", "messages", "custom")
    subgraphs: bool = False  # also what the graphs inside a graph say


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One unit of work in a session."""

    id: str
    session_id: str
    agent: str
    environment: str
    release: str
    state: TaskState
    outcome: str | None  # an Ending, once terminal
    input: Any
    output: Any
    error: Mapping[str, Any] | None  # type, message, traceback; of a broken limit, which and whose
    epoch: int  # raised by every claim
    crashes: int
    losses: int
    worker_id: str | None
    cancel_requested: bool
    events: int  # sequence number of the last event
    steps: int  # committed
    cost_nanos: int
    created_us: int
    started_us: int | None
    finished_us: int | None
    tokens: int = 0  # in and out, of its model calls
    resource_class: ResourceClass = ResourceClass.STANDARD  # of its next attempt
    waits: tuple[Wait, ...] = ()  # what it waits for, while it does
    wait_until_us: int | None = None  # when it stops waiting; never, if nothing
    stream: Streaming = Streaming()
    priority: int = 0  # higher first, among the tasks of one user
    due_us: int = 0  # when it was to run: its order in its session
    stop: Stop | None = None  # what it is to be stopped for
    stateless: bool = False  # what its session holds goes with it


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """How far a task is: what those who follow it look at."""

    state: TaskState
    outcome: str | None
    events: int  # sequence number of the last event
    stream: Streaming


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A task that a worker has just taken; what it writes must name this epoch."""

    task: Task
    epoch: int
    answers: Mapping[str, Any] = field(default_factory=dict)  # to what it last waited for
    tenant: str = ""  # whose share of the machine it takes
    blank: bool = False  # its session had no checkpoint then, and nobody else writes one meanwhile


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something durable that happened to a task; sequence numbers have no gaps."""

    task_id: str
    seq: int
    epoch: int
    kind: str
    data: Any
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A piece of what an attempt wrote to stdout or stderr."""

    task_id: str
    epoch: int
    number: int
    stream: str
    text: str
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """Something ephemeral an attempt said: a token, a custom stream item. Never stored."""

    task_id: str
    epoch: int
    step: int  # steps the task had committed
    data: Any
    mode: str = "custom"
    namespace: tuple[str, ...] = ()  # of the subgraph that said it
    size_bytes: int = 0  # of the data as JSON, once somebody has had to know


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """How many deltas a reader did not get: it was slow, or a message between servers was lost."""

    task_id: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The last thing a stream says: the task has ended and there is nothing more to come."""

    task_id: str
    state: str
    outcome: str | None
    last: int  # sequence number of the last event
