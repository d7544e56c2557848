"""Prompt files of other makers, read and written: Google's dotprompt and Microsoft's Prompty.

A conversion says in sentences what the other format could not say. What has no place there is kept
under ``metadata``; what cannot be translated without changing what the model is told is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from penstock.domain.errors import ProjectInvalid
from penstock.inside.prompts import role_of, split_front_matter
from penstock.rules import handlebars, prompts
from penstock.rules.documents import Document, mapping

# dotprompt's names of parameters, and ours (those of OpenAI Chat).
_CONFIG = {
    "temperature": "temperature",
    "maxOutputTokens": "max_tokens",
    "topP": "top_p",
    "topK": "top_k",
    "stopSequences": "stop",
}
_SCALARS = ("string", "number", "integer", "boolean", "null", "any")
_PICO = re.compile(r"(\w+\??)(?:\((array|object|enum)(?:,\s*(.*))?\))?")
_PROMPTY_ROLE = re.compile(r"^\s*#?\s*(system|user|assistant|tool):\s*$")
_SHARED = ("description", "version", "tools", "tags")


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A file in another format, and what it cannot say."""

    text: str
    losses: tuple[str, ...]


def read_dotprompt(text: str, *, name: str) -> Converted:
    """A dotprompt file as one of ours.

    Raises:
        ProjectInvalid: it cannot be read, or not be translated; names the line.
    """
    file = f"{name}.prompt"
    data, body, line = _split(text, file)
    front: dict[str, Any] = {key: data.pop(key) for key in ("description", "model") if key in data}
    losses: list[str] = []
    config = _mapping(data.pop("config", {}), file, "config")
    if config:
        front["parameters"] = {_CONFIG.get(key, key): value for key, value in config.items()}
    given = _mapping(data.pop("input", {}), file, "input")
    if "schema" in given:
        front["input"] = _schema(given.pop("schema"), file)
    wanted = _mapping(data.pop("output", {}), file, "output")
    if "schema" in wanted:
        front["output"] = _schema(wanted.pop("schema"), file)
    if "tools" in data:
        front["tools"] = [str(tool) for tool in data.pop("tools")]
    data.pop("name", None)
    kept = {**data, **({"input": given} if given else {}), **({"output": wanted} if wanted else {})}
    _keep(front, kept, losses)
    return _made(front, handlebars.to_jinja(body, file=file, line=line).lstrip("\n"), losses, file)


def write_dotprompt(text: str, *, name: str) -> Converted:
    """One of our files as dotprompt.

    Raises:
        ProjectInvalid: its template says what Handlebars cannot; names the line.
    """
    file = f"{name}.prompt"
    prompt = prompts.parse(text, file=file)
    front = dict(prompt.front)
    names = {ours: theirs for theirs, ours in _CONFIG.items()}
    out: dict[str, Any] = {"name": name}
    out |= {key: front[key] for key in ("description", "model", "tools") if key in front}
    if "parameters" in front:
        out["config"] = {names.get(key, key): value for key, value in front["parameters"].items()}
    for key in ("input", "output"):
        if key in front:
            out[key] = {"schema": front[key]}
    losses = [
        f"{key} has no place in dotprompt and is left out"
        for key in ("version", "tags", "examples", "metadata")
        if key in front
    ]
    line = 1 + text[: len(text) - len(prompt.body)].count("\n")
    parts = []
    for role, part in _messages(prompt.body):
        written = handlebars.from_jinja(part, file=file, line=line)
        theirs = "model" if role == "assistant" else role
        parts.append(written if role is None else f'{{{{role "{theirs}"}}}}\n{written}')
    return Converted(text=_joined(out, "".join(parts)), losses=tuple(losses))


def read_prompty(text: str, *, name: str) -> Converted:
    """A Prompty file as one of ours; its template must be Jinja, as it is unless it says otherwise.

    Raises:
        ProjectInvalid: it cannot be read, or not be translated; names the line.
    """
    file = f"{name}.prompty"
    data, body, _ = _split(text, file)
    template = data.pop("template", "jinja2")
    kind = template.get("type", "jinja2") if isinstance(template, dict) else template
    if kind not in ("jinja2", "jinja"):
        raise ProjectInvalid(f"has a {kind} template", file=file, hint="Only Jinja is read.")
    front: dict[str, Any] = {key: data.pop(key) for key in _SHARED if key in data}
    if "tools" in front:
        front["tools"] = [
            str(tool.get("name", tool)) if isinstance(tool, dict) else str(tool)
            for tool in front["tools"]
        ]
    model = data.pop("model", {})
    if isinstance(model, str):
        front["model"] = model
    else:
        model = dict(_mapping(model, file, "model"))
        config = dict(_mapping(model.pop("configuration", {}), file, "model.configuration"))
        chosen = model.pop("id", None) or config.get("azure_deployment") or config.get("name")
        if chosen:
            front["model"] = str(chosen)
        parameters = model.pop("parameters", None) or model.pop("options", None)
        if parameters:
            front["parameters"] = _mapping(parameters, file, "model.parameters")
        if model or config:
            data["model"] = {**model, **({"configuration": config} if config else {})}
    given = data.pop("inputs", None) or data.pop("sample", None)
    if isinstance(given, dict):
        front["input"] = _inputs(given)
    wanted = data.pop("outputs", None)
    if isinstance(wanted, dict):
        front["output"] = _inputs(wanted)
    data.pop("name", None)
    losses: list[str] = []
    _keep(front, data, losses)
    lines = []
    for row in body.splitlines(keepends=True):
        role = _PROMPTY_ROLE.match(row)
        lines.append(f"--- role: {role[1]} ---\n" if role else row)
    return _made(front, "".join(lines), losses, file)


