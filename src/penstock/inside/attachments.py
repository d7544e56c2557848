"""Files of the session, as an agent's code reads them."""

from __future__ import annotations

import os

from penstock.inside import context

TYPE_CHECKING = False  # see context
if TYPE_CHECKING:
    from typing import Any


class Attachment:
    """A file: its ``content`` in bytes, its ``content_type`` and its ``filename``."""

    __slots__ = ("_path", "content", "content_type", "filename", "id")

    def __init__(self, id: str, content: bytes, content_type: str, filename: str) -> None:  # noqa: A002 - what it is called
        self.id = id
        self.content = content
        self.content_type = content_type
        self.filename = filename
        self._path: str | None = None

    def path(self) -> str:
        """Where the content is as a file; written the first time, and gone with the attempt."""
        if self._path is None:
            import tempfile  # noqa: PLC0415 - importing penstock stays cheap

            folder = tempfile.mkdtemp(prefix="attachment-")
            name = os.path.basename(self.filename) or self.id  # noqa: PTH119 - pathlib costs 5 ms
            self._path = os.path.join(folder, name)  # noqa: PTH118 - see above
            with open(self._path, "wb") as file:  # noqa: PTH123 - see above
                file.write(self.content)
        return self._path


def attachment(reference: Any) -> Attachment:
    """A file that was given to the session: by its id, or as a task's input names it.

    ``reference`` is ``"att_…"`` or ``{"attachment": "att_…"}``. Outside of Penstock it is
    the name of a file, which is read.

    Raises:
        LookupError: the session has no such file.
        TypeError: this is no reference.
    """
    known = reference.get("attachment") if isinstance(reference, dict) else reference
    if not isinstance(known, str):
        raise TypeError(f"{reference!r} names no attachment")
    attempt = context.current()
    if attempt is None:
        with open(known, "rb") as file:  # noqa: PTH123 - see above
            name = os.path.basename(known)  # noqa: PTH119 - see above
            return Attachment(known, file.read(), "application/octet-stream", name)
    return Attachment(*attempt.attachment(known))
