"""Backups: a copy of everything a server holds as one file, and the way back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from penstock.actions.archives import Contents, verify
from penstock.actions.restores import restore as put_back
from penstock.cli.connections import connect, server_options
from penstock.cli.connections import home as usual_home
from penstock.cli.output import emit, json_option, strong, when
from penstock.domain.errors import Invalid, Unavailable

F = TypeVar("F", bound=Callable[..., Any])

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


def store_options(command: F) -> F:
    """The options --home and --database-url, which say where a server's data are."""
    command = click.option(
        "--database-url",
        envvar="PENSTOCK_DATABASE_URL",
        callback=_postgres_url,
        help="A PostgreSQL database (or PENSTOCK_DATABASE_URL).",
    )(command)
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="The data directory, instead of .penstock (or PENSTOCK_HOME).",
    )(command)


def data_directory(given: Path | None) -> Path:
    """The data directory that is meant."""
    return usual_home() if given is None else given.expanduser().absolute()


def _postgres_url(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    if url and not url.startswith(("postgresql://", "postgres://")):
        raise Invalid("the database url cannot be used", hint="It begins with postgresql://")
    return url or None


@click.command()
@_file
@click.option("--check", is_flag=True, help="Prove FILE, which is there; ask no server.")
@server_options
@json_option
def backup(file: Path, url: str | None, key: str | None, *, check: bool, as_json: bool) -> None:
    """Copy everything the running server holds into FILE.

    The copy is consistent, and work goes on meanwhile. FILE appears, or is replaced, once every
    byte of it was proven. It is as secret as the data: keep it where only you can read it.
    """
    if check:
        contents = verify(file)
    else:
        with connect(url, key) as client, _whole(file) as (opened, name):
            for chunk in client.backup():
                opened.write(chunk)
            opened.flush()
            contents = verify(name)
    said = "is whole" if check else "holds everything"
    emit(_shaped(file, contents), as_json=as_json, show=lambda it: _show(it, f"{file} {said}"))


@click.command()
@_file
@store_options
@json_option
def restore(file: Path, home: Path | None, database_url: str | None, *, as_json: bool) -> None:
    """Put the backup FILE into an empty store, of either kind, that no server uses.

    FILE is proven first. A store that holds anything is left alone, and a restore that fails
    leaves nothing.
    """
    folder = data_directory(home)
    contents = asyncio.run(put_back(file, home=folder, url=database_url))
    into = f"PostgreSQL and {folder}" if database_url else str(folder)

    def show(it: Any) -> None:
        _show(it, f"{into} holds what {file} held")
        click.echo("Start a server on it: penstock up. Keys that worked before work again.")

    emit({**_shaped(file, contents), "restored_to": into}, as_json=as_json, show=show)


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file that gets its name when it is complete and on disk; until then it has another."""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    except OSError as error:
        raise Unavailable(
            f"{file} cannot be written: {error.strerror}", hint="Is there such a directory?"
        ) from None
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            yield opened, new
            os.fsync(opened.fileno())
        new.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)


def _shaped(file: Path, contents: Contents) -> dict[str, Any]:
    about = contents.about
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "format": about.format,
        "schema": about.schema,
        "made_us": about.made_us,
        "penstock": about.penstock,
        "database": about.database,
        "rows": dict(contents.rows),
        "files": contents.files,
        "file_bytes": contents.file_bytes,
    }


def _show(it: dict[str, Any], first: str) -> None:
    rows = sum(it["rows"].values())
    click.echo(
        f"{strong(first)}: {rows} rows of {len(it['rows'])} tables, {it['files']} files,"
        f" {it['bytes']} bytes.\nMade {when(it['made_us'])} by Penstock {it['penstock']}"
        f" ({it['database']}, schema {it['schema']})."
    )
