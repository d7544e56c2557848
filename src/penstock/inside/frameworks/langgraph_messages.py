"""Messages of LangGraph that have an id before they are kept.

``add_messages`` gives an id to a message that has none, after what its node wrote was handed to the
saver, which packs it in the background. Whether the write has that id is a matter of moments; where
it does not, the checkpoint's message is another content, and the text is kept twice. So the id is
given on the thread of the graph, before anything is kept, told or applied.
"""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_REDUCERS = "langgraph.graph.message"


def patch(module: Any) -> None:
    """Name messages as they are written; ``module`` is ``langgraph.pregel._loop``."""
    from langchain_core.messages import BaseMessage  # noqa: PLC0415 - of the release

    put_writes = module.PregelLoop.put_writes

    @functools.wraps(put_writes)
    def named(self: Any, task_id: str, writes: Any, **more: Any) -> Any:
        _name(self.specs, writes, BaseMessage)
        return put_writes(self, task_id, writes, **more)

    module.PregelLoop.put_writes = named


def _name(channels: Mapping[str, Any], writes: Iterable[tuple[str, Any]], message: Any) -> None:
    """Give ids to the messages that their channel's reducer would give ids to."""
    for channel, value in writes:
        if not _gives_ids(channels.get(channel)):
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, message) and item.id is None:
                item.id = str(uuid.uuid4())


def _gives_ids(channel: Any) -> bool:
    """Whether a channel's reducer is LangGraph's own for messages, with options or without."""
    reducer = getattr(channel, "operator", None)
    reducer = getattr(reducer, "func", reducer)
    return getattr(reducer, "__module__", None) == _REDUCERS
