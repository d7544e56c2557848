"""OpenAPI documents: their operations, and where their references lead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from penstock.domain.errors import Invalid
from penstock.drivers.tools import MOST_BYTES

PROMISES = {  # of HTTP methods: effect and retry
    "get": ("read", "safe"),
    "head": ("read", "safe"),
    "options": ("read", "safe"),
    "trace": ("read", "safe"),
    "put": ("write", "keyed"),
    "delete": ("write", "keyed"),
    "post": ("write", "never"),
    "patch": ("write", "never"),
}
NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 64
MAPS = ("properties", "patternProperties", "dependentSchemas")
SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
DYNAMIC = ("$dynamicRef", "$recursiveRef")
_MOST_UNFOLDED = 4 * MOST_BYTES  # of all schemas together, after their $refs are resolved
MOST_NESTED = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation, its parameters not yet resolved."""

    title: str  # GET /orders
    method: str
    identity: str | None  # its operationId
    name: str  # of the tool
    body: Mapping[str, Any]
    shared: Sequence[Any]  # parameters of all operations of this path


class Document:
    """A document and where its references lead."""

    def __init__(self, root: Mapping[str, Any], source: str) -> None:
        spoken = root.get("openapi")
        if not isinstance(spoken, str) or not spoken.startswith(("3.0.", "3.1.")):
            raise no_openapi(source)
        self.root = root
        self.source = source
        self.old = spoken.startswith("3.0.")
        self._left = _MOST_UNFOLDED
        self._sizes: dict[int, int] = {}  # by identity: one large enum may be met very often
        self._direct: dict[str, set[str]] = {}
        self._recursive: dict[str, bool] = {}

    def operations(self) -> Iterator[Operation]:
        """Every operation, in the document's order."""
        for path, raw in self.mapping(self.root.get("paths", {}), "paths").items():
            item = self.follow(self.mapping(raw, path))
            for method in (one for one in PROMISES if one in item):
                title = f"{method.upper()} {path}"
                body = self.mapping(item[method], title)
                identity = body.get("operationId")
                identity = identity if isinstance(identity, str) and identity else None
                yield Operation(
                    title=title if identity is None else f"{identity} ({title})",
                    method=method,
                    identity=identity,
                    name=name_of(identity or "") or name_of(method + path),
                    body=body,
                    shared=self.sequence(item.get("parameters", []), path),
                )

    def follow(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an object that may be a reference stands for."""
        seen = set()
        while isinstance(value.get("$ref"), str):
            ref = value["$ref"]
            if ref in seen:
                raise Invalid(f"{self.source}: $ref {ref} leads back to itself")
            seen.add(ref)
            value = self.mapping(self.target(ref), ref)
        return value

    def target(self, ref: str) -> Any:
        """What stands where a reference points.

        Raises:
            Invalid: it leads out of the document, or nowhere.
        """
        if not ref.startswith("#"):
            raise Invalid(
                f"{self.source}: $ref {ref} leads out of the document",
                hint="Bundle the document into one file first.",
            )
        found: Any = self.root
        for raw in unquote(ref[1:]).split("/")[1:]:
            part = raw.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise Invalid(f"{self.source}: $ref {ref} points at nothing")
        if found is self.root:
            raise Invalid(f"{self.source}: $ref {ref} points at nothing")
        return found

    def recursive(self, ref: str) -> bool:
        """Whether a schema holds itself, on whatever way."""
        known = self._recursive.get(ref)
        if known is None:
            seen: set[str] = set()
            queue = [ref]
            while queue and ref not in seen:
                found = self._references(queue.pop()) - seen
                self.spend(len(found))
                seen |= found
                queue += found
            known = self._recursive[ref] = ref in seen
        return known

    def size(self, value: Any) -> int:
        """How large a part of the document is that holds no schema, in bytes of JSON."""
        if not isinstance(value, dict | list):
            return len(value) if isinstance(value, str) else 1
        if id(value) not in self._sizes:
            self._sizes[id(value)] = len(msgspec.json.encode(value))
        return self._sizes[id(value)]

    def spend(self, size: int) -> None:
        """Count what the references unfold to, in bytes.

        Raises:
            Invalid: it is too much.
        """
        self._left -= size
        if self._left < 0:
            raise Invalid(
                f"{self.source} unfolds to more than {_MOST_UNFOLDED >> 20} MiB when its $refs are"
                " resolved",
                hint="Name the operations that you want: operations: [...]",
            )

    def mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        """The value, if it is an object.

        Raises:
            Invalid: it is not.
        """
        if isinstance(value, dict):
            return value
        raise Invalid(f"{self.source}: {what} is not an object")

    def sequence(self, value: Any, what: str) -> Sequence[Any]:
        """The value, if it is a list.

        Raises:
            Invalid: it is not.
        """
        if isinstance(value, list):
            return value
        raise Invalid(f"{self.source}: {what} has something in place of a list")

    def _references(self, ref: str) -> set[str]:
        if ref not in self._direct:
            self._direct[ref] = set()
            queue = [self.target(ref)]
            while queue:
                schema = queue.pop()
                if isinstance(schema, dict):
                    if isinstance(schema.get("$ref"), str):
                        self._direct[ref].add(schema["$ref"])
                    queue += _children(schema)
        return self._direct[ref]


def _children(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas directly inside a schema; its data, such as an enum, holds none."""
    for key, value in schema.items():
        if key in MAPS and isinstance(value, dict):
            yield from value.values()
        elif key in LISTS and isinstance(value, list):
            yield from value
        elif key in SINGLE:
            yield value


def name_of(text: str) -> str:
    """A tool's name made of a text; empty when nothing of it can stay."""
    fitting = NO_NAME.sub("_", text)
    return (fitting if fitting == text else fitting.strip("_"))[:_LONGEST_NAME]


def no_openapi(source: str) -> Invalid:
    """What is said of a document that is another one, or none."""
    return Invalid(
        f"{source} is no OpenAPI 3.0 or 3.1 document",
        hint="It begins with openapi: 3.1.0; a Swagger 2.0 document has to be converted first.",
    )
