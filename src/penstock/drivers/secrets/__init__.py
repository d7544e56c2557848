"""Where the values of secrets come from; they are read when they are needed and kept nowhere."""

from __future__ import annotations

from typing import Protocol


class Secrets(Protocol):
    """One source of secrets."""

    async def read(self, address: str) -> str:
        """The value at an address.

        Raises:
            Unavailable: there is none, or it cannot be read; never says what it is.
        """
        ...
