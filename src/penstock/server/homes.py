"""The data directory of a server or a worker."""

from __future__ import annotations

import tempfile
from pathlib import Path

from penstock.domain.errors import Unavailable


def make_home(home: Path) -> None:
    """Make the data directory, or say why it cannot be used.

    Raises:
        Unavailable: it is no directory, or nothing can be written into it.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise Unavailable(
            f"the data directory {home} cannot be used: {error.strerror}",
            hint="Name one that this user may write: PENSTOCK_HOME=…",
        ) from None
