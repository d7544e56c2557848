"""Every error Penstock raises on purpose, as one tree.

::

    PenstockError
    ├── Invalid          the caller's input is wrong; nothing was changed
    │   └── ProjectInvalid   ... in a file of the project: file, line and key are named
    ├── Unauthenticated  no key, or one that is not known
    ├── Forbidden        the key may not do this
    ├── NotFound         there is no such thing
    ├── Conflict         it exists already, or has moved on since it was read
    ├── Stale            a late writer: the epoch it holds is no longer the task's
    ├── Exhausted        a limit, budget or queue is full; try later
    ├── Damaged          stored or received bytes are not what they should be; none was used
    ├── Unavailable      something Penstock needs does not answer
    └── BuildFailed      the agent's code or environment could not be built or imported

The message says what happened and where; ``hint`` says what to do about it. ``code`` is the
stable word a program may switch on; it never changes once released.
"""

from __future__ import annotations


class PenstockError(Exception):
    """An error that is meant to be read by a person."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(PenstockError):
    """The input is wrong; nothing was changed."""

    code = "invalid"


class ProjectInvalid(Invalid):
    """A file of the project is wrong; names the file, the line and the key."""

    code = "project_invalid"

    def __init__(
        self, message: str, *, file: str, line: int | None = None, hint: str | None = None
    ) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {message}", hint=hint)
        self.file = file
        self.line = line


class Unauthenticated(PenstockError):
    """No key was sent, or one that is not known."""

    code = "unauthenticated"


class Forbidden(PenstockError):
    """The key is known and may not do this."""

    code = "forbidden"


class NotFound(PenstockError):
    """There is no such thing."""

    code = "not_found"


class Conflict(PenstockError):
    """It exists already, or it changed since it was read."""

    code = "conflict"


class Stale(PenstockError):
    """A late writer was refused: the epoch it holds is no longer the task's."""

    code = "stale"


class Exhausted(PenstockError):
    """A limit, a budget or a queue is full; ``retry_after_seconds`` says when to try again."""

    code = "exhausted"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(PenstockError):
    """Something Penstock needs does not answer."""

    code = "unavailable"


class Damaged(PenstockError):
    """Bytes are not what they were signed as, or not what their digest says; none was used."""

    code = "damaged"


class BuildFailed(PenstockError):
    """The agent's code or environment could not be built or imported."""

    code = "build_failed"

    def __init__(self, message: str, *, output: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.output = output