def write_prompty(text: str, *, name: str) -> Converted:
    """One of our files as Prompty.

    Raises:
        ProjectInvalid: it is no prompt of ours; names the line.
    """
    prompt = prompts.parse(text, file=f"{name}.prompt")
    front = dict(prompt.front)
    out: dict[str, Any] = {"name": name}
    out |= {key: front[key] for key in _SHARED if key in front}
    model = {"api": "chat"}
    if "model" in front:
        model["id"] = front["model"]
    if "parameters" in front:
        model["parameters"] = front["parameters"]
    out["model"] = model
    if "input" in front:
        out["inputs"] = front["input"].get("properties", {})
    if "output" in front:
        out["outputs"] = front["output"].get("properties", {})
    losses = [
        f"{key} has no place in Prompty and is left out"
        for key in ("examples", "metadata")
        if key in front
    ]
    body = "".join(
        part if role is None else f"{role}:\n{part}" for role, part in _messages(prompt.body)
    )
    return Converted(text=_joined(out, body), losses=tuple(losses))


# ---------------------------------------------------------------- parts


def _split(text: str, file: str) -> tuple[dict[str, Any], str, int]:
    front, body = split_front_matter(text)
    data = Document("\n" + front, file=file).data if front else {}
    return dict(data), body, 1 + text[: len(text) - len(body)].count("\n")


def _messages(body: str) -> list[tuple[str | None, str]]:
    """The body's messages; what stands before the first role has none."""
    found: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in body.splitlines(keepends=True):
        role = role_of(line)
        if role is None:
            found[-1][1].append(line)
        else:
            found.append((role, []))
    parts = [(role, "".join(lines)) for role, lines in found]
    return [(role, part) for role, part in parts if role is not None or part]


def _made(front: dict[str, Any], body: str, losses: list[str], file: str) -> Converted:
    given = front.pop("input", None)
    # What we cannot read ourselves is no conversion.
    variables = prompts.parse(_joined(front, body), file=file).variables
    if given is not None:
        known = given.setdefault("properties", {})
        missing = [name for name in variables if name not in known]
        if missing and "additionalProperties" not in given:
            known |= {name: {} for name in missing}
            losses.append(f"input: {', '.join(missing)} was not declared, and is now")
        front["input"] = given
    text = _joined(front, body)
    prompts.parse(text, file=file)
    return Converted(text=text, losses=tuple(losses))


def _joined(front: Mapping[str, Any], body: str) -> str:
    if not front:
        return body
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)}---\n{body}"


def _keep(front: dict[str, Any], rest: Mapping[str, Any], losses: list[str]) -> None:
    if rest:
        front["metadata"] = dict(rest)
        losses.append(f"{', '.join(sorted(rest))}: kept under metadata, and not acted upon")


def _mapping(value: Any, file: str, place: str) -> dict[str, Any]:
    try:
        return mapping(value)
    except ValueError as error:
        raise ProjectInvalid(f"{place} {error}", file=file) from None


def _inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Prompty's inputs as a JSON Schema: each is a schema, or an example of a value."""
    properties = {}
    for key, value in given.items():
        described = isinstance(value, dict) and "type" in value
        properties[key] = value if described else {"type": _type_of(value)}
    return {"type": "object", "properties": properties}


def _type_of(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (list, "array"))
    return next((kind for one, kind in kinds if isinstance(value, one)), "string")


def _schema(given: Any, file: str) -> dict[str, Any]:
    """A JSON Schema, or what Picoschema abbreviates to one."""
    if isinstance(given, dict) and (given.get("type") in (*prompts.TYPES,) or "$ref" in given):
        return given
    if isinstance(given, str):
        return _scalar(given, file)
    return _object(_mapping(given, file, "schema"), file)


def _object(given: Mapping[str, Any], file: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": {}}
    required = []
    for key, value in given.items():
        if key == "(*)":
            found["additionalProperties"] = _schema(value, file)
            continue
        match = _PICO.fullmatch(key)
        if match is None:
            raise ProjectInvalid(f"schema: {key!r} cannot be read", file=file)
        name = match[1].removesuffix("?")
        if not match[1].endswith("?"):
            required.append(name)
        match match[2]:
            case "array":
                made: dict[str, Any] = {"type": "array", "items": _schema(value, file)}
            case "enum":
                made = {"enum": value}
            case _:
                made = _schema(value, file)
        found["properties"][name] = {**made, **({"description": match[3]} if match[3] else {})}
    return {**found, "required": required} if required else found


def _scalar(given: str, file: str) -> dict[str, Any]:
    kind, _, said = (part.strip() for part in given.partition(","))
    if kind not in _SCALARS:
        raise ProjectInvalid(f"schema: {kind!r} is no type", file=file)
    found: dict[str, Any] = {} if kind == "any" else {"type": kind}
    return {**found, "description": said} if said else found
