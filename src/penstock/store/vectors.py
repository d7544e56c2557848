"""Which extension compares vectors in the database: sqlite-vec, or none.

A vector is kept as it always is, in a plain table. An extension only computes on what is there, so
it may come and go between two starts, and a backup fits every machine.
"""

from __future__ import annotations

import logging
import sqlite3
from importlib import import_module

log = logging.getLogger(__name__)

_PACKAGE = "sqlite_vec"


def load_sqlite_vec(connection: sqlite3.Connection) -> str | None:
    """Let a connection compare vectors, if sqlite-vec is installed; its name and version."""
    try:
        file = import_module(_PACKAGE).loadable_path()
    except ImportError:
        return None
    if not hasattr(connection, "enable_load_extension"):
        log.warning("sqlite-vec is installed, but the sqlite3 of this Python loads no extensions")
        return None
    try:
        connection.enable_load_extension(True)
        try:
            connection.load_extension(file)
        finally:
            connection.enable_load_extension(False)
        row = connection.execute("select vec_version()").fetchone()
    except sqlite3.Error as error:
        log.warning("sqlite-vec is installed and cannot be loaded: %s", error)
        return None
    return f"sqlite-vec {row[0]}"
