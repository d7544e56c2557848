"""LangGraph's checkpoints, kept by the supervisor under the task's fence."""

from __future__ import annotations

import asyncio
import collections
import copy
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from penstock.inside.frameworks.langgraph_tables import Packer, Reader, Table
from penstock.inside.frameworks.langgraph_threads import Threads, config_of
from penstock.inside.frameworks.langgraph_writes import (
    HELD_SECONDS,
    Held,
    Waiting,
    settle,
)
from penstock.inside.later import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from penstock.inside.attempts import Attempt
    from penstock.inside.channel import Reply

    Place = tuple[str, str | None]  # namespace as the supervisor knows it, checkpoint id
    Call = tuple[str, list[bytes], dict[str, Any]]  # op, blobs, fields

# In a checkpoint's metadata: the task that committed it, as the supervisor's record has it.
TASK = "penstock_task"

_PAGE = 100
_NAMESPACES = 32
_KEY_BYTES = 16


class PenstockSaver(Threads):
    """Sends every checkpoint of one attempt's session to the supervisor.

    A process prepares one object and makes a copy for each attempt. The attempt does not follow
    from the calling context: LangGraph commits writes from callbacks that have none.
    """

    def __init__(self) -> None:
        super().__init__(serde=JsonPlusSerializer(pickle_fallback=False))

    def of(self, attempt: Attempt) -> PenstockSaver:
        """This saver, for an attempt."""
        mine = copy.copy(self)
        mine._attempt = attempt  # noqa: SLF001 - of this very class
        mine._begin()  # noqa: SLF001 - of this very class
        return mine

    def _forgotten(self) -> None:
        with self._lock:
            self._known.clear()

    def _begin(self) -> None:
        self._packer = Packer(self.serde)
        self._lock = threading.Lock()
        self._waiting = Waiting()
        # The last two tables of each namespace: what the next checkpoints will stand on.
        self._known: collections.OrderedDict[str, list[tuple[str, Table]]] = (
            collections.OrderedDict()
        )

    # ------------------------------------------------------------ reading

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or the latest of its namespace."""
        op, blobs, fields = self._asked(config)
        return self._first(config, self._attempt.call(op, blobs, **fields))

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        """See :meth:`get_tuple`."""
        op, blobs, fields = self._asked(config)
        return self._first(config, await self._attempt.acall(op, blobs, **fields))

    def list(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: Any = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a namespace (of all, when none is named), newest first."""
        query: dict[str, Any] | None = self._query(config, before, limit)
        while query is not None:
            reply = self._attempt.call("checkpoint.list", **query)
            found = self._matching(reply, filter, limit)
            yield from found
            limit = None if limit is None else limit - len(found)
            query = _next_page(query, reply, limit)

    async def alist(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: Any = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See :meth:`list`."""
        query: dict[str, Any] | None = self._query(config, before, limit)
        while query is not None:
            reply = await self._attempt.acall("checkpoint.list", **query)
            found = self._matching(reply, filter, limit)
            for one in found:
                yield one
            limit = None if limit is None else limit - len(found)
            query = _next_page(query, reply, limit)

    # ------------------------------------------------------------ writing

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Commit a checkpoint, with what nodes wrote for it."""
        table, taken, (op, blobs, fields) = self._put(config, checkpoint, metadata, new_versions)
        try:
            self._attempt.call(op, blobs, **fields)
        except BaseException as error:
            settle(taken, error)
            raise
        settle(taken)
        return self._remembered(config, fields, checkpoint["id"], table)

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """See :meth:`put`."""
        table, taken, (op, blobs, fields) = self._put(config, checkpoint, metadata, new_versions)
        try:
            await self._attempt.acall(op, blobs, **fields)
        except BaseException as error:
            settle(taken, error)
            raise
        settle(taken)
        return self._remembered(config, fields, checkpoint["id"], table)

    def put_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a node wrote until its step is committed."""
        place, held = self._written(config, writes, task_id, task_path)
        waiter: Future[bool] = Future()
        held.waiter = waiter
        if self._waiting.hold(place, held):
            try:
                waiter.result(HELD_SECONDS)
            except TimeoutError:
                if not self._waiting.let_go(place, held):
                    waiter.result()
                    return
            else:
                return
        op, blobs, fields = _writes_call(place, held)
        self._attempt.call(op, blobs, **fields)

    def hold_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> Future[Any]:
        """Keep what a node wrote, in no thread that waits; the future says when it is kept."""
        kept: Future[Any] = Future()
        kept.set_running_or_notify_cancel()
        try:
            place, held = self._written(config, writes, task_id, task_path)
            held.waiter = kept
            if self._waiting.hold(place, held):
                soon(partial(self._go_alone, place, held, kept))
            else:
                self._send_alone(place, held, kept)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
            kept.set_exception(error)
        return kept

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See :meth:`put_writes`."""
        place, held = self._written(config, writes, task_id, task_path)
        loop = asyncio.get_running_loop()
        held.waiter = waiter = loop.create_future()
        if self._waiting.hold(place, held):
            timer = loop.call_later(HELD_SECONDS, self._waiting.expire, place, held)
            try:
                if await waiter:
                    return
            finally:
                timer.cancel()
                self._waiting.let_go(place, held)
        op, blobs, fields = _writes_call(place, held)
        await self._attempt.acall(op, blobs, **fields)

    def _go_alone(self, place: Place, held: Held, kept: Future[Any]) -> None:
        """Keep writes that no checkpoint has taken along."""
        if self._waiting.let_go(place, held):
            try:
                self._send_alone(place, held, kept)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
                kept.set_exception(error)

    def _send_alone(self, place: Place, held: Held, kept: Future[Any]) -> None:
        op, blobs, fields = _writes_call(place, held)
        self._attempt.begin_call(op, blobs, **fields).add_done_callback(partial(_pass_on, kept))

    # ------------------------------------------------------------ calls

    def _asked(self, config: Any) -> Call:
        found = get_checkpoint_id(config) or None
        return "checkpoint.get", [], {"namespace": self._namespace(config), "checkpoint_id": found}

    def _query(self, config: Any, before: Any, limit: int | None) -> dict[str, Any]:
        known = (config or {}).get("configurable", {})
        named = known.get("checkpoint_ns") is not None
        return {
            "namespace": self._namespace(config) if named else None,
            "within": self._within(known["thread_id"]) if known and not named else None,
            "checkpoint_id": get_checkpoint_id(config) if config else None,
            "before": get_checkpoint_id(before) if before else None,
            # Over several namespaces ids may repeat, so that no page could begin behind one.
            "limit": (_PAGE if limit is None else min(limit, _PAGE)) if named else None,
        }

    def _put(
        self, config: Any, checkpoint: Any, metadata: Any, new_versions: Mapping[str, Any]
    ) -> tuple[Table, Sequence[Held], Call]:
        """A checkpoint's table, the writes that go with it, and the call."""
        namespace, parent = self._namespace(config), get_checkpoint_id(config) or None
        with self._lock:
            below = dict(self._known.get(namespace, ())).get(parent or "")
        contents: dict[bytes, bytes] = {}
        table, data = self._packer.table(below, checkpoint, new_versions, contents)
        kept: Any = get_checkpoint_metadata(config, metadata)
        kept.pop(TASK, None)
        _, packed = self.serde.dumps_typed(kept)
        taken = self._waiting.take((namespace, parent))
        for held in taken:
            contents.update(held.contents)
        fields = {
            "namespace": namespace,
            "checkpoint_id": checkpoint["id"],
            "parent_id": parent,
            "depth": table.depth,
            "leans": below is not None,
            "contents": len(contents),
            "writes": [item for held in taken for item in held.items],
        }
        values = [value for held in taken for value in held.values]
        return table, taken, ("checkpoint.put", [data, packed, *_joined(contents), *values], fields)

    def _written(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> tuple[Place, Held]:
        """What a node wrote, packed, and the checkpoint it belongs on."""
        contents: dict[bytes, bytes] = {}
        items, values = [], []
        for number, (channel, value) in enumerate(writes):
            where = f"what node task {task_id} wrote to {channel!r}"
            values.append(self._packer.write(value, where, contents))
            items.append(
                {
                    "node_task": task_id,
                    "number": WRITES_IDX_MAP.get(channel, number),
                    "channel": channel,
                    "path": task_path,
                }
            )
        place = (self._namespace(config), config["configurable"]["checkpoint_id"])
        return place, Held(items, values, contents)

    def _remembered(
        self, config: Any, fields: dict[str, Any], checkpoint_id: str, table: Table
    ) -> Any:
        self._remember(fields["namespace"], checkpoint_id, table)
        known = config["configurable"]
        return config_of(known["thread_id"], known.get("checkpoint_ns", ""), checkpoint_id)

    def _remember(self, namespace: str, checkpoint_id: str, table: Table) -> None:
        with self._lock:
            known = self._known.pop(namespace, [])
            known = [one for one in known if one[0] != checkpoint_id][-1:]
            self._known[namespace] = [*known, (checkpoint_id, table)]
            if len(self._known) > _NAMESPACES:
                self._known.popitem(last=False)

    # ------------------------------------------------------------ answers

    def _first(self, config: Any, reply: Reply) -> CheckpointTuple | None:
        for found in self._tuples(reply, remember=True):
            if get_checkpoint_id(config):
                return found._replace(config=config)
            thread = config["configurable"]["thread_id"]
            found.config["configurable"]["thread_id"] = thread
            return found
        return None

    def _matching(
        self, reply: Reply, wanted: dict[str, Any] | None, limit: int | None
    ) -> Sequence[CheckpointTuple]:
        """The checkpoints of a page whose metadata has the wanted members."""
        found: collections.deque[CheckpointTuple] = collections.deque()
        for one in self._tuples(reply):
            if limit is not None and len(found) >= limit:
                break
            metadata: Any = one.metadata
            if all(metadata.get(key) == value for key, value in (wanted or {}).items()):
                found.append(one)
        return found

    def _tuples(self, reply: Reply, *, remember: bool = False) -> Iterator[CheckpointTuple]:
        header, blobs = reply
        if not header.get("items"):
            return
        keys, count = blobs[0], header["contents"]
        contents = {
            keys[_KEY_BYTES * number : _KEY_BYTES * (number + 1)]: blobs[number + 1]
            for number in range(count)
        }
        reader = Reader(self.serde, contents)
        at = count + 1
        for item in header["items"]:
            written = len(item["writes"])
            data, metadata, *values = blobs[at : at + 2 + written]
            at += 2 + written
            yield self._tuple(reader, item, data, metadata, values, remember=remember)

    def _tuple(
        self,
        reader: Reader,
        item: dict[str, Any],
        data: bytes,
        metadata: bytes,
        values: Sequence[bytes],
        *,
        remember: bool,
    ) -> CheckpointTuple:
        """One checkpoint of an answer."""
        namespace, checkpoint_id = item["namespace"], item["checkpoint_id"]
        thread, inner = self._named(namespace)
        encoding, _, other = item["encoding"].partition("/")
        if encoding:  # kept whole, by an older release of Penstock
            checkpoint = self.serde.loads_typed((encoding, data))
        else:
            checkpoint, table = reader.table(data, item["depth"])
            checkpoint["id"] = checkpoint_id
            if remember:
                self._remember(namespace, checkpoint_id, table)
        known = self.serde.loads_typed((other or encoding or "msgpack", metadata))
        known[TASK] = item["task"]
        writes = [
            (
                one["node_task"],
                one["channel"],
                self.serde.loads_typed((one["encoding"], value))
                if one["encoding"]
                else reader.write(value),
            )
            for one, value in zip(item["writes"], values, strict=True)
        ]
        parent = item["parent_id"]
        return CheckpointTuple(
            config=config_of(thread, inner, checkpoint_id),
            checkpoint=checkpoint,
            metadata=known,
            parent_config=config_of(thread, inner, parent) if parent else None,
            pending_writes=writes,
        )


def _pass_on(kept: Future[Any], answer: Future[Any]) -> None:
    if (error := answer.exception()) is None:
        kept.set_result(None)
    else:
        kept.set_exception(error)


def _writes_call(place: Place, held: Held) -> Call:
    fields = {
        "namespace": place[0],
        "checkpoint_id": place[1],
        "contents": len(held.contents),
        "writes": held.items,
    }
    return "checkpoint.writes", [*_joined(held.contents), *held.values], fields


def _joined(contents: Mapping[bytes, bytes]) -> list[bytes]:
    """Contents as they are sent: their keys in one piece, then each."""
    return [b"".join(contents), *contents.values()] if contents else []


def _next_page(query: dict[str, Any], reply: Reply, limit: int | None) -> dict[str, Any] | None:
    """What to ask for behind a page, if there may be more."""
    items = reply[0]["items"]
    if query["limit"] is None or len(items) < query["limit"] or limit == 0:
        return None
    return {**query, "before": items[-1]["checkpoint_id"], "limit": _PAGE}
