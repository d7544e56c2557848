"""A framework's checkpoints, as an agent's process hands them over and asks for them.

A call carries a checkpoint's table and its metadata, then the keys of the contents that come along
(in one piece), these contents, and what nodes wrote. Its header says how many there are of each.
An answer has the same order. Nobody on this side reads a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from penstock.rules.checkpoints import WHOLE, Sealer, joined, split
from penstock.runtime.journals import Said
from penstock.store import Transaction, Work, checkpoints, fences
from penstock.store.checkpoints import Checkpoint, State, States, Write

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The header and the blobs of a reply."""

    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


DONE = Answer({"ok": True})


class Keeper(Protocol):
    """Who keeps a session's checkpoints: an attempt's journal, or the desk of an edit."""

    @property
    def task_id(self) -> str:
        """The task whose checkpoints are written."""
        ...

    @property
    def session_id(self) -> str:
        """The session whose checkpoints are meant."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch that they are written under."""
        ...

    @property
    def blank(self) -> bool:
        """Whether it is known that the session has none."""
        ...

    @property
    def sealer(self) -> Sealer:
        """What seals them."""
        ...

    async def commit_checkpoint(
        self,
        checkpoint: Checkpoint,
        said: Said,
        *,
        leans: bool = False,
        stored: Mapping[bytes, bytes] | None = None,
        writes: Sequence[Write] = (),
    ) -> None:
        """Keep a checkpoint with the events and the nodes' writes before it."""
        ...

    async def commit_writes(
        self, writes: Sequence[Write], stored: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Keep what nodes wrote on top of checkpoints."""
        ...

    async def commit(self, work: Work[None]) -> None:
        """Keep something else."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Look something up, on one snapshot."""
        ...

    def remember(self, checkpoint: Checkpoint, seal: bytes) -> None:
        """Know a checkpoint that the next ones may stand on."""
        ...


async def answer(
    journal: Keeper, call: dict[str, Any], blobs: list[bytes], *, said: Said
) -> Answer:
    """Do what a call about checkpoints asks.

    Raises:
        Stale: another attempt owns the task.
        Conflict: a checkpoint stands on one that is not there.
        Damaged: something is not as it was written.
        KeyError, TypeError, ValueError: the call is none, or lacks something.
    """
    match call["op"]:
        case "checkpoint.put":
            await _put(journal, call, blobs, said)
        case "checkpoint.writes":
            await _put_writes(journal, call, blobs)
        case "checkpoint.get":
            return await _get(journal, call)
        case "checkpoint.list":
            return await _list(journal, call)
        case "checkpoint.forget":
            await _forget(journal, call)
        case "checkpoint.copy":
            await _copy(journal, call)
        case unknown:
            raise ValueError(f"there is no call {unknown!r}")
    return DONE


async def _put(journal: Keeper, call: dict[str, Any], blobs: list[bytes], said: Said) -> None:
    table, metadata, *rest = blobs
    stored, written = _contents(call, rest)
    namespace, parent = str(call["namespace"]), call["parent_id"]
    checkpoint = Checkpoint(
        namespace=namespace,
        checkpoint_id=str(call["checkpoint_id"]),
        parent_id=None if parent is None else str(parent),
        task_id=journal.task_id,
        data=table,
        metadata=metadata,
        depth=int(call["depth"]),
    )
    await journal.commit_checkpoint(
        checkpoint,
        said,
        leans=bool(call["leans"]),
        stored=stored,
        writes=_writes(namespace, str(parent), call["writes"], written),
    )


async def _put_writes(journal: Keeper, call: dict[str, Any], blobs: list[bytes]) -> None:
    stored, written = _contents(call, blobs)
    namespace, checkpoint_id = str(call["namespace"]), str(call["checkpoint_id"])
    writes = _writes(namespace, checkpoint_id, call["writes"], written)
    await journal.commit_writes(writes, stored)


async def _get(journal: Keeper, call: dict[str, Any]) -> Answer:
    if journal.blank:
        return _answer(States(found=(), contents={}))

    async def work(tx: Transaction) -> States:
        return await checkpoints.get(
            tx,
            sealer=journal.sealer,
            session_id=journal.session_id,
            namespace=call["namespace"],
            checkpoint_id=call["checkpoint_id"],
        )

    states = await journal.read(work)
    for state in states.found:  # one, or none
        journal.remember(state.checkpoint, state.seal)
    return _answer(states)


async def _list(journal: Keeper, call: dict[str, Any]) -> Answer:
    async def work(tx: Transaction) -> States:
        return await checkpoints.listing(
            tx,
            sealer=journal.sealer,
            session_id=journal.session_id,
            namespace=call["namespace"],
            within=call["within"],
            checkpoint_id=call["checkpoint_id"],
            before=call["before"],
            limit=call["limit"],
        )

    return _answer(await journal.read(work))


async def _forget(journal: Keeper, call: dict[str, Any]) -> None:
    """Remove single checkpoints, or those of a thread."""
    within, places = call["within"], [(str(n), str(i)) for n, i in call["places"]]

    async def work(tx: Transaction) -> None:
        await fences.advance(tx, task_id=journal.task_id, epoch=journal.epoch)
        named: dict[str, Any] = {"sealer": journal.sealer, "session_id": journal.session_id}
        if within is None:
            await checkpoints.forget(tx, gone=places, **named)
        else:
            keep = bool(call["keep_latest"])
            await checkpoints.forget_thread(tx, within=within, keep_latest=keep, **named)

    await journal.commit(work)


async def _copy(journal: Keeper, call: dict[str, Any]) -> None:
    within = (str(call["within"]), str(call["to"]))

    async def work(tx: Transaction) -> None:
        await fences.advance(tx, task_id=journal.task_id, epoch=journal.epoch)
        await checkpoints.copy(
            tx,
            sealer=journal.sealer,
            session_id=journal.session_id,
            to_session_id=journal.session_id,
            within=within,
        )

    await journal.commit(work)


def _contents(
    call: dict[str, Any], blobs: Sequence[bytes]
) -> tuple[dict[bytes, bytes], Sequence[bytes]]:
    """The contents that came along by their keys, and the blobs behind them."""
    count = int(call["contents"])
    if not count:
        return {}, blobs
    return dict(zip(split(blobs[0]), blobs[1 : count + 1], strict=True)), blobs[count + 1 :]


def _writes(
    namespace: str, checkpoint_id: str, items: list[dict[str, Any]], blobs: Sequence[bytes]
) -> list[Write]:
    return [
        Write(
            node_task=str(item["node_task"]),
            number=int(item["number"]),
            channel=str(item["channel"]),
            path=str(item["path"]),
            data=data,
            namespace=namespace,
            checkpoint_id=checkpoint_id,
        )
        for item, data in zip(items, blobs, strict=True)
    ]


def _answer(states: States) -> Answer:
    """What was found: each checkpoint's fields, and all blobs."""
    blobs = [joined(list(states.contents)), *states.contents.values()]
    for state in states.found:
        blobs += [state.checkpoint.data, state.checkpoint.metadata]
        blobs += [write.data for write in state.writes]
    items = [_fields(state) for state in states.found]
    return Answer({"ok": True, "contents": len(states.contents), "items": items}, blobs)


def _fields(state: State) -> dict[str, Any]:
    found = state.checkpoint
    return {
        "namespace": found.namespace,
        "checkpoint_id": found.checkpoint_id,
        "parent_id": found.parent_id,
        "task": found.task_id,
        "depth": found.depth,
        "encoding": found.encoding if found.format == WHOLE else "",
        "writes": [
            {
                "node_task": one.node_task,
                "channel": one.channel,
                "encoding": one.encoding if one.format == WHOLE else "",
            }
            for one in state.writes
        ],
    }
