"""Which side compares vectors in a test: the database with an extension, or Penstock itself."""

import _sqlite3
import contextlib
import ctypes
import sqlite3

import sqlite_vec

from penstock.store import sqlite
from penstock.store.vectors import load_sqlite_vec

LOADS = hasattr(sqlite3.Connection, "enable_load_extension")


@contextlib.contextmanager
def by_sqlite_vec(patch):
    """The real sqlite-vec in every connection made meanwhile, also where Python cannot load it.

    The library that such a Python uses can: it is asked without Python.
    """
    if LOADS:
        patch.setattr(sqlite, "load_sqlite_vec", load_sqlite_vec)
        yield
        return
    library = ctypes.CDLL(_sqlite3.__file__)
    extension = ctypes.CDLL(f"{sqlite_vec.loadable_path()}.so")
    entry = ctypes.cast(extension.sqlite3_vec_init, ctypes.c_void_p)
    assert library.sqlite3_auto_extension(entry) == 0
    patch.setattr(sqlite, "load_sqlite_vec", _version)
    try:
        yield
    finally:
        library.sqlite3_cancel_auto_extension(entry)


def one_by_one(patch):
    """No extension, also where one is installed."""
    patch.setattr(sqlite, "load_sqlite_vec", lambda _: None)


def _version(connection):
    return "sqlite-vec " + connection.execute("select vec_version()").fetchone()[0]
