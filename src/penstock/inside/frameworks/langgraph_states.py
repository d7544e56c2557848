"""A session's state as LangGraph knows it: shown, listed, edited."""

from __future__ import annotations

from itertools import islice
from typing import Any

from penstock.inside.values import jsonable


def look(graph: Any, session: str, wish: dict[str, Any]) -> Any:
    """Do what is wished of the state of a session, and return it.

    Args:
        graph: with the session's saver.
        session: the session.
        wish: ``kind`` (get, history or edit), ``checkpoint_id``, ``values``, ``as_node``,
            ``limit``, ``before``.

    Raises:
        Exception: LangGraph's own, about an edit that does not fit the graph.
    """
    config = _config(session, wish["checkpoint_id"])
    if wish["kind"] == "history":
        before = _config(session, wish["before"]) if wish["before"] else None
        found = graph.get_state_history(config, before=before, limit=wish["limit"])
        return [_shown(one) for one in islice(found, wish["limit"])]
    if wish["kind"] == "edit":
        edited = graph.update_state(config, wish["values"], as_node=wish["as_node"])
        return {"checkpoint_id": edited["configurable"]["checkpoint_id"]}
    return _shown(graph.get_state(config))


def _config(session: str, checkpoint_id: str | None) -> dict[str, Any]:
    known: dict[str, Any] = {"thread_id": session, "checkpoint_ns": ""}
    if checkpoint_id is not None:
        known["checkpoint_id"] = checkpoint_id
    return {"configurable": known}


def _shown(state: Any) -> dict[str, Any]:
    """A state as JSON; what the graph asks a person is in its tasks."""
    metadata = state.metadata or {}
    return {
        "values": jsonable(state.values),
        "next": list(state.next),
        "checkpoint_id": _checkpoint(state.config),
        "parent_id": _checkpoint(state.parent_config),
        "created_at": state.created_at,
        "source": metadata.get("source"),
        "step": metadata.get("step"),
        "task": metadata.get("penstock_task"),
        "tasks": [
            {
                "id": task.id,
                "name": task.name,
                "error": None if task.error is None else str(task.error),
                "interrupts": [
                    {"id": getattr(one, "id", None), "value": jsonable(one.value)}
                    for one in task.interrupts
                ],
            }
            for task in state.tasks
        ],
    }


def _checkpoint(config: Any) -> str | None:
    return ((config or {}).get("configurable") or {}).get("checkpoint_id")
