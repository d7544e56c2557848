"""OpenAPI 3.0 and 3.1 documents: each operation is a tool.

Its arguments are one object: the path, query and header parameters, and the properties of the JSON
body beside them. The body stays whole, as the argument ``body``, where taking it apart would change
what it means: a property has a parameter's name, it is more than a plain object, or it may be left
out although some of it may not. Cookies are not the model's to give.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import yaml

from penstock.domain.errors import Invalid
from penstock.domain.tools import SourceFacts, SourceTool
from penstock.drivers.tools import MOST_BYTES, Remote, check_count, deadline, plain, too_large
from penstock.inside.tools import EFFECTS, RETRIES

_PROMISES = {
    "get": ("read", "safe"),
    "head": ("read", "safe"),
    "options": ("read", "safe"),
    "trace": ("read", "safe"),
    "put": ("write", "keyed"),
    "delete": ("write", "keyed"),
    "post": ("write", "never"),
    "patch": ("write", "never"),
}
_PLACES = ("path", "query", "header")
_NOT_OURS = ("accept", "content-type", "authorization")  # as headers, they are no parameters
_JSON = re.compile(r"application/([\w.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 64
_FLAT = {
    *("type", "properties", "required", "additionalProperties"),
    *("title", "description", "deprecated", "examples", "$comment"),
}

_MAPS = ("properties", "patternProperties", "dependentSchemas")
_SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NO_MEANING = ("discriminator", "xml", "externalDocs")  # of OpenAPI, not of JSON Schema
_RESOLVED = ("$schema", "$id", "$anchor", "$defs")  # have done their work when $refs are resolved
_NOTES = ("title", "description", "default", "deprecated", "examples", "readOnly", "writeOnly")
_DYNAMIC = ("$dynamicRef", "$recursiveRef")
_MOST_UNFOLDED = 4 * MOST_BYTES  # of all schemas together, after their $refs are resolved
_PART_BYTES = 48  # that a schema counts for, beside what is in it
_MOST_NESTED = 100
_MOST_LISTED = 40  # operations, in an error
_SUCCESS = re.compile(r"2(\d\d|XX)")


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
    reader = _Document(plain(dict(document), where=source), source)
    info = reader.mapping(reader.root.get("info"), "info")
    version = info.get("version")
    if not isinstance(version, str | int | float):
        raise Invalid(f"{source}: info.version is missing", hint="A release pins it.")
    chosen = _choose(list(reader.operations()), operations, source)
    check_count(len(chosen), where=source)
    taken: dict[str, _Operation] = {}
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
        tools=tuple(_tool(reader, taken[name]) for name in sorted(taken)),
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


# ---------------------------------------------------------------- text


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
        raise _no_openapi(source)
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
            if depth > _MOST_NESTED:
                raise Invalid(f"{source} is nested more than {_MOST_NESTED} deep")
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


# ---------------------------------------------------------------- the document


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operation:
    """One operation, its parameters not yet resolved."""

    title: str  # GET /orders
    method: str
    identity: str | None  # its operationId
    name: str  # of the tool
    body: Mapping[str, Any]
    shared: Sequence[Any]  # parameters of all operations of this path


class _Document:
    """A document and where its references lead."""

    def __init__(self, root: Mapping[str, Any], source: str) -> None:
        spoken = root.get("openapi")
        if not isinstance(spoken, str) or not spoken.startswith(("3.0.", "3.1.")):
            raise _no_openapi(source)
        self.root = root
        self.source = source
        self.old = spoken.startswith("3.0.")
        self._left = _MOST_UNFOLDED
        self._sizes: dict[int, int] = {}  # by identity: one large enum may be met very often
        self._direct: dict[str, set[str]] = {}
        self._recursive: dict[str, bool] = {}

    def operations(self) -> Iterator[_Operation]:
        """Every operation, in the document's order."""
        for path, raw in self.mapping(self.root.get("paths", {}), "paths").items():
            item = self.follow(self.mapping(raw, path))
            for method in (one for one in _PROMISES if one in item):
                title = f"{method.upper()} {path}"
                body = self.mapping(item[method], title)
                identity = body.get("operationId")
                identity = identity if isinstance(identity, str) and identity else None
                yield _Operation(
                    title=title if identity is None else f"{identity} ({title})",
                    method=method,
                    identity=identity,
                    name=_name(identity or "") or _name(method + path),
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
        if key in _MAPS and isinstance(value, dict):
            yield from value.values()
        elif key in _LISTS and isinstance(value, list):
            yield from value
        elif key in _SINGLE:
            yield value


def _choose(
    found: Sequence[_Operation], wanted: Sequence[str] | None, source: str
) -> Sequence[_Operation]:
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


def _name(text: str) -> str:
    """A tool's name made of a text; empty when nothing of it can stay."""
    fitting = _NO_NAME.sub("_", text)
    return (fitting if fitting == text else fitting.strip("_"))[:_LONGEST_NAME]


def _no_openapi(source: str) -> Invalid:
    return Invalid(
        f"{source} is no OpenAPI 3.0 or 3.1 document",
        hint="It begins with openapi: 3.1.0; a Swagger 2.0 document has to be converted first.",
    )


# ---------------------------------------------------------------- one operation


def _tool(document: _Document, operation: _Operation) -> SourceTool:
    effect, retry = _promise(document, operation)
    summary, description = (
        str(operation.body.get(key) or "").strip() for key in ("summary", "description")
    )
    texts = [summary] if summary and not description.startswith(summary) else []
    texts += [description] if description else []
    return SourceTool(
        name=operation.name,
        description="\n\n".join(texts) or operation.title,
        schema=_arguments(document, operation),
        output_schema=_answer(document, operation),
        effect=effect,
        retry=retry,
    )


def _promise(document: _Document, operation: _Operation) -> tuple[str, str]:
    effect, retry = _PROMISES[operation.method]
    what = f"x-penstock of {operation.title}"
    said = document.mapping(operation.body.get("x-penstock", {}), what)
    words = {"effect": EFFECTS, "retry": RETRIES}
    for key, value in said.items():
        if key not in words or value not in words[key]:
            raise Invalid(
                f"{document.source}: {what}: {key}: {value!r:.40} is not known",
                hint=f"effect: {' | '.join(EFFECTS)}; retry: {' | '.join(RETRIES)}.",
            )
    if said.get("effect", effect) != effect:
        effect, retry = ("read", "safe") if effect == "write" else ("write", "never")
    return effect, said.get("retry", retry)


def _arguments(document: _Document, operation: _Operation) -> Mapping[str, Any]:
    """The parameters and the body as the schema of one object."""
    schemas = _Schemas(document, hidden="readOnly")
    properties: dict[str, Any] = {}
    required: list[str] = []
    more: dict[str, Any] = {}
    for name, parameter in _parameters(document, operation):
        schema = parameter.get("schema")
        if schema is None:
            content = document.mapping(parameter.get("content", {}), f"{name}: content")
            schema = next((media.get("schema") for media in content.values()), None)
        properties[name] = _noted(schemas.convert({} if schema is None else schema), parameter)
        if parameter.get("required") is True or parameter["in"] == "path":
            required.append(name)
    body = _body(document, operation)
    if body is not None:
        demanded = body.get("required") is True
        schema = schemas.convert(_json_of(document, body).get("schema", {}))
        if _is_flat(schema, properties, demanded=demanded):
            properties |= schema["properties"]
            required += schema.get("required", [])
            more = {
                key: schema[key] for key in ("description", "additionalProperties") if key in schema
            }
            if body.get("description"):
                more["description"] = body["description"]
        elif "body" in properties:
            raise Invalid(
                f"{document.source}: {operation.title} has a parameter named body beside its body"
            )
        else:
            properties["body"] = _noted(schema, body)
            required += ["body"] if demanded else []
    whole = {"type": "object", "properties": properties, "required": required, **more}
    if not required:
        del whole["required"]
    return {**whole, "$defs": schemas.definitions} if schemas.definitions else whole


def _parameters(
    document: _Document, operation: _Operation
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parameters that are the model's to give; an operation's own replace its path's."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    own = document.sequence(operation.body.get("parameters", []), operation.title)
    for raw in (*operation.shared, *own):
        parameter = document.follow(document.mapping(raw, f"a parameter of {operation.title}"))
        place, name = parameter.get("in"), parameter.get("name")
        if not isinstance(name, str) or not isinstance(place, str):
            raise Invalid(f"{document.source}: a parameter of {operation.title} has no name and in")
        if place in _PLACES and not (place == "header" and name.lower() in _NOT_OURS):
            found[place, name] = parameter
    taken: set[str] = set()
    for (_, name), parameter in found.items():
        if name in taken:
            raise Invalid(
                f"{document.source}: {operation.title} has two parameters named {name}",
                hint="A tool's arguments have one name each; rename one, or leave the operation"
                " out: operations: [...]",
            )
        taken.add(name)
        yield name, parameter


def _body(document: _Document, operation: _Operation) -> Mapping[str, Any] | None:
    """The request body, if there is one that a tool can send."""
    raw = operation.body.get("requestBody")
    if raw is None:
        return None
    body = document.follow(document.mapping(raw, f"requestBody of {operation.title}"))
    if _json_of(document, body):
        return body
    if body.get("required") is True:
        kinds = ", ".join(document.mapping(body.get("content", {}), "content")) or "nothing"
        raise Invalid(
            f"{document.source}: {operation.title} takes {kinds}, and a tool can only send JSON",
            hint="Leave it out by naming the operations that you want: operations: [...]",
        )
    return None


def _answer(document: _Document, operation: _Operation) -> Mapping[str, Any] | None:
    """The schema of the first JSON among the answers that mean success."""
    responses = document.mapping(operation.body.get("responses", {}), "responses")
    for status in sorted(status for status in responses if _SUCCESS.fullmatch(status)):
        response = document.follow(document.mapping(responses[status], f"response {status}"))
        schema = _json_of(document, response).get("schema")
        if schema:
            schemas = _Schemas(document, hidden="writeOnly")
            found = schemas.convert(schema)
            if isinstance(found, dict):
                return {**found, "$defs": schemas.definitions} if schemas.definitions else found
    return None


def _json_of(document: _Document, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a body or a response has for JSON; empty when it has none."""
    content = document.mapping(value.get("content", {}), "content")
    kinds = sorted((kind for kind in content if _JSON.fullmatch(kind)), key=lambda k: (len(k), k))
    return document.mapping(content[kinds[0]], kinds[0]) or {"schema": {}} if kinds else {}


def _is_flat(schema: Any, taken: Mapping[str, Any], *, demanded: bool) -> bool:
    """Whether a body's properties mean the same when they stand beside the parameters."""
    return (
        isinstance(schema, dict)
        and all(key in _FLAT or key.startswith("x-") for key in schema)
        and schema.get("type", "object") == "object"
        and bool(schema.get("properties"))
        and not schema["properties"].keys() & taken.keys()
        and isinstance(schema.get("additionalProperties", True), bool)
        and (demanded or not schema.get("required"))
    )


def _noted(schema: Any, holder: Mapping[str, Any]) -> Any:
    """A schema with what its parameter or body says for a reader."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    notes = {key: holder[key] for key in ("description", "deprecated") if holder.get(key)}
    return {**schema, **notes}


# ---------------------------------------------------------------- schemas


class _Schemas:
    """Makes schemas of a document stand alone, as JSON Schema 2020-12."""

    def __init__(self, document: _Document, *, hidden: str) -> None:
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
        if depth > _MOST_NESTED:
            raise Invalid(
                f"{document.source} is nested more than {_MOST_NESTED} deep when its $refs are"
                " resolved"
            )
        if isinstance(schema, bool):
            return schema
        schema = document.mapping(schema, f"the schema {schema!r:.40}")
        for key in _DYNAMIC:
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
        if key in _MAPS and isinstance(value, dict):
            self._document.spend(sum(map(len, value)))
            return {name: self.convert(child, depth) for name, child in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self.convert(child, depth) for child in value]
        if key in _SINGLE:
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
            wanted = name = _NO_NAME.sub("_", ref.rsplit("/", 1)[-1])
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
