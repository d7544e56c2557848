"""Where the private key is with which this installation signs releases."""

from __future__ import annotations

from typing import Protocol


class PrivateKeys(Protocol):
    """Keeps one private key, as PEM (PKCS #8)."""

    async def read(self) -> str | None:
        """The key, if there is one yet."""
        ...

    async def write(self, pem: str, *, seen: str | None) -> str:
        """Replace the key that was ``seen``; the key that is kept now, which may be another's.

        Raises:
            Unavailable: it cannot be written.
        """
        ...
