"""What a role may do; everything that is not listed is denied."""

from __future__ import annotations

from penstock.domain.access import Actor, Role
from penstock.domain.errors import Forbidden

_READS = frozenset(
    {
        "agent.read",
        "audit.read",
        "exchange.read",
        "memory.read",
        "metrics.read",
        "release.read",
        "rollout.read",
        "session.read",
        "task.read",
    }
)
_OPERATES = _READS | {
    "component.write",
    "environment.write",
    "memory.delete",
    "release.cut",
    "rollout.write",
    "session.delete",
    "session.write",
    "task.create",
    "worker.drain",
    "task.resume",
}
_ALLOWED = {
    Role.VIEWER: _READS,
    Role.OPERATOR: _OPERATES,
    Role.ADMIN: _OPERATES
    | {
        "backup.read",
        "garbage.collect",
        "key.read",
        "key.write",
        "label.protect",
        "label.protected",
        "release.import",
        "release.push",
        "signing.write",
    },
}


def check(actor: Actor, action: str) -> None:
    """Let an actor do something, or say why not.

    Raises:
        Forbidden: the actor's role does not include the action.
    """
    if action not in _ALLOWED[actor.role]:
        least = next(
            role
            for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
            if action in _ALLOWED[role] or role is Role.ADMIN
        )
        raise Forbidden(
            f"{actor.name} is {actor.role.value} and may not do this ({action})",
            hint=f"It takes a key with the role {least.value}: penstock keys create NAME --role"
            f" {least.value}",
        )
