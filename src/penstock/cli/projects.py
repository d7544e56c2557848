"""Projects on disk: make one, pack one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from penstock.cli.output import emit, json_option
from penstock.domain.errors import Conflict, Invalid
from penstock.kit.archives import ArchiveError, pack

IGNORED = (
    ".git", ".hg", ".venv", "venv", "__pycache__", "node_modules", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".penstock", "*.pyc", ".env", ".env.*", ".DS_Store", "*.egg-info",
)  # fmt: skip
_IGNORE_FILE = ".penstockignore"
_SUFFIX = ".template"


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--name", help="The agent's name; the directory's, if it is not given.")
@click.option("--force", is_flag=True, help="Write into a directory that is not empty.")
@json_option
def init(folder: Path, name: str | None, *, force: bool, as_json: bool) -> None:
    """Make a new agent project in FOLDER.

    It is small and complete: an agent that asks a model, a prompt, and penstock.yaml. It runs
    without any key, against the simulated model.
    """
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise Conflict(
            f"{folder} is not empty", hint="Name a new directory, or write into it with --force."
        )
    agent = name or re.sub(r"[^a-z0-9-]+", "-", folder.absolute().name.lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", agent):
        raise Invalid(f"{agent!r} is no name of an agent", hint="penstock init DIR --name my-agent")
    written = _copy(resources.files("penstock.cli").joinpath("templates"), folder, agent)

    def show(_: object) -> None:
        click.echo(f"Made {agent} in {folder}: {', '.join(written)}")
        click.echo(
            f"\n  penstock up {folder}        # serve it\n  penstock chat {agent}      # talk to it"
        )

    emit({"agent": agent, "folder": str(folder), "files": written}, as_json=as_json, show=show)


def packed(folder: Path, *, also: Sequence[str] = ()) -> bytes:
    """A project's directory as an archive, without what does not belong to it.

    Args:
        folder: the project's.
        also: patterns of what else is left out.

    Raises:
        Invalid: it is no directory, or holds what cannot be packed.
    """
    if not folder.is_dir():
        raise Invalid(f"{folder} is no directory", hint="Name the project's directory.")
    try:
        return pack(folder, ignore=(*ignored(folder), *also))
    except ArchiveError as error:
        raise Invalid(f"{folder}: {error}", hint=f"Name it in {_IGNORE_FILE}.") from None


def ignored(folder: Path) -> tuple[str, ...]:
    """What of a directory is not part of the project."""
    file = folder / _IGNORE_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    own = (line.strip().rstrip("/") for line in lines)
    return (*IGNORED, _IGNORE_FILE, *(line for line in own if line and not line.startswith("#")))


def _copy(source: Traversable, target: Path, agent: str) -> list[str]:
    written = []
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir(), key=lambda item: item.name):
        name = entry.name.removesuffix(_SUFFIX)
        if entry.is_dir():
            if name != "__pycache__":
                inner = _copy(entry, target / name, agent)
                written += [f"{name}/{path}" for path in inner]
            continue
        text = entry.read_text(encoding="utf-8").replace("AGENT_NAME", agent)
        (target / name).write_text(text, encoding="utf-8")
        written.append(name)
    return written
