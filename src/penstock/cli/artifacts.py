"""Artifacts: write a release to a file, a directory or a registry, and take one in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from penstock.cli.connections import connect, server_options
from penstock.cli.output import emit, json_option, strong
from penstock.domain.errors import Conflict, Damaged, Invalid

if TYPE_CHECKING:
    from penstock.client import Client

_CHUNK = 1 << 20
_MOST_BYTES = 8 << 30

trust_option = click.option(
    "--trust", multiple=True, metavar="KEY", help="Believe this key from now on (its id)."
)
wheels_option = click.option(
    "--wheels/--no-wheels",
    default=True,
    show_default=True,
    help="With the packages it needs on a machine like the server's.",
)


@click.command(name="export")
@click.argument("agent")
@click.argument("ref", default="live")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A .tar, or a directory.")
@wheels_option
@server_options
@json_option
def export_(
    agent: str,
    ref: str,
    output: Path | None,
    url: str | None,
    key: str | None,
    *,
    wheels: bool,
    as_json: bool,
) -> None:
    """Write release REF of AGENT as a signed OCI image layout.

    A name that ends in .tar is one file, any other a directory.
    """
    from penstock.kit.layouts import LayoutError, to_folder  # noqa: PLC0415 - not for --help

    with connect(url, key) as client:
        found = client.release(agent, ref)
        target = output or Path(f"{agent}-v{found['number']}.tar")
        if target.exists():
            raise Conflict(f"{target} is there already", hint="Choose another name with -o.")
        with _download(client, agent, found["digest"], wheels=wheels, beside=target) as file:
            layout = _layout(file.path)
            key_id = _key(layout)
            if target.suffix == ".tar":
                os.replace(file.path, target)  # noqa: PTH105 - atomic, and said so
            else:
                try:
                    to_folder(layout, target)
                except (LayoutError, OSError) as error:
                    raise Invalid(f"{target} cannot be written: {error}") from None
    done = {"file": str(target), "digest": found["digest"], "key": key_id}

    def show(_: Any) -> None:
        click.echo(f"Wrote {strong(agent)} v{found['number']} to {target}")
        click.echo(f"\n  penstock release import {target} --trust {key_id[:16]}")

    emit(done, as_json=as_json, show=show)


@click.command(name="import")
@click.argument("artifact", type=click.Path(exists=True, path_type=Path))
@trust_option
@click.option("-m", "--message", default="", help="Kept with the release, instead of its own.")
@server_options
@json_option
def import_(
    artifact: Path,
    trust: tuple[str, ...],
    message: str,
    url: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    """Publish the release in ARTIFACT, once every byte of it is proven.

    Neither its project nor a package index is needed.
    """
    from penstock.kit.layouts import LayoutError, from_folder  # noqa: PLC0415 - not for --help

    try:
        content = from_folder(artifact) if artifact.is_dir() else _chunks(artifact)
        with connect(url, key) as client:
            done = client.import_artifact(content, trust=trust, message=message)
    except LayoutError as error:
        raise Damaged(str(error), hint="Get the artifact again.") from None
    emit(done, as_json=as_json, show=_show_import)


@click.command()
@click.argument("agent")
@click.argument("ref")
@click.argument("reference")
@click.option("--insecure", is_flag=True, help="Plain HTTP, also to other machines.")
@wheels_option
@server_options
@json_option
def push(
    agent: str,
    ref: str,
    reference: str,
    url: str | None,
    key: str | None,
    *,
    insecure: bool,
    wheels: bool,
    as_json: bool,
) -> None:
    """Push release REF of AGENT to REFERENCE: registry.example/team/support:v3."""
    with connect(url, key) as client:
        done = client.push_artifact(agent, ref, reference, insecure=insecure, wheels=wheels)

    def show(_: Any) -> None:
        click.echo(f"Pushed {strong(reference)}\nsha256:{done['digest']}")
        click.echo(f"\n  penstock release pull {reference} --trust {done['key_id'][:16]}")

    emit(done, as_json=as_json, show=show)


@click.command()
@click.argument("reference")
@trust_option
@click.option("--insecure", is_flag=True, help="Plain HTTP, also to other machines.")
@server_options
@json_option
def pull(
    reference: str,
    trust: tuple[str, ...],
    url: str | None,
    key: str | None,
    *,
    insecure: bool,
    as_json: bool,
) -> None:
    """Pull the release at REFERENCE from a registry, and publish it here."""
    with connect(url, key) as client:
        done = client.pull_artifact(reference, trust=trust, insecure=insecure)
    emit(done, as_json=as_json, show=_show_import)


COMMANDS = (export_, import_, push, pull)


# ---------------------------------------------------------------- files


class _download:  # noqa: N801 - used as a function
    """An artifact as a temporary file: beside where it will be, or anywhere."""

    def __init__(
        self, client: Client, agent: str, ref: str, *, wheels: bool, beside: Path | None
    ) -> None:
        folder = None if beside is None else beside.absolute().parent
        if folder is not None and not folder.is_dir():
            raise Invalid(f"{folder} is no directory")
        handle, name = tempfile.mkstemp(dir=folder, prefix=".penstock-", suffix=".tar")
        self.path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in client.export_artifact(agent, ref, wheels=wheels):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.path.unlink()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _layout(path: Path) -> Any:
    from penstock.kit.layouts import Layout, LayoutError  # noqa: PLC0415 - not for --help

    try:
        return Layout(path, most_bytes=_MOST_BYTES)
    except LayoutError as error:
        raise Damaged(str(error), hint="Try again.") from None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _show_import(done: Any) -> None:
    made = done["release"]
    verb = "Imported" if done["created"] else "Here already:"
    click.echo(f"{verb} {strong(made['agent'])} v{made['number']}  {made['composite']}")
    click.echo(f"sha256:{made['digest']}\nsigned with {done['key']}")
    click.echo(f"\n  penstock deploy {made['agent']} v{made['number']}      # give it traffic")


def _documents(layout: Any) -> list[Any]:
    from penstock.rules import artifacts  # noqa: PLC0415 - not for --help

    index = artifacts.index_digests(layout.plain["index.json"])
    return [artifacts.read_manifest(layout.read(digest)) for digest in index]


def _key(layout: Any) -> str:
    """The id of the key that vouches for an artifact."""
    from penstock.rules import artifacts, signatures  # noqa: PLC0415 - not for --help

    for document in _documents(layout):
        if document.artifact_type == artifacts.STATEMENT:
            return signatures.open_envelope(layout.read(document.layers[0].digest)).key_id
    raise Damaged("nobody vouches for the artifact")
