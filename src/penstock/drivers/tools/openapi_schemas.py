"""Schemas of an OpenAPI document that stand alone, as JSON Schema 2020-12."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.domain.errors import Invalid
from penstock.drivers.tools.openapi_documents import (
    DYNAMIC,
    LISTS,
    MAPS,
    MOST_NESTED,
    NO_NAME,
    SINGLE,
    Document,
)

_NO_MEANING = ("discriminator", "xml", "externalDocs")  # of OpenAPI, not of JSON Schema
_RESOLVED = ("$schema", "$id", "$anchor", "$defs")  # have done their work when $refs are resolved
_NOTES = ("title", "description", "default", "deprecated", "examples", "readOnly", "writeOnly")
_PART_BYTES = 48  # that a schema counts for, beside what is in it


class Schemas:
    """Makes schemas of a document stand alone, as JSON Schema 2020-12."""

    def __init__(self, document: Document, *, hidden: str) -> None:
        """Begin with none.

        Args:
            document: whose they are.
            hidden: readOnly or writeOnly, properties that are marked so are left out.
        """
        self.definitions: dict[str, Any] = {}  # those that hold themselves
        self._document = document
        self._hidden = hidden
        self._names: dict[str, str] = {}

    def convert(self, schema: Any, depth: int = 0) -> Any:
        """A schema without references, but for those to ``definitions``.

        Raises:
            Invalid: a reference leads out or nowhere, or what they unfold to is too large.
        """
        document = self._document
        document.spend(_PART_BYTES)
        if depth > MOST_NESTED:
            raise Invalid(
                f"{document.source} is nested more than {MOST_NESTED} deep when its $refs are"
                " resolved"
            )
        if isinstance(schema, bool):
            return schema
        schema = document.mapping(schema, f"the schema {schema!r:.40}")
        for key in DYNAMIC:
            if key in schema:
                raise Invalid(f"{document.source}: {key} cannot be resolved", hint="Use $ref.")
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema, depth)
        found = {
            key: self._keyword(key, value, depth + 1)
            for key, value in schema.items()
            if key not in (*_NO_MEANING, *_RESOLVED)
        }
        self._hide(found)
        if "example" in found:
            example = found.pop("example")
            found.setdefault("examples", [example])
        return _modern(found) if document.old else found

    def _keyword(self, key: str, value: Any, depth: int) -> Any:
        if key in MAPS and isinstance(value, dict):
            self._document.spend(sum(map(len, value)))
            return {name: self.convert(child, depth) for name, child in value.items()}
        if key in LISTS and isinstance(value, list):
            return [self.convert(child, depth) for child in value]
        if key in SINGLE:
            return self.convert(value, depth)
        self._document.spend(len(key) + self._document.size(value))
        return value

    def _reference(self, schema: Mapping[str, Any], depth: int) -> Any:
        ref = schema["$ref"]
        target = self._document.target(ref)
        if isinstance(target, dict):
            self._document.follow(target)  # refuses references to nothing but each other
        found = self.convert(target, depth + 1) if not self._document.recursive(ref) else None
        if found is None:
            name = self._definition(ref)
            found = {"$ref": f"#/$defs/{name}"}
            if name not in self.definitions:
                self.definitions[name] = {}  # met again on the way, it is there already
                self.definitions[name] = self.convert(target, depth + 1)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if self._document.old or not beside:
            return found  # 3.0 says that what stands beside a $ref is ignored
        beside = self.convert(beside, depth + 1)
        if isinstance(found, dict) and all(key in _NOTES for key in beside):
            return {**found, **beside}
        return {"allOf": [found, beside]}

    def _definition(self, ref: str) -> str:
        """The name of a definition: the last part of its reference, if no other has that."""
        if ref not in self._names:
            wanted = name = NO_NAME.sub("_", ref.rsplit("/", 1)[-1])
            number = len(self.definitions)
            while name in self.definitions:
                number += 1
                name = f"{wanted}_{number}"
            self._names[ref] = name
        return self._names[ref]

    def _hide(self, schema: dict[str, Any]) -> None:
        """Leave out properties that only go the other way."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return
        for name in [name for name, child in properties.items() if self._is_hidden(child)]:
            del properties[name]
            if isinstance(schema.get("required"), list) and name in schema["required"]:
                schema["required"] = [one for one in schema["required"] if one != name]
        if schema.get("required") == []:
            del schema["required"]

    def _is_hidden(self, child: Any) -> bool:
        return isinstance(child, dict) and child.get(self._hidden) is True


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of OpenAPI 3.0 in the words of 2020-12."""
    for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):
            applies = schema.pop(exclusive)
            if applies and limit in schema:
                schema[exclusive] = schema.pop(limit)
    if schema.pop("nullable", None) is not True:
        return schema
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        return schema
    notes = {key: value for key, value in schema.items() if key in _NOTES}
    rest = {key: value for key, value in schema.items() if key not in _NOTES}
    return {**notes, "anyOf": [rest, {"type": "null"}]} if rest else notes
