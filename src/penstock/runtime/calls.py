"""What an agent's process may ask its supervisor to keep, or to give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.runtime.journals import Journal, Said
from penstock.store.checkpoints import Checkpoint, Write


@dataclass(frozen=True, slots=True)
class Answer:
    """The header and the blobs of a reply."""

    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


_DONE = Answer({"ok": True})


async def answer_call(
    journal: Journal,
    call: dict[str, Any],
    blobs: list[bytes],
    *,
    session_id: str,
    said: Callable[[], Said],
) -> Answer:
    """Do what a call asks.

    Args:
        journal: the attempt's writes.
        call: the header of the call's frame.
        blobs: the frame's blobs.
        session_id: whose checkpoints are meant.
        said: takes the events that wait for the next commit.

    Raises:
        Stale: another attempt owns the task.
        Conflict: the step is on record already.
        KeyError, TypeError, ValueError: the call is none, or lacks something.
    """
    match call["op"]:
        case "step.commit":
            await journal.commit_step(str(call["key"]), call["output"], said())
        case "step.replayed":
            journal.pass_replayed()
        case "checkpoint.put":
            await journal.commit_checkpoint(_checkpoint(journal, call, blobs), said())
        case "checkpoint.writes":
            writes = [
                Write(
                    node_task=str(call["node_task"]),
                    number=int(item["number"]),
                    channel=str(item["channel"]),
                    path=str(item["path"]),
                    encoding=str(item["encoding"]),
                    data=data,
                )
                for item, data in zip(call["items"], blobs, strict=True)
            ]
            await journal.commit_writes(call["namespace"], call["checkpoint_id"], writes)
        case "checkpoint.get":
            return await _get(journal, call, session_id)
        case "checkpoint.list":
            return await _list(journal, call, session_id)
        case unknown:
            raise ValueError(f"there is no call {unknown!r}")
    return _DONE


def _checkpoint(journal: Journal, call: dict[str, Any], blobs: list[bytes]) -> Checkpoint:
    data, metadata = blobs
    parent = call["parent_id"]
    return Checkpoint(
        namespace=str(call["namespace"]),
        checkpoint_id=str(call["checkpoint_id"]),
        parent_id=None if parent is None else str(parent),
        task_id=journal.task_id,
        encoding=str(call["encoding"]),
        data=data,
        metadata=metadata,
    )


async def _get(journal: Journal, call: dict[str, Any], session_id: str) -> Answer:
    found = await journal.checkpoint(session_id, call["namespace"], call["checkpoint_id"])
    if found is None:
        return Answer({"ok": True, "found": False})
    checkpoint, writes = found
    header = {
        "ok": True,
        "found": True,
        **_fields(checkpoint),
        "writes": [
            {
                "node_task": one.node_task,
                "number": one.number,
                "channel": one.channel,
                "encoding": one.encoding,
                "path": one.path,
            }
            for one in writes
        ],
    }
    return Answer(header, [checkpoint.data, checkpoint.metadata, *(one.data for one in writes)])


async def _list(journal: Journal, call: dict[str, Any], session_id: str) -> Answer:
    found = await journal.checkpoints(session_id, call["namespace"], call["before"], call["limit"])
    blobs = [blob for one in found for blob in (one.data, one.metadata)]
    return Answer({"ok": True, "items": [_fields(one) for one in found]}, blobs)


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "namespace": checkpoint.namespace,
        "checkpoint_id": checkpoint.checkpoint_id,
        "parent_id": checkpoint.parent_id,
        "encoding": checkpoint.encoding,
        "task": checkpoint.task_id,
    }
