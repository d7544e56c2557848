"""YAML that remembers where everything stands, for errors that name the line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from penstock.domain.errors import ProjectInvalid

T = TypeVar("T")

_MOST_BYTES = 1 << 20
_MOST_DEPTH = 20

Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something wrong at a line."""

    line: int
    message: str
    hint: str | None


class Document:
    """A YAML mapping, read key by key; problems are gathered and reported together."""

    def __init__(self, text: str, *, file: str) -> None:
        """Parse ``text``, which was read from ``file``.

        Raises:
            ProjectInvalid: it is no YAML mapping, names a key twice, or uses aliases.
        """
        self.file = file
        self._lines: dict[Path, int] = {(): 1}
        self._problems: list[Problem] = []
        if len(text) > _MOST_BYTES:
            raise ProjectInvalid("is larger than 1 MiB", file=file)
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
                raise ProjectInvalid(
                    "uses an alias (*name)", file=file, hint="Write the value out."
                )
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise ProjectInvalid(
                f"is not valid YAML: {error.problem}",
                file=file,
                line=None if mark is None else mark.line + 1,
                hint="Check indentation, quotes and colons on this line and the one before it.",
            ) from None
        except yaml.YAMLError as error:
            raise ProjectInvalid(f"is not valid YAML: {error}", file=file) from None
        data = {} if node is None else self._build(node, ())
        if not isinstance(data, dict):
            raise ProjectInvalid("must be a mapping of keys to values", file=file, line=1)
        self.data: dict[str, Any] = data

    # ------------------------------------------------------------ reading

    def line(self, path: Path) -> int:
        """The line at which something stands, or the thing it would stand in."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def refuse(self, path: Path, message: str, hint: str | None = None) -> None:
        """Note a problem."""
        self._problems.append(Problem(line=self.line(path), message=message, hint=hint))

    def known(self, path: Path, mapping: Mapping[str, Any], keys: Iterable[str]) -> None:
        """Note every key of ``mapping`` that is not one of ``keys``."""
        keys = tuple(keys)
        for key in mapping:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(keys)}."
                self.refuse((*path, key), f"unknown key {name((*path, key))}", hint)

    def read(self, path: Path, parse: Callable[[Any], T], default: T, hint: str | None = None) -> T:
        """The value at ``path`` as ``parse`` understands it; ``default`` when it is absent."""
        value: Any = self.data
        for part in path:
            if isinstance(part, int) or (isinstance(value, dict) and part in value):
                value = value[part]
            else:
                return default
        try:
            return parse(value)
        except (ValueError, TypeError) as error:
            self.refuse(path, f"{name(path)}: {error}", hint)
            return default

    def check(self) -> None:
        """Report what was noted.

        Raises:
            ProjectInvalid: something was; names every line.
        """
        if not self._problems:
            return
        first, *others = sorted(self._problems, key=lambda problem: problem.line)
        lines = [first.message]
        for problem in others:
            hint = f" ({problem.hint})" if problem.hint else ""
            lines.append(f"{self.file}:{problem.line}: {problem.message}{hint}")
        raise ProjectInvalid("\n".join(lines), file=self.file, line=first.line, hint=first.hint)

    # ------------------------------------------------------------ building

    def _build(self, node: yaml.Node, path: Path) -> Any:
        if len(path) > _MOST_DEPTH:
            raise ProjectInvalid(
                "is nested too deeply", file=self.file, line=node.start_mark.line + 1
            )
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return _SCALARS.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise ProjectInvalid(
                f"{name(path)} cannot be read: {error}",
                file=self.file,
                line=node.start_mark.line + 1,
            ) from None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key, str):
                raise ProjectInvalid("a key must be a word", file=self.file, line=line)
            if key in found:
                raise ProjectInvalid(
                    f"{name((*path, key))} stands there twice",
                    file=self.file,
                    line=line,
                    hint=f"It stands in line {self._lines[*path, key]} already.",
                )
            self._lines[*path, key] = line
            found[key] = self._build(value_node, (*path, key))
        return found


class _Scalars(yaml.SafeLoader):
    """Turns scalar nodes into values; dates stay text."""


_Scalars.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SCALARS = _Scalars("")


def name(path: Path) -> str:
    """A place in the document, as a person writes it: ``limits.time``, ``models.main[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def under(document: Document, key: str) -> dict[str, Any]:
    """The mapping below a key; empty when it is absent."""
    nothing: dict[str, Any] = {}
    return document.read((key,), mapping, nothing)


def mapping(value: Any) -> dict[str, Any]:
    """A value that must be a mapping.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of names to values")  # noqa: TRY004 - all readers do
    return value
