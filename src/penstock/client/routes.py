"""The API's routes as methods, whoever makes the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from penstock.client.registry import RegistryRoutes

SECONDS = 30.0  # that an answer may take, beside what it is asked to wait
_UPLOAD_SECONDS = 300.0


class Routes(RegistryRoutes):
    """The API's routes; ``_call`` makes a request, and returns its JSON or a promise of it."""

    def _call(self, method: str, path: str, **options: Any) -> Any:
        raise NotImplementedError

    # ------------------------------------------------------------ agents and releases

    def whoami(self) -> Any:
        """Whose key this is."""
        return self._call("GET", "/api/v1/whoami")

    def ready(self) -> Any:
        """Whether the server takes work."""
        return self._call("GET", "/readyz")

    def agents(self) -> Any:
        """Every agent with its status."""
        return self._call("GET", "/api/v1/agents")

    def agent(self, agent: str) -> Any:
        """One agent: deployments, the rollout that is on, tasks by state."""
        return self._call("GET", f"/api/v1/agents/{part(agent)}")

    def cut_release(
        self, archive: bytes, *, message: str = "", ci: bool = False, strict: bool = False
    ) -> Any:
        """Cut a release from a project's tar.gz."""
        return self._call(
            "POST",
            "/api/v1/releases",
            content=archive,
            params={"message": message, "ci": str(ci).lower(), "strict": str(strict).lower()},
            timeout=900.0,  # a new environment may have to be built
        )

    def releases(self, agent: str, *, limit: int = 50) -> Any:
        """An agent's releases from the newest to the oldest."""
        return self._call("GET", f"/api/v1/agents/{part(agent)}/releases", params={"limit": limit})

    def release(self, agent: str, ref: str) -> Any:
        """One release with everything it pins."""
        return self._call("GET", f"/api/v1/agents/{part(agent)}/releases/{part(ref)}")

    def diff_releases(self, agent: str, before: str, after: str) -> Any:
        """What changed from one release to another."""
        path = f"/api/v1/agents/{part(agent)}/releases/{part(before)}/diff/{part(after)}"
        return self._call("GET", path)

    # ------------------------------------------------------------ deployments and rollouts

    def deploy(
        self,
        agent: str,
        *,
        ref: str = "latest",
        environment: str = "production",
        strategy: str | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give a release traffic."""
        body = {"ref": ref, "environment": environment, "strategy": strategy, "plan": plan}
        return self._call("POST", f"/api/v1/agents/{part(agent)}/deployments", json=body)

    def change_rollout(self, agent: str, verb: str, *, environment: str = "production") -> Any:
        """Promote, abort, pause or resume the rollout that is on."""
        return self._call(
            "POST",
            f"/api/v1/agents/{part(agent)}/deployments/{part(environment)}/{verb}",
            json={},
        )

    def roll_back(
        self, agent: str, *, environment: str = "production", to: str | None = None
    ) -> Any:
        """End the rollout that is on, or make an earlier release stable at once."""
        return self._call(
            "POST",
            f"/api/v1/agents/{part(agent)}/deployments/{part(environment)}/rollback",
            json={"to": to},
        )

    def rollouts(self, agent: str, *, limit: int = 50) -> Any:
        """An agent's rollouts from the newest to the oldest."""
        return self._call("GET", f"/api/v1/agents/{part(agent)}/rollouts", params={"limit": limit})

    def rollout(self, rollout_id: str) -> Any:
        """A rollout with its evidence and its story."""
        return self._call("GET", f"/api/v1/rollouts/{part(rollout_id)}")

    # ------------------------------------------------------------ workers

    def workers(self) -> Any:
        """Who runs tasks, the oldest first."""
        return self._call("GET", "/api/v1/workers")

    def drain_worker(self, worker_id: str) -> Any:
        """Let a worker leave."""
        return self._call("POST", f"/api/v1/workers/{part(worker_id)}/drain", json={})

    # ------------------------------------------------------------ sessions and tasks

    def create_session(
        self,
        agent: str,
        *,
        environment: str = "production",
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
    ) -> Any:
        """Begin a session; ``ttl_seconds`` after its last use it is deleted."""
        body = {
            "agent": agent,
            "environment": environment,
            "user_id": user_id,
            "metadata": metadata or {},
            "ttl_seconds": ttl_seconds,
        }
        return self._call("POST", "/api/v1/sessions", json=body)

    def session(self, session_id: str) -> Any:
        """One session."""
        return self._call("GET", f"/api/v1/sessions/{part(session_id)}")

    def sessions(self, **filters: Any) -> Any:
        """Sessions from the newest to the oldest; filters: agent, state, limit, before."""
        return self._call("GET", "/api/v1/sessions", params=_given(filters))

    def close_session(self, session_id: str) -> Any:
        """End a session, with the last of its tasks that has not ended."""
        return self._call("POST", f"/api/v1/sessions/{part(session_id)}/close", json={})

    def give_feedback(self, session_id: str, thumb: int) -> Any:
        """Keep what a person thought: -1, 0 or 1."""
        return self._call(
            "POST", f"/api/v1/sessions/{part(session_id)}/feedback", json={"thumb": thumb}
        )

    def create_task(
        self,
        *,
        agent: str,
        input: Any,  # noqa: A002 - what it is called in the API
        wait: float = 0.0,
        environment: str = "production",
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        close_session: bool = False,
        idempotency_key: str | None = None,
        delay_seconds: float = 0.0,
        stream_mode: str | Sequence[str] | None = None,
        subgraphs: bool = False,
        on_disconnect: str = "continue",
        run_at: str | None = None,
        priority: int = 0,
        multitask_strategy: str = "enqueue",
        stateless: bool = False,
    ) -> Any:
        """Put a task into the queue; with ``wait``, return when it has ended.

        Args:
            agent: whose task it is.
            input: what it is given.
            wait: seconds to wait for its end.
            environment: of a new session.
            session_id: the session it belongs to; a new one without it.
            user_id: whose session a new one is.
            metadata: of a new session.
            close_session: whether the session ends with it.
            idempotency_key: the same request under the same key gives the same task.
            delay_seconds: before it runs.
            run_at: when it runs instead, as RFC 3339 says: ``2026-12-24T18:00:00Z``.
            priority: from -100 to 100; higher goes first among the tasks of one user.
            multitask_strategy: when its session is busy: enqueue, reject, interrupt or rollback.
            stateless: whether what its session holds goes with it.
            stream_mode: what it streams; see ``docs/tasks.md``.
            subgraphs: whether graphs inside a graph stream as well.
            on_disconnect: ``cancel`` ends the task if this connection breaks while it waits.
        """
        body = {
            "agent": agent,
            "input": input,
            "environment": environment,
            "session_id": session_id,
            "user_id": user_id,
            "metadata": metadata or {},
            "close_session": close_session,
            "idempotency_key": idempotency_key,
            "delay_seconds": delay_seconds,
            "stream_mode": stream_mode,
            "subgraphs": subgraphs,
            "on_disconnect": on_disconnect,
            "run_at": run_at,
            "priority": priority,
            "multitask_strategy": multitask_strategy,
            "stateless": stateless,
        }
        return self._call(
            "POST",
            "/api/v1/tasks",
            json=body,
            params={"wait": wait} if wait else None,
            timeout=SECONDS + wait,
            again=idempotency_key is not None,
        )

    def task(self, task_id: str) -> Any:
        """One task."""
        return self._call("GET", f"/api/v1/tasks/{part(task_id)}")

    def tasks(self, **filters: Any) -> Any:
        """Tasks from the newest to the oldest; filters: agent, session_id, state, limit, before."""
        return self._call("GET", "/api/v1/tasks", params=_given(filters))

    def wait_for_task(self, task_id: str, *, seconds: float = 30.0) -> Any:
        """The task once it has ended or waits for a person.

        Or as it is, when the time is over, or its server stops.
        """
        return self._call(
            "GET",
            f"/api/v1/tasks/{part(task_id)}/wait",
            params={"seconds": seconds},
            timeout=SECONDS + seconds,
        )

    def state(self, session_id: str, *, checkpoint_id: str | None = None) -> Any:
        """The state of a session: the latest, or that of a checkpoint."""
        params = _given({"checkpoint_id": checkpoint_id})
        return self._call("GET", f"/api/v1/sessions/{part(session_id)}/state", params=params)

    def history(self, session_id: str, **filters: Any) -> Any:
        """The states of a session, the newest first; filters: limit, before."""
        path = f"/api/v1/sessions/{part(session_id)}/history"
        return self._call("GET", path, params=_given(filters))

    def edit_state(
        self,
        session_id: str,
        values: Any,
        *,
        as_node: str | None = None,
        checkpoint_id: str | None = None,
    ) -> Any:
        """Write into the state of a session, as if a node had done it."""
        body = {"values": values, "as_node": as_node, "checkpoint_id": checkpoint_id}
        return self._call("POST", f"/api/v1/sessions/{part(session_id)}/state", json=body)

    def fork_session(
        self,
        session_id: str,
        *,
        checkpoint_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """A new session that begins where another is, or was at a checkpoint."""
        body = {
            "checkpoint_id": checkpoint_id,
            "user_id": user_id,
            "metadata": dict(metadata or {}),
        }
        return self._call("POST", f"/api/v1/sessions/{part(session_id)}/fork", json=body)

    def add_attachment(
        self,
        session_id: str,
        content: bytes,
        *,
        filename: str = "",
        content_type: str = "application/octet-stream",
    ) -> Any:
        """Give a session a file; a task's input names it as ``{"attachment": id}``."""
        return self._call(
            "POST",
            f"/api/v1/sessions/{part(session_id)}/attachments",
            content=content,
            params={"filename": filename},
            headers={"content-type": content_type},
            timeout=_UPLOAD_SECONDS,
        )

    def attachments(self, session_id: str) -> Any:
        """The files of a session."""
        return self._call("GET", f"/api/v1/sessions/{part(session_id)}/attachments")

    def delete_session(self, session_id: str, *, force: bool = False) -> Any:
        """Delete a session and all that was said in it; with ``force``, what runs is cancelled."""
        return self._call(
            "DELETE",
            f"/api/v1/sessions/{part(session_id)}",
            params={"force": str(force).lower()},
        )

    def delete_task(self, task_id: str, *, force: bool = False) -> Any:
        """Delete a task and what is recorded of it; with ``force``, it is cancelled first."""
        return self._call(
            "DELETE", f"/api/v1/tasks/{part(task_id)}", params={"force": str(force).lower()}
        )

    def cancel_task(self, task_id: str) -> Any:
        """End a task."""
        return self._call("POST", f"/api/v1/tasks/{part(task_id)}/cancel", json={})

    def resume_task(
        self, task_id: str, *, answers: Mapping[str, Any] | None = None, answer: Any = None
    ) -> Any:
        """Answer what a task waits for: by id, or the one thing it asks."""
        body = {"answer": answer} if answers is None else {"answers": dict(answers)}
        return self._call("POST", f"/api/v1/tasks/{part(task_id)}/resume", json=body)

    def events(self, task_id: str, *, after: int = 0) -> Any:
        """The durable events of a task."""
        return self._call("GET", f"/api/v1/tasks/{part(task_id)}/events", params={"after": after})

    def logs(self, task_id: str, *, after: str | None = None) -> Any:
        """What the task's attempts printed, behind a line named ``EPOCH.NUMBER``."""
        return self._call(
            "GET",
            f"/api/v1/tasks/{part(task_id)}/logs",
            params=None if after is None else {"after": after},
        )

    def exchanges(self, task_id: str) -> Any:
        """The task's model calls."""
        return self._call("GET", f"/api/v1/tasks/{part(task_id)}/exchanges")

    # ------------------------------------------------------------ memory

    def memories(self, agent: str, *, namespace: Sequence[str] = (), **filters: Any) -> Any:
        """What an agent remembers; filters: environment, user, query, limit, offset."""
        params = {"agent": agent, "namespace": list(namespace), **_given(filters)}
        return self._call("GET", "/api/v1/memory", params=params)

    def memory(
        self, agent: str, namespace: Sequence[str], key: str, *, environment: str = "production"
    ) -> Any:
        """One thing that an agent remembers."""
        params = {
            "agent": agent,
            "environment": environment,
            "namespace": list(namespace),
            "key": key,
        }
        return self._call("GET", "/api/v1/memory/item", params=params)

    def delete_memories(self, agent: str, *, namespace: Sequence[str] = (), **what: Any) -> Any:
        """Let an agent forget; what: user, key, environment, all."""
        params = {"agent": agent, "namespace": list(namespace), **_given(what)}
        return self._call("DELETE", "/api/v1/memory", params=params)

    # ------------------------------------------------------------ keys and audit

    def keys(self) -> Any:
        """Every key, without its secret."""
        return self._call("GET", "/api/v1/keys")

    def create_key(self, name: str, *, role: str = "operator") -> Any:
        """Make a key; it is shown this once."""
        return self._call("POST", "/api/v1/keys", json={"name": name, "role": role})

    def revoke_key(self, key_id: str) -> Any:
        """End a key."""
        return self._call("DELETE", f"/api/v1/keys/{part(key_id)}")

    def audit(self, **filters: Any) -> Any:
        """Audit entries in order; filters: object_kind, object_id, after, limit."""
        return self._call("GET", "/api/v1/audit", params=_given(filters))


def part(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def _given(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}
