"""``tools:`` of penstock.yaml: modules of the project, MCP servers and OpenAPI documents."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from penstock.domain.releases import ToolSource
from penstock.rules.documents import Document, Path, under
from penstock.rules.documents import name as place

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_WORDS = {"effect": ("read", "write"), "retry": ("safe", "keyed", "never")}
_KINDS = ("mcp", "openapi")
_EXAMPLE = "tools: [support.tools, {mcp: http://127.0.0.1:9000/mcp}, {openapi: api.yaml}]"


def read_modules(document: Document) -> tuple[str, ...]:
    """The modules that implement tools; what is wrong is noted in the document."""
    found = []
    for index, item in enumerate(_items(document)):
        if isinstance(item, dict):
            continue
        if isinstance(item, str) and _MODULE.fullmatch(item):
            found.append(item)
        else:
            document.refuse(
                ("tools", index), f"{item!r} is no module such as support.tools", _EXAMPLE
            )
    return tuple(dict.fromkeys(found))


def read_sources(document: Document) -> tuple[ToolSource, ...]:
    """The servers and documents whose tools the release pins; their versions are not known yet."""
    found: dict[str, ToolSource] = {}
    for index, item in enumerate(_items(document)):
        path: Path = ("tools", index)
        source = _source(document, path, item) if isinstance(item, dict) else None
        if source is None:
            continue
        if source.name in found:
            document.refuse(
                path, f"{place(path)}: two sources are named {source.name}", "Give one a name:"
            )
        found[source.name] = source
    return tuple(found.values())


def read_default(document: Document) -> dict[str, str]:
    """What holds for tools that nobody has declared, where it is not ``write`` and ``never``."""
    given = under(document, "tools_default")
    document.known(("tools_default",), given, tuple(_WORDS))
    found = {}
    for key, words in _WORDS.items():
        if key not in given:
            continue
        if given[key] not in words:
            document.refuse(
                ("tools_default", key),
                f"{given[key]!r} is none of {', '.join(words)}",
                "tools_default: {effect: read, retry: safe}",
            )
        elif given[key] != words[-1]:
            found[key] = str(given[key])
    return found


def _items(document: Document) -> list[Any]:
    value = document.data.get("tools", [])
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        document.refuse(("tools",), "tools: must be a list", _EXAMPLE)
        return []
    return value


def _source(document: Document, path: Path, item: dict[str, Any]) -> ToolSource | None:
    document.known(path, item, (*_KINDS, "name", "on_drift", "operations"))
    kinds = [kind for kind in _KINDS if kind in item]
    if len(kinds) != 1:
        document.refuse(path, f"{place(path)} is neither one mcp nor one openapi", _EXAMPLE)
        return None
    kind = kinds[0]
    location = item[kind]
    if not isinstance(location, str) or not _located(kind, location):
        document.refuse((*path, kind), f"{place((*path, kind))}: {_WHERE[kind]}", _EXAMPLE)
        return None
    name = str(item.get("name") or _name_of(location))
    if not _NAME.fullmatch(name):
        document.refuse(path, f"{place(path)}: {name!r} is no name", "name: crm")
    on_drift = item.get("on_drift", "refuse")
    if on_drift not in ("refuse", "tolerate"):
        document.refuse((*path, "on_drift"), f"{on_drift!r} is neither refuse nor tolerate")
    operations = item.get("operations", [])
    if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
        document.refuse((*path, "operations"), f"{place(path)}: operations must be a list of names")
        operations = []
    return ToolSource(
        name=name,
        kind=kind,
        location=location,
        version="",
        on_drift=str(on_drift),
        operations=tuple(operations),
    )


_WHERE = {
    "mcp": "an MCP server is given by its URL",
    "openapi": "an OpenAPI document is a file of the project or a URL",
}


def _located(kind: str, location: str) -> bool:
    split = urlsplit(location)
    if split.scheme in ("http", "https"):
        return bool(split.hostname) and not split.username and not split.password
    inside = not location.startswith("/") and ".." not in location.split("/")
    return kind == "openapi" and not split.scheme and bool(location) and inside


def _name_of(location: str) -> str:
    split = urlsplit(location)
    if split.hostname:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", split.hostname)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", location.rsplit("/", 1)[-1].rsplit(".", 1)[0])
