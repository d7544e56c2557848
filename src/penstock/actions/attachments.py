"""Attachments: give a session a file, and read it again."""

from __future__ import annotations

import asyncio
import re

from penstock.domain.access import Actor
from penstock.domain.attachments import Attachment
from penstock.domain.errors import Conflict, Invalid
from penstock.kit.ids import new_id
from penstock.rules.access import check
from penstock.rules.releases import digest_bytes
from penstock.store import Store, Transaction, attachments, sessions

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;[\x20-\x7e]*)?")
_LONGEST_NAME = 255
_UNNAMED = "application/octet-stream"


class AttachmentActions:
    """What may be done with the files of a session."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(
        self,
        actor: Actor,
        session_id: str,
        content: bytes,
        *,
        content_type: str | None = None,
        filename: str = "",
    ) -> Attachment:
        """Give a session a file; tasks refer to it by the id that it gets.

        Raises:
            NotFound: there is no such session.
            Conflict: it is closed.
            Invalid: the name or the content type is none.
        """
        check(actor, "session.write")
        kind = content_type or _UNNAMED
        if not _CONTENT_TYPE.fullmatch(kind) or len(kind) > _LONGEST_NAME:
            raise Invalid(f"{kind[:80]!r} is no content type", hint="Such as application/pdf.")
        if len(filename) > _LONGEST_NAME or not filename.isprintable() or "/" in filename:
            raise Invalid(
                "the name of a file has up to 255 printable characters, and no slash",
                hint="?filename=invoice.pdf",
            )
        digest = await asyncio.to_thread(digest_bytes, content)

        async def work(tx: Transaction) -> Attachment:
            session = await sessions.lock(tx, session_id)
            if session.state != "open":
                raise Conflict(f"session {session_id} is closed", hint="Begin a new one.")
            return await attachments.add(
                tx,
                attachment_id=new_id("att"),
                session_id=session_id,
                digest=digest,
                content=content,
                content_type=kind,
                filename=filename,
            )

        return await self._store.transact(work)

    async def listing(self, actor: Actor, session_id: str) -> list[Attachment]:
        """The files of a session, the oldest first.

        Raises:
            NotFound: there is no such session.
        """
        check(actor, "session.read")

        async def work(tx: Transaction) -> list[Attachment]:
            await sessions.get(tx, session_id)
            return await attachments.of_session(tx, session_id)

        return await self._store.read(work)

    async def content(
        self, actor: Actor, session_id: str, attachment_id: str
    ) -> tuple[Attachment, bytes]:
        """A file of a session, with its content.

        Raises:
            NotFound: there is no such file.
        """
        check(actor, "session.read")

        async def work(tx: Transaction) -> tuple[Attachment, bytes]:
            return await attachments.content(tx, session_id=session_id, attachment_id=attachment_id)

        return await self._store.read(work)
