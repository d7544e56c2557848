"""OpenAPI 3.0 and 3.1 documents, from a file of a project or a URL: each operation is a tool."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from penstock.domain.errors import Invalid
from penstock.domain.tools import SourceFacts
from penstock.drivers.tools import MOST_BYTES, Remote, check_count, deadline, plain, too_large
from penstock.drivers.tools.openapi_documents import MOST_NESTED, Document, Operation, no_openapi
from penstock.drivers.tools.openapi_operations import tool_of

_MOST_LISTED = 40  # operations, in an error


def read_openapi(
    document: Mapping[str, Any], *, source: str, operations: Sequence[str] | None = None
) -> SourceFacts:
    """The tools of a parsed document.

    Args:
        document: OpenAPI 3.0 or 3.1.
        source: where it is from, for errors.
        operations: the operationIds to take; None, or none of them, takes all.

    Raises:
        Invalid: it is no such document, an operation is not there, or one makes no tool.
    """
    reader = Document(plain(dict(document), where=source), source)
    info = reader.mapping(reader.root.get("info"), "info")
    version = info.get("version")
    if not isinstance(version, str | int | float):
        raise Invalid(f"{source}: info.version is missing", hint="A release pins it.")
    chosen = _choose(list(reader.operations()), operations, source)
    check_count(len(chosen), where=source)
    taken: dict[str, Operation] = {}
    for operation in chosen:
        other = taken.setdefault(operation.name, operation)
        if other is not operation:
            raise Invalid(
                f"{source}: {operation.title} and {other.title} would both be the tool"
                f" {operation.name}",
                hint="Give one of them another operationId, or choose between them: operations: []",
            )
    return SourceFacts(
        name=str(info.get("title") or source),
        version=str(version),
        protocol=None,
        tools=tuple(tool_of(reader, taken[name]) for name in sorted(taken)),
    )


class OpenApiFile:
    """A document that is a file of a project."""

    def __init__(self, folder: Path, path: str, *, operations: Sequence[str] | None = None) -> None:
        """Name the file; nothing is read yet.

        Args:
            folder: of the project.
            path: below it.
            operations: the operationIds to take; None takes all.
        """
        self._folder = folder
        self._path = path
        self._operations = operations

    async def read(self) -> SourceFacts:
        """Its operations as tools.

        Raises:
            Invalid: it is not there, or not below the project, or no OpenAPI document.
        """
        return await asyncio.to_thread(self._read)

    def _read(self) -> SourceFacts:
        folder = self._folder.resolve()
        file = (folder / self._path).resolve()
        if not file.is_relative_to(folder):
            raise Invalid(
                f"{self._path} leads out of the project",
                hint="Copy the document into the project, or name its URL.",
            )
        if not file.is_file():
            raise Invalid(
                f"there is no {self._path} in the project",
                hint="An OpenAPI document is named by its path below the project's directory.",
            )
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise too_large(self._path)
        return _facts(content, self._path, self._operations)


class OpenApiUrl:
    """A document at a URL."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        operations: Sequence[str] | None = None,
    ) -> None:
        """Name the document; nothing is opened yet.

        Args:
            url: http or https.
            headers: sent with the request, such as Authorization; they appear in no error.
            operations: the operationIds to take; None takes all.
        """
        self._url = url
        self._headers = headers
        self._operations = operations

    async def read(self) -> SourceFacts:
        """Its operations as tools.

        Raises:
            Unavailable: the URL does not answer in time, or does not let us in.
            Invalid: it is somewhere else, too large, or no OpenAPI document.
        """
        async with Remote(self._url, headers=self._headers) as remote, deadline(remote.shown):
            accept = {"accept": "application/json, application/yaml;q=0.9, */*;q=0.5"}
            async with remote.ask("GET", headers=accept) as answer:
                if answer.status != 200:  # noqa: PLR2004 - here is the document
                    raise Invalid(
                        f"{remote.shown} has no OpenAPI document (HTTP {answer.status})",
                        hint="Name the document itself, such as https://host/openapi.json.",
                    )
                content = await answer.read()
            return await asyncio.to_thread(_facts, content, remote.shown, self._operations)


class _Loader(yaml.CSafeLoader):
    """YAML as JSON has it: dates stay text, and only true and false are truths."""


_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(t, r) for t, r in resolvers if not t.endswith((":timestamp", ":bool"))])
}


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def _facts(content: bytes, source: str, operations: Sequence[str] | None) -> SourceFacts:
    document = _parse(content, source)
    if not isinstance(document, dict):
        raise no_openapi(source)
    return read_openapi(document, source=source, operations=operations)


def _parse(content: bytes, source: str) -> Any:
    try:
        if content.lstrip()[:1] == b"{":
            return msgspec.json.decode(content)
        depth = 0
        for event in yaml.parse(content, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise Invalid(
                    f"{_at(source, event.start_mark)}: uses an alias (*name)",
                    hint="Write the value out, or use $ref.",
                )
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_NESTED:
                raise Invalid(f"{source} is nested more than {MOST_NESTED} deep")
        return yaml.load(content, Loader=_Loader)  # noqa: S506 - a safe loader, narrowed
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid(f"{source} is not valid JSON", hint="It begins with {.") from None
    except yaml.YAMLError as error:
        mark, why = None, "it holds a character that is not allowed"
        if isinstance(error, yaml.MarkedYAMLError):
            mark, why = error.problem_mark, error.problem or why
        raise Invalid(f"{_at(source, mark)}: not valid YAML: {why}") from None


def _at(source: str, mark: Any) -> str:
    return source if mark is None else f"{source}:{mark.line + 1}"


def _choose(
    found: Sequence[Operation], wanted: Sequence[str] | None, source: str
) -> Sequence[Operation]:
    if not wanted:
        return found
    known = {operation.identity or operation.name for operation in found}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            listed = ", ".join(sorted(known)[:_MOST_LISTED]) + (
                f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
            )
            raise Invalid(
                f"{source} has no operation {name}",
                hint=(f"Did you mean {near[0]}? " if near else "") + f"It has {listed or 'none'}.",
            )
    return [operation for operation in found if (operation.identity or operation.name) in wanted]
