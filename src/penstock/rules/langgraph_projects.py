"""``langgraph.json`` projects, as they are: every graph in one becomes an agent.

What the file cannot say has the defaults of ``penstock.yaml``. Keys that name parts of another
server (its store, its login, its image) are not used here, and a warning says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from posixpath import join, normpath
from typing import Any

from penstock.domain.errors import ProjectInvalid
from penstock.domain.releases import ModelPin, Policy
from penstock.rules.project_models import undated_pin
from penstock.rules.projects import Project

FILE = "langgraph.json"

_USED = {"dependencies", "graphs", "env", "python_version"}
_IGNORED = {
    "$schema": "",
    "store": "its store",
    "auth": "its login; Penstock has keys of its own",
    "http": "its HTTP routes",
    "ui": "its web components",
    "ui_config": "its web components",
    "checkpointer": "its checkpointer; Penstock keeps checkpoints itself",
    "encryption": "its encryption",
    "webhooks": "its webhooks",
    "image_distro": "its image",
    "base_image": "its image",
    "api_version": "its image",
    "keep_pkg_tools": "its image",
    "pip_config_file": "the configuration of its image's package installer",
    "pip_installer": "its image's package installer",
    "dockerfile_lines": "lines of its image: what they install must be on the server",
}
_SCRIPTS = (".ts", ".js", ".mts", ".mjs", ".tsx", ".jsx")
_GRAPH = re.compile(r"(?P<where>[^:]+):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Model ids as code writes them: gpt-4o, o3-mini, claude-…, gemini-…, or provider/id, provider:id.
_MODEL = re.compile(
    r"(?:(?P<provider>openai|anthropic|google|google_genai|google_vertexai|simulated)[:/])?"
    r"(?P<model>(?:gpt|o\d|chatgpt|claude|gemini)[a-z0-9.-]*|(?<=simulated[:/])[a-z0-9-]+)"
)
_MAKERS = {"gpt": "openai", "cha": "openai", "cla": "anthropic", "gem": "google"}


def parse(
    text: str, *, name: str | None = None, python: str, literals: Mapping[str, int] | None = None
) -> tuple[Project, ...]:
    """The agents of a ``langgraph.json``, one a graph, in the order of their names.

    Args:
        text: of the file.
        name: of the only graph's agent; the graph's own if it is not given.
        python: the minor version that releases cut here run on.
        literals: the texts in the project's code, to find the models it asks for by name.

    Raises:
        ProjectInvalid: it cannot be read, or wants what cannot be had; says what.
    """
    given = _read(text)
    graphs = given.get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        raise _invalid("graphs: must name at least one graph", '{"agent": "./agent.py:graph"}')
    warnings = _warnings(given, python)
    env, more = _env(given.get("env"))
    dependencies, paths = _dependencies(given.get("dependencies", []))
    models = find_models(literals or {})
    for alias, chain in models.items():
        if said := undated_pin(chain[0]):
            warnings.append(f"the code asks for {alias!r}: {said}")
    base = Project(
        agent="",
        entrypoint="",
        models=models,
        policy=Policy(env=env),
        dependencies=dependencies,
        paths=paths,
        warnings=(*warnings, *more),
    )
    found = {}
    for graph_id in sorted(graphs):
        agent = agent_name(name if name and len(graphs) == 1 else graph_id)
        if agent in found:
            raise _invalid(f"graphs: two of them would be the agent {agent!r}", "Rename one.")
        found[agent] = replace(
            base, agent=agent, entrypoint=_entrypoint(graph_id, graphs[graph_id])
        )
    return tuple(found.values())


def agent_name(graph_id: str) -> str:
    """The agent's name for a graph's.

    Raises:
        ProjectInvalid: nothing of it can be used.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", graph_id.lower()).strip("-")[:63]
    if not name:
        raise _invalid(f"graphs: {graph_id!r} is no name of an agent", "Use letters and digits.")
    return name


def find_models(literals: Mapping[str, int]) -> dict[str, tuple[ModelPin, ...]]:
    """The models that code asks for by name: each becomes an alias that is pinned to itself."""
    found: dict[str, tuple[ModelPin, ...]] = {}
    for text in sorted(literals):
        match = _MODEL.fullmatch(text)
        if match is None:
            continue
        model = match["model"]
        provider = (match["provider"] or _MAKERS.get(model[:3], "openai")).partition("_")[0]
        # A client library takes the provider's name off before it asks.
        found[model] = (ModelPin(provider=provider, model=model),)
    return found


def _read(text: str) -> Mapping[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProjectInvalid(
            f"is not valid JSON: {error.msg}", file=FILE, line=error.lineno
        ) from None
    if not isinstance(given, dict):
        raise _invalid("must be an object", '{"graphs": {…}}')
    if "node_version" in given:
        raise _invalid("node_version: JavaScript graphs cannot be run", "Penstock runs Python.")
    return given


def _warnings(given: Mapping[str, Any], python: str) -> list[str]:
    found = [
        f"{FILE}: {key} is not used: it is about {_IGNORED[key]}"
        for key in sorted(given)
        if _IGNORED.get(key)
    ]
    found += [
        f"{FILE}: {key} is not used: it is not known here"
        for key in sorted(given.keys() - _USED - _IGNORED.keys())
    ]
    wanted = given.get("python_version")
    if wanted is not None and str(wanted) != python:
        found.append(f"{FILE}: python_version is {wanted}; this release runs on Python {python}")
    return found


def _entrypoint(graph_id: str, given: Any) -> str:
    text = given.get("path") if isinstance(given, dict) else given
    match = _GRAPH.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _invalid(
            f"graphs.{graph_id}: {text!r} is not file:name", f'"{graph_id}": "./agent.py:graph"'
        )
    where = match["where"]
    if where.endswith(_SCRIPTS):
        raise _invalid(
            f"graphs.{graph_id}: {where} is JavaScript",
            "Penstock runs Python graphs; leave it out.",
        )
    path = normpath(where)
    if path.startswith(("/", "..")):
        raise _invalid(f"graphs.{graph_id}: {where} leads out of the project", "./agent.py:graph")
    return f"{path}:{match['name']}"


def _dependencies(given: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is installed, and the directories whose modules are imported."""
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise _invalid("dependencies: must be a list of texts", '"dependencies": ["."]')
    paths = []
    for item in given:
        if item.startswith("."):
            path = normpath(item)
            if path.startswith(".."):
                raise _invalid(f"dependencies: {item} leads out of the project", '["."]')
            paths += [path, normpath(join(path, "src"))]
    return tuple(given), tuple(dict.fromkeys(path for path in paths if path != "."))


def _env(given: Any) -> tuple[dict[str, str], list[str]]:
    if given is None:
        return {}, []
    if isinstance(given, str):
        said = (
            f"{FILE}: env: the variables in {given} are no part of a release: files like it hold"
            " secrets. Set them: penstock environments set AGENT production NAME=VALUE"
        )
        return {}, [said]
    if not isinstance(given, dict):
        raise _invalid("env: must be an object or the name of a file", '"env": {"NAME": "value"}')
    for key in given:
        if not _VARIABLE.fullmatch(key):
            raise _invalid(f"env: {key!r} is no name of a variable", '"env": {"NAME": "value"}')
    return {key: str(value) for key, value in given.items()}, []


def _invalid(message: str, hint: str) -> ProjectInvalid:
    return ProjectInvalid(message, file=FILE, hint=hint)
