"""Secrets of this machine: variables of the server, and files such as a mount puts there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from penstock.domain.errors import Unavailable

_MOST_BYTES = 64 << 10


class VariableSecrets:
    """Implements ``drivers.secrets.Secrets`` over the server's environment variables."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    async def read(self, address: str) -> str:
        """See :class:`penstock.drivers.secrets.Secrets`."""
        value = self._env.get(address)
        if value is None:
            raise Unavailable(
                f"the secret env:{address} is not set on the server",
                hint=f"Start the server with {address} in its environment.",
            )
        return value


class FileSecrets:
    """Implements ``drivers.secrets.Secrets`` over files; each read follows the path anew."""

    async def read(self, address: str) -> str:
        """See :class:`penstock.drivers.secrets.Secrets`."""
        try:
            content = await asyncio.to_thread(_head, Path(address))
        except OSError as error:
            raise Unavailable(
                f"the secret file:{address} cannot be read: {error.strerror}"
            ) from None
        if len(content) > _MOST_BYTES:
            raise Unavailable(f"the secret file:{address} is larger than 64 KiB")
        try:
            return content.decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise Unavailable(f"the secret file:{address} is not UTF-8") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1)
