"""Which server a command talks to, and as whom."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.domain.errors import Invalid

if TYPE_CHECKING:
    from penstock.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_URL = "http://127.0.0.1:8700"
_FILE = "cli.json"


def server_options(command: F) -> F:
    """The options --url and --key, which win over the environment and what was remembered."""
    command = click.option("--key", help="Your key (or PENSTOCK_KEY, or penstock login).")(command)
    return click.option("--url", help="The server's address (or PENSTOCK_URL).")(command)


def home() -> Path:
    """The data directory, where the command line remembers what it was told."""
    return Path(os.environ.get("PENSTOCK_HOME") or ".penstock").expanduser().absolute()


def connect(url: str | None, key: str | None) -> Client:
    """A client for the server that is meant."""
    from penstock.client import Client  # noqa: PLC0415 - not needed for --help

    return Client(*target(url, key))


def target(url: str | None, key: str | None) -> tuple[str, str | None]:
    """Address and key: from options, the environment, or what was remembered."""
    remembered = _remembered()
    found_url = url or os.environ.get("PENSTOCK_URL") or remembered.get("url") or _DEFAULT_URL
    found_key = key or os.environ.get("PENSTOCK_KEY")
    if found_key is None and (found_url == remembered.get("url") or not remembered.get("url")):
        # A key goes to the server it was made for, and to no other.
        found_key = remembered.get("key")
    return found_url, found_key


def remember(url: str, key: str | None) -> Path:
    """Keep address and key for the next commands; readable by this user alone."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / _FILE
    known = _remembered()
    data = {"url": url, "key": key or known.get("key")}
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as text:
        json.dump(data, text)
    return file


def _remembered() -> dict[str, str]:
    for folder in (home(), Path.home() / ".penstock"):
        file = folder / _FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Invalid(f"{file} cannot be read: {error}", hint="Delete it.") from None
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if isinstance(value, str)}
    return {}
