"""Prompts: a text with YAML front matter, versioned alone.

::

    ---
    description: Who the agent is.
    version: 3.2                    # the author's own label; left out, it is counted
    model: main                     # an alias of the project, or provider/model
    parameters: {temperature: 0.2}
    input: {type: object, properties: {shop: {type: string}}, required: [shop]}
    output: {type: object, properties: {answer: {type: string}}}
    tools: [order_status]
    examples: [{input: {shop: Tulip}, output: "Welcome to Tulip."}]
    tags: [support]
    ---
    You work for {{ shop }}.
    --- role: user ---
    {{ question }}

The body is Jinja2 in a sandbox, where a variable that is not given is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.domain.errors import ProjectInvalid
from penstock.inside.prompts import ROLES, is_template, role_of, split_front_matter
from penstock.rules.documents import Document, mapping
from penstock.rules.releases import author_label

KEYS = (
    "description", "version", "model", "parameters", "input", "output", "tools", "examples", "tags",
    "metadata", "name",
)  # fmt: skip
_MOST_BYTES = 1 << 20
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_NOTHING: dict[str, Any] = {}
_NO_TEXTS: tuple[str, ...] = ()
_SANDBOX = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt as its author wrote it."""

    text: str  # the whole file
    body: str  # below the front matter
    front: Mapping[str, Any]  # the front matter as JSON
    version: str | None  # the author's own label: v3.2
    tags: tuple[str, ...]
    variables: tuple[str, ...]  # that the template asks for


def parse(text: str, *, file: str) -> Prompt:
    """Read a prompt and check what can be checked without running it.

    Raises:
        ProjectInvalid: its front matter or template is wrong; every line is named.
    """
    if len(text.encode()) > _MOST_BYTES:
        raise ProjectInvalid("is larger than 1 MiB", file=file)
    front, body = split_front_matter(text)
    document = Document("\n" + (front or "") if front else "\n{}", file=file)
    first = text[: len(text) - len(body)].count("\n")
    document.known((), document.data, KEYS)
    version = document.read(("version",), author_label, None, "version: 3.2")
    tags = document.read(("tags",), _texts, _NO_TEXTS, "tags: [support, beta]")
    for key in ("model", "description"):
        document.read((key,), _text, "", f"{key}: a text")
    for key in ("parameters", "metadata"):
        document.read((key,), mapping, _NOTHING, f"{key}: a mapping")
    document.read(("tools",), _texts, _NO_TEXTS, "tools: [order_status]")
    for key in ("input", "output"):
        document.read((key,), _schema, None, f"{key}: {{type: object, properties: {{…}}}}")
    document.read(("examples",), _examples, None, "examples: [{input: {…}, output: a text}]")
    try:
        json.dumps(document.data, allow_nan=False)
    except ValueError:
        document.refuse((), "holds a number that JSON has not (.nan or .inf)")
    _check_roles(document, body, first)
    variables = _variables(body, file=file, first=first)
    _check_variables(document, variables)
    document.check()
    return Prompt(
        text=text,
        body=body,
        front=document.data,
        version=version,
        tags=tags,
        variables=variables,
    )


def _variables(body: str, *, file: str, first: int) -> tuple[str, ...]:
    """What the templates ask for; each message of the body is one."""
    found: set[str] = set()
    for part, line in _parts(body, first):
        if not is_template(part):
            continue
        try:
            tree = _SANDBOX.parse(part)
            found |= meta.find_undeclared_variables(tree)
            _SANDBOX.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise ProjectInvalid(
                f"the template cannot be read: {error.message}",
                file=file,
                line=line + error.lineno,
                hint="A message's template ends where the next role begins.",
            ) from None
    return tuple(sorted(found))


def _parts(body: str, first: int) -> Iterator[tuple[str, int]]:
    """The text of each message, with the number of lines before it in the file."""
    lines: list[str] = []
    before = first
    for number, line in enumerate(body.splitlines(keepends=True), start=first + 1):
        if role_of(line) is None:
            lines.append(line)
            continue
        yield "".join(lines), before
        lines, before = [], number
    yield "".join(lines), before


def _check_variables(document: Document, variables: tuple[str, ...]) -> None:
    schema = document.data.get("input")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return
    if schema.get("additionalProperties") not in (None, False):
        return
    for variable in variables:
        if variable not in schema["properties"]:
            document.refuse(
                ("input",),
                f"the template asks for {variable!r}, which input does not declare",
                f"Add it to input.properties: {variable}: {{type: string}}",
            )


def _check_roles(document: Document, body: str, first: int) -> None:
    for number, line in enumerate(body.splitlines(), start=first + 1):
        role = role_of(line)
        if role is not None and role not in ROLES:
            raise ProjectInvalid(
                f"there is no role {role!r}",
                file=document.file,
                line=number,
                hint=f"One of: {', '.join(ROLES)}.",
            )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - all readers do
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _schema(value: Any) -> dict[str, Any]:
    """A JSON Schema whose shape is right as far as we use it."""
    found = mapping(value)
    kinds = found.get("type", "object")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in TYPES:
            raise ValueError(f"{kind!r} is no type of JSON Schema")
    properties = found.get("properties", {})
    if not isinstance(properties, dict):
        raise ValueError("properties must be a mapping")  # noqa: TRY004 - all readers do
    for below in properties.values():
        if isinstance(below, dict):
            _schema(below)
        elif not isinstance(below, bool):
            raise ValueError("each property must be a schema")  # noqa: TRY004 - all readers do
    required = found.get("required", [])
    if not isinstance(required, list) or not all(isinstance(item, str) for item in required):
        raise ValueError("required must be a list of names")
    return found


def _examples(value: Any) -> list[Any]:
    good = isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() == {"input", "output"} for item in value
    )
    if not good:
        raise ValueError("must be a list of mappings with input and output")
    return list(value)
