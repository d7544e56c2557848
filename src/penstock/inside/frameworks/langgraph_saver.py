"""LangGraph's checkpoints, kept by the supervisor under the task's fence."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from penstock.inside.attempts import Attempt
    from penstock.inside.channel import Reply

    Packed = tuple[dict[str, Any], list[bytes]]

# In a checkpoint's metadata: the task that committed it, as the supervisor's record has it.
TASK = "penstock_task"


class PenstockSaver(BaseCheckpointSaver[int]):
    """Sends every checkpoint of one attempt's session to the supervisor.

    A process prepares one object and makes a copy for each attempt. The attempt does not follow
    from the calling context: LangGraph commits writes from callbacks that have none.
    """

    _attempt: Attempt

    def __init__(self) -> None:
        super().__init__(serde=JsonPlusSerializer())

    def of(self, attempt: Attempt) -> PenstockSaver:
        """This saver, for an attempt."""
        mine = copy.copy(self)
        mine._attempt = attempt  # noqa: SLF001 - of this very class
        return mine

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or the latest of its namespace."""
        return self._tuple(config, self._attempt.call("checkpoint.get", **_address(config)))

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        """See :meth:`get_tuple`."""
        reply = await self._attempt.acall("checkpoint.get", **_address(config))
        return self._tuple(config, reply)

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:  # noqa: ARG002 - LangGraph's
        """Commit a checkpoint."""
        fields, blobs = self._packed(config, checkpoint, metadata)
        self._attempt.call("checkpoint.put", blobs, **fields)
        return _config(config, fields["namespace"], fields["checkpoint_id"])

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:  # noqa: ARG002 - LangGraph's
        """See :meth:`put`."""
        fields, blobs = self._packed(config, checkpoint, metadata)
        await self._attempt.acall("checkpoint.put", blobs, **fields)
        return _config(config, fields["namespace"], fields["checkpoint_id"])

    def put_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a node wrote until its step is committed."""
        fields, blobs = self._written(config, writes, task_id, task_path)
        self._attempt.call("checkpoint.writes", blobs, **fields)

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See :meth:`put_writes`."""
        fields, blobs = self._written(config, writes, task_id, task_path)
        await self._attempt.acall("checkpoint.writes", blobs, **fields)

    def list(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: Any = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a namespace (of all, when none is named), newest first."""
        reply = self._attempt.call("checkpoint.list", **_query(config, before, limit, filter))
        yield from self._listed(config, reply, filter, limit)

    async def alist(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: Any = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See :meth:`list`."""
        query = _query(config, before, limit, filter)
        reply = await self._attempt.acall("checkpoint.list", **query)
        for found in self._listed(config, reply, filter, limit):
            yield found

    def _packed(self, config: Any, checkpoint: Any, metadata: Any) -> Packed:
        """A checkpoint as the fields and blobs of its frame."""
        encoding, data = self.serde.dumps_typed(checkpoint)
        kept: Any = get_checkpoint_metadata(config, metadata)
        kept.pop(TASK, None)
        other, meta = self.serde.dumps_typed(kept)
        known = config["configurable"]
        fields = {
            "namespace": known.get("checkpoint_ns", ""),
            "checkpoint_id": checkpoint["id"],
            "parent_id": known.get("checkpoint_id"),
            "encoding": encoding if encoding == other else f"{encoding}/{other}",
        }
        return fields, [data, meta]

    def _written(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Packed:
        """A node's writes as the fields and blobs of their frame."""
        items, blobs = [], []
        for number, (channel, value) in enumerate(writes):
            encoding, data = self.serde.dumps_typed(value)
            number_ = WRITES_IDX_MAP.get(channel, number)
            items.append(
                {"number": number_, "channel": channel, "path": task_path, "encoding": encoding}
            )
            blobs.append(data)
        known = config["configurable"]
        fields = {
            "namespace": known.get("checkpoint_ns", ""),
            "checkpoint_id": known["checkpoint_id"],
            "node_task": task_id,
            "items": items,
        }
        return fields, blobs

    def _tuple(self, config: Any, reply: Reply) -> CheckpointTuple | None:
        """The checkpoint in an answer."""
        header, blobs = reply
        if not header.get("found"):
            return None
        found = sorted(
            zip(header.get("writes") or (), blobs[2:], strict=True),
            key=lambda item: (item[0]["path"], item[0]["node_task"], item[0]["number"]),
        )
        writes = [
            (item["node_task"], item["channel"], self.serde.loads_typed((item["encoding"], data)))
            for item, data in found
        ]
        return self._unpacked(config, header, blobs, writes)

    def _unpacked(
        self, config: Any, header: dict[str, Any], blobs: Sequence[bytes], writes: Any
    ) -> CheckpointTuple:
        """A checkpoint from its frame's fields and first two blobs."""
        encoding, _, other = header["encoding"].partition("/")
        namespace = header.get("namespace")
        if namespace is None:
            namespace = config["configurable"].get("checkpoint_ns", "")
        parent = header.get("parent_id")
        metadata = self.serde.loads_typed((other or encoding, blobs[1]))
        metadata[TASK] = header.get("task")
        return CheckpointTuple(
            config=_config(config, namespace, header["checkpoint_id"]),
            checkpoint=self.serde.loads_typed((encoding, blobs[0])),
            metadata=metadata,
            parent_config=_config(config, namespace, parent) if parent else None,
            pending_writes=writes,
        )

    def _listed(
        self, config: Any, reply: Reply, wanted: dict[str, Any] | None, limit: int | None
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a listing whose metadata has the wanted members."""
        header, blobs = reply
        base = config or {"configurable": {"thread_id": self._attempt.session}}
        count = 0
        for number, item in enumerate(header["items"]):
            pair = blobs[2 * number : 2 * number + 2]
            found = self._unpacked(base, item, pair, [])
            metadata: Any = found.metadata
            if wanted and any(metadata.get(key) != value for key, value in wanted.items()):
                continue
            yield found
            count += 1
            if limit is not None and count >= limit:
                return


def _address(config: Any) -> dict[str, Any]:
    """Which checkpoint a config means."""
    known = config["configurable"]
    return {
        "namespace": known.get("checkpoint_ns", ""),
        "checkpoint_id": get_checkpoint_id(config) or None,
    }


def _query(config: Any, before: Any, limit: int | None, wanted: Any) -> dict[str, Any]:
    """Which checkpoints a listing means; a filter on metadata is applied on this side."""
    known = (config or {}).get("configurable", {})
    return {
        "namespace": known.get("checkpoint_ns"),
        "before": get_checkpoint_id(before) if before else None,
        "limit": None if wanted else limit,
    }


def _config(config: Any, namespace: str, checkpoint_id: str) -> Any:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": config["configurable"]["thread_id"],
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }
