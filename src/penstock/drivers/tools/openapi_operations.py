"""OpenAPI operations as tools.

A tool's arguments are one object: the path, query and header parameters, and the properties of the
JSON body beside them. The body stays whole, as the argument ``body``, where taking it apart would
change what it means: a property has a parameter's name, it is more than a plain object, or it may
be left out although some of it may not. Cookies are not the model's to give.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.domain.errors import Invalid
from penstock.domain.tools import SourceTool
from penstock.drivers.tools.openapi_documents import PROMISES, Document, Operation
from penstock.drivers.tools.openapi_schemas import Schemas
from penstock.inside.tools import EFFECTS, RETRIES

_PLACES = ("path", "query", "header")
_NOT_OURS = ("accept", "content-type", "authorization")  # as headers, they are no parameters
_JSON = re.compile(r"application/([\w.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_FLAT = {
    *("type", "properties", "required", "additionalProperties"),
    *("title", "description", "deprecated", "examples", "$comment"),
}
_SUCCESS = re.compile(r"2(\d\d|XX)")


def tool_of(document: Document, operation: Operation) -> SourceTool:
    """The tool that an operation is.

    Raises:
        Invalid: it cannot be called as one.
    """
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


def _promise(document: Document, operation: Operation) -> tuple[str, str]:
    effect, retry = PROMISES[operation.method]
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


def _arguments(document: Document, operation: Operation) -> Mapping[str, Any]:
    """The parameters and the body as the schema of one object."""
    schemas = Schemas(document, hidden="readOnly")
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
    document: Document, operation: Operation
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


def _body(document: Document, operation: Operation) -> Mapping[str, Any] | None:
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


def _answer(document: Document, operation: Operation) -> Mapping[str, Any] | None:
    """The schema of the first JSON among the answers that mean success."""
    responses = document.mapping(operation.body.get("responses", {}), "responses")
    for status in sorted(status for status in responses if _SUCCESS.fullmatch(status)):
        response = document.follow(document.mapping(responses[status], f"response {status}"))
        schema = _json_of(document, response).get("schema")
        if schema:
            schemas = Schemas(document, hidden="writeOnly")
            found = schemas.convert(schema)
            if isinstance(found, dict):
                return {**found, "$defs": schemas.definitions} if schemas.definitions else found
    return None


def _json_of(document: Document, value: Mapping[str, Any]) -> Mapping[str, Any]:
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
