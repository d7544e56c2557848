"""The threads of a session: its own, and those that an agent runs inside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

if TYPE_CHECKING:
    from penstock.inside.attempts import Attempt

_MARK = "\x1f"  # around another thread's id, in front of its namespaces
_FORGET: dict[str, Any] = {"within": None, "keep_latest": False, "places": []}


class Threads(BaseCheckpointSaver[int]):
    """What a checkpointer does with whole threads.

    The session is the thread. Other threads, which an agent may run graphs of its own on, are
    kept inside the session, and go with it.
    """

    _attempt: Attempt

    def _forgotten(self) -> None:
        """Called when checkpoints have been removed."""
        raise NotImplementedError

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread: the session's own, or one that an agent runs inside it."""
        self._forget(within=self._within(thread_id), keep_latest=False)

    async def adelete_thread(self, thread_id: str) -> None:
        """See :meth:`delete_thread`."""
        await self._aforget(within=self._within(thread_id), keep_latest=False)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove threads, or all but the latest checkpoint of each of their namespaces."""
        keep = _keeps_latest(strategy)
        for thread in thread_ids:
            if keep:
                _refuse_history(self.list(_whole(thread)))
            self._forget(within=self._within(thread), keep_latest=keep)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See :meth:`prune`."""
        keep = _keeps_latest(strategy)
        for thread in thread_ids:
            if keep:
                _refuse_history([one async for one in self.alist(_whole(thread))])
            await self._aforget(within=self._within(thread), keep_latest=keep)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that LangGraph made under some run ids."""
        self._forget(places=self._of_runs(self.list(None), run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See :meth:`delete_for_runs`."""
        found = [one async for one in self.alist(None)]
        await self._aforget(places=self._of_runs(found, run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread of this session; the copy stays inside it."""
        within, to = self._within(source_thread_id), self._within(target_thread_id)
        self._attempt.call("checkpoint.copy", within=within, to=to)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See :meth:`copy_thread`."""
        within, to = self._within(source_thread_id), self._within(target_thread_id)
        await self._attempt.acall("checkpoint.copy", within=within, to=to)

    def _forget(self, **fields: Any) -> None:
        self._attempt.call("checkpoint.forget", **_FORGET | fields)
        self._forgotten()

    async def _aforget(self, **fields: Any) -> None:
        await self._attempt.acall("checkpoint.forget", **_FORGET | fields)
        self._forgotten()

    def _of_runs(
        self, found: Iterable[CheckpointTuple], run_ids: Sequence[str]
    ) -> Sequence[tuple[str, str]]:
        wanted = set(run_ids)
        return [
            (self._namespace(one.config), one.config["configurable"]["checkpoint_id"])
            for one in found
            if _member(one, "run_id") in wanted
        ]

    # ------------------------------------------------------------ names

    def _within(self, thread: Any) -> str:
        """What begins the namespaces of a thread; nothing, for the session's own."""
        name = str(thread)
        if name == self._attempt.session:
            return ""
        if _MARK in name:
            raise ValueError(f"a thread's id has no control characters: {name!r}")
        return f"{_MARK}{name}{_MARK}"

    def _namespace(self, config: Any) -> str:
        known = config["configurable"]
        namespace: str = known.get("checkpoint_ns", "")
        return self._within(known["thread_id"]) + namespace

    def _named(self, namespace: str) -> tuple[str, str]:
        """The thread and the namespace that LangGraph knows one of ours by."""
        if not namespace.startswith(_MARK):
            return self._attempt.session, namespace
        _, thread, inner = namespace.split(_MARK, 2)
        return thread, inner


def _keeps_latest(strategy: str) -> bool:
    if strategy not in ("keep_latest", "delete"):
        raise ValueError(f"there is no way to prune called {strategy!r}: keep_latest or delete")
    return strategy == "keep_latest"


def _refuse_history(found: Iterable[CheckpointTuple]) -> None:
    """Refuse to prune a thread whose state is what its writes make of an older one."""
    for one in found:
        if _member(one, "counters_since_delta_snapshot"):
            raise ValueError(
                "this thread has a DeltaChannel, whose value is made of all the writes since its"
                " last snapshot: its older checkpoints cannot be removed"
            )


def _whole(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def _member(found: CheckpointTuple, name: str) -> Any:
    """A member of a checkpoint's metadata, whose type does not know all that there may be."""
    metadata: Any = found.metadata
    return metadata.get(name)


def config_of(thread: Any, namespace: str, checkpoint_id: str) -> Any:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }
