"""Labels: names that point at component versions, moved, protected and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.domain.access import Actor
from penstock.domain.components import Component, Label, LabelMove
from penstock.domain.errors import Conflict, Invalid, NotFound
from penstock.rules import labels as label_rules
from penstock.rules.access import check
from penstock.rules.versions import kind_of
from penstock.store import Store, Transaction, agents, audit, components, labels


class LabelActions:
    """What may be done with labels."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def move(
        self,
        actor: Actor,
        agent: str,
        kind: str,
        name: str,
        label: str,
        *,
        to: str,
        message: str = "",
        expect: str | None = None,
    ) -> Label:
        """Point a label at a version.

        Args:
            actor: who; an administrator for a protected label.
            agent: whose.
            kind: of the component.
            name: of the prompt or alias.
            label: production, staging, an own one.
            to: the version.
            message: why.
            expect: the version it is believed to point at; another is a conflict.

        Raises:
            Forbidden: the label is protected.
            Conflict: somebody has moved it meanwhile.
        """
        check(actor, "component.write")
        label_rules.check_label(label)

        async def work(tx: Transaction) -> Label:
            target = await components.find(tx, agent, kind_of(kind), name, to)
            if expect is not None:
                seen = await labels.get(tx, agent, target.kind, name, label)
                at = await components.find(tx, agent, target.kind, name, expect)
                if seen is None or seen.digest != at.digest:
                    raise Conflict(
                        f"the label {label} does not point at {at.label} any more",
                        hint="Look where it points now, and move it again if you still want to.",
                    )
            return await point(tx, actor, target, label, message=message)

        return await self._store.transact(work)

    async def remove(
        self, actor: Actor, agent: str, kind: str, name: str, label: str, *, message: str = ""
    ) -> None:
        """Take a label away.

        Raises:
            NotFound: it is not set.
            Forbidden: it is protected.
        """
        check(actor, "component.write")

        async def work(tx: Transaction) -> None:
            await _check_protection(tx, actor, agent, label)
            seen = await labels.get(tx, agent, kind_of(kind), name, label)
            if seen is None:
                raise NotFound(f"the label {label} is not set on {kind} {name}".rstrip())
            await labels.remove(tx, seen, message=message, moved_by=actor.name)
            target = await components.by_digest(tx, agent, seen.kind, name, seen.digest)
            if target is not None:
                await note(tx, actor, "label.remove", target, {"label": label, "why": message})

        await self._store.transact(work)

    async def listing(
        self, actor: Actor, agent: str, kind: str, name: str
    ) -> tuple[list[Label], list[LabelMove], list[str]]:
        """Where the labels point, where they have been, and which are protected."""
        check(actor, "release.read")

        async def work(tx: Transaction) -> tuple[list[Label], list[LabelMove], list[str]]:
            await agents.get(tx, agent)
            return (
                await labels.listing(tx, agent, kind_of(kind), name),
                await labels.moves(tx, agent, kind_of(kind), name),
                [*label_rules.PROTECTED, *await labels.protected(tx, agent)],
            )

        return await self._store.read(work)

    async def protect(self, actor: Actor, agent: str, label: str, *, protected: bool) -> None:
        """Let only administrators move a label, or every operator again.

        Raises:
            Invalid: it is always protected.
        """
        check(actor, "label.protect")
        label_rules.check_label(label)
        if label in label_rules.PROTECTED and not protected:
            raise Invalid(f"the label {label} is always protected")

        async def work(tx: Transaction) -> None:
            await agents.get(tx, agent)
            await labels.protect(tx, agent, label, protected=protected)
            await audit.add(
                tx,
                actor,
                "label.protect" if protected else "label.unprotect",
                object_kind="agent",
                object_id=agent,
                detail={"label": label},
            )

        await self._store.transact(work)


async def point(
    tx: Transaction, actor: Actor, target: Component, label: str, *, message: str
) -> Label:
    """Let a label point at a version, from now on.

    Raises:
        Forbidden: it is protected.
        Invalid: it is a version's own label.
    """
    await _check_protection(tx, actor, target.agent, label)
    seen = await labels.get(tx, target.agent, target.kind, target.name, label)
    if seen is not None and seen.digest == target.digest:
        return seen
    own = await tx.fetch_one(
        "components.by_label",
        agent=target.agent,
        kind=target.kind.value,
        name=target.name,
        label=label,
    )
    if own is not None:
        raise Invalid(
            f"{label} is a version's own label, which never moves", hint="Choose another."
        )
    moved = await labels.move(tx, target, label, seen=seen, message=message, moved_by=actor.name)
    detail = {
        "label": label,
        "before": None if seen is None else seen.digest,
        "after": target.digest,
        "why": message,
    }
    await note(tx, actor, "label.move", target, detail)
    return moved


async def _check_protection(tx: Transaction, actor: Actor, agent: str, label: str) -> None:
    if label in label_rules.PROTECTED or await labels.is_protected(tx, agent, label):
        check(actor, "label.protected")


async def note(
    tx: Transaction, actor: Actor, action: str, component: Component, detail: Mapping[str, Any]
) -> None:
    """Put what was done with a version into the audit log."""
    await audit.add(
        tx,
        actor,
        action,
        object_kind="component",
        object_id=f"{component.agent}/{component.kind.value}/{component.name}",
        detail={"version": component.label, "digest": component.digest, **detail},
    )
