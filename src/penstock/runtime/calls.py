"""What an agent's process may ask its supervisor to keep, or to give back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.runtime import checkpoints, memories
from penstock.runtime.checkpoints import DONE, Answer
from penstock.runtime.journals import Journal, Said

__all__ = ["Answer", "answer_call"]


async def answer_call(
    journal: Journal, call: dict[str, Any], blobs: list[bytes], *, said: Callable[[], Said]
) -> Answer:
    """Do what a call asks.

    Args:
        journal: the attempt's writes.
        call: the header of the call's frame.
        blobs: the frame's blobs.
        said: takes the events that wait for the next commit.

    Raises:
        Stale: another attempt owns the task.
        Conflict: the step is on record already.
        Damaged: what is on record is not as it was written.
        KeyError, TypeError, ValueError: the call is none, or lacks something.
    """
    match call["op"]:
        case "step.commit":
            await journal.commit_step(str(call["key"]), call["output"], said())
        case "step.replayed":
            journal.pass_replayed()
        case str(op) if op.startswith("checkpoint."):
            events = said() if op == "checkpoint.put" else []
            return await checkpoints.answer(journal, call, blobs, said=events)
        case "attachment.get":
            found, content = await journal.attachment(str(call["attachment"]))
            kept = {"content_type": found.content_type, "filename": found.filename}
            return Answer({"ok": True, "attachment": found.id, **kept}, [content])
        case str(op) if op.startswith("memory."):
            return await memories.answer(journal, call, blobs)
        case unknown:
            raise ValueError(f"there is no call {unknown!r}")
    return DONE
