"""Named SQL, read from ``store/sql/<noun>.sql``.

A query begins with ``-- name: verb`` and a sentence that says what it is for; it is called by
``noun.verb``. A file ``<noun>.postgres.sql`` overrides only the queries that differ there.
Parameters are written ``:name``; casts are written ``cast(… as …)``, so a colon always means a
parameter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

Dialect = Literal["sqlite", "postgres"]

_NAME = re.compile(r"^--\s*name:\s*(\w+)\s*$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One statement, compiled for one database."""

    name: str
    sql: str
    parameters: tuple[str, ...]  # in the order of the driver's placeholders


@cache
def load(dialect: Dialect) -> dict[str, Query]:
    """Every query of the store for ``dialect``, by ``noun.verb``."""
    found: dict[str, Query] = {}
    files = sorted(
        (f for f in resources.files("penstock.store").joinpath("sql").iterdir() if f.is_file()),
        key=lambda f: f.name.count("."),  # the general file first, its override after it
    )
    for file in files:
        noun, _, rest = file.name.partition(".")
        if rest in ("sql", f"{dialect}.sql"):
            for verb, sql in _split(file.read_text(encoding="utf-8")):
                name = f"{noun}.{verb}"
                found[name] = _compile(name, sql, dialect)
    return found


def _split(text: str) -> list[tuple[str, str]]:
    parts = _NAME.split(text)
    return [(parts[i], parts[i + 1].strip().rstrip(";")) for i in range(1, len(parts), 2)]


def _compile(name: str, sql: str, dialect: Dialect) -> Query:
    body = "\n".join(line.split("--", 1)[0].rstrip() for line in sql.splitlines()).strip()
    names = tuple(dict.fromkeys(_PARAMETER.findall(body)))
    if dialect == "postgres":
        body = _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", body)
    return Query(name=name, sql=body, parameters=names)
