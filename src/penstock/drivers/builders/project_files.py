"""A project's directory: what it says of itself, and the files that a release is made of."""

from __future__ import annotations

import ast
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.domain.errors import ProjectInvalid
from penstock.domain.releases import FileEntry, Tool, ToolSource
from penstock.domain.tools import SourceFacts
from penstock.drivers.builders import locks
from penstock.drivers.builders.platforms import python_minor
from penstock.rules import langgraph_projects, projects, prompts
from penstock.rules.compositions import SUFFIX, prompt_name
from penstock.rules.projects import Project
from penstock.rules.prompts import Prompt
from penstock.rules.releases import Parts, digest_bytes, digest_json

_LEAST_LITERAL = 2
_MOST_LITERAL = 80


def read(folder: Path, *, strict: bool) -> tuple[Project, ...]:
    """The agents of a project's directory.

    Raises:
        ProjectInvalid: it says nothing of itself, or something wrong; names file and line.
    """
    file = folder / projects.FILE
    if file.is_file():
        return (projects.parse(_text(file, projects.FILE), strict=strict),)
    other = folder / langgraph_projects.FILE
    if other.is_file():
        found = langgraph_projects.parse(
            _text(other, langgraph_projects.FILE),
            python=python_minor(),
            literals=_literals(folder),
        )
        if strict and found[0].warnings:
            raise ProjectInvalid(
                "strict: " + "\n".join(found[0].warnings), file=langgraph_projects.FILE
            )
        return found
    raise ProjectInvalid(
        "is missing",
        file=projects.FILE,
        hint="Is this the project's directory? A langgraph.json would do, too; penstock init makes"
        " a new project.",
    )


def check_modules(project: Project, folder: Path) -> None:
    """Name a missing file before anything is built for it.

    Raises:
        ProjectInvalid: the entrypoint's module is not there.
    """
    module = project.entrypoint.partition(":")[0]
    if module.endswith(".py"):
        if not (folder / module).is_file():
            raise ProjectInvalid(
                f"there is no {module} in the project", file=langgraph_projects.FILE
            )
        return
    relative = Path(*module.split("."))
    for root in (folder, *(folder / path for path in project.paths)):
        path = root / relative
        if path.with_suffix(".py").is_file() or path.is_dir():
            return
    raise ProjectInvalid(
        f"entrypoint: there is no module {module} in the project",
        file=projects.FILE,
        hint=f"Expected {relative}.py below the project's directory.",
    )


def read_prompts(project: Project, folder: Path) -> dict[str, Prompt]:
    """The prompts by their paths in the project, each checked.

    Raises:
        ProjectInvalid: one cannot be read, or two have one name; names file and line.
    """
    root = folder / project.prompts
    found: dict[str, Prompt] = {}
    names: dict[str, str] = {}
    for file in sorted(root.rglob(f"*{SUFFIX}")) if root.is_dir() else []:
        path = file.relative_to(folder).as_posix()
        name = prompt_name(path)
        if name in names:
            raise ProjectInvalid(
                f"is the second prompt named {name!r}; the first is {names[name]}", file=path
            )
        names[name] = path
        found[path] = prompts.parse(_text(file, path), file=path)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Sorted:
    """A project's files, by the component they belong to."""

    parts: Parts
    blobs: Mapping[str, bytes]


def sort(
    project: Project,
    folder: Path,
    found: Mapping[str, Any],
    *,
    prompts: Mapping[str, Prompt],
    lock: str,
    sources: Sequence[tuple[ToolSource, Sequence[Tool]]],
) -> Sorted:
    """The parts of the release and the contents of its files.

    Args:
        project: what it asks for.
        folder: where it is.
        found: the facts of its code.
        prompts: path → prompt.
        lock: the text of penstock.lock.
        sources: the servers it takes tools from, as they are now, with their tools.
    """
    blobs: dict[str, bytes] = {}

    def entry(path: str, content: bytes, *, executable: bool = False) -> FileEntry:
        digest = digest_bytes(content)
        blobs[digest] = content
        return FileEntry(path=path, digest=digest, executable=executable)

    code, prompt_files, tool_files = [], [], []
    modules = set(found["tool_files"])
    described = {projects.FILE, langgraph_projects.FILE, locks.NAME}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if not file.is_file() or path in described or "__pycache__" in path:
            continue
        content = file.read_bytes()
        if path in prompts:
            prompt_files.append(entry(path, content))
        elif path in modules:
            tool_files.append(entry(path, content))
        else:
            executable = bool(file.stat().st_mode & stat.S_IXUSR)
            code.append(entry(path, content, executable=executable))
    own = (Tool(**tool) for tool in found["tools"])
    parts = Parts(
        agent=project.agent,
        entrypoint=project.entrypoint,
        python=python_minor(),
        code=tuple(code),
        prompts=tuple(prompt_files),
        tool_files=tuple(tool_files),
        tools=(*own, *(tool for _, tools in sources for tool in tools)),
        models=project.models,
        lock=entry(locks.NAME, lock.encode()),
        graph=found["graph"],
        state_schema=digest_json(found["state"]),
        policy=project.policy,
        paths=tuple(path for path in project.paths if (folder / path).is_dir()),
        state_types=tuple(found["state_types"]),
        sources=tuple(source for source, _ in sources),
        tools_default=project.tools_default,
    )
    return Sorted(parts=parts, blobs=blobs)


def _text(file: Path, path: str) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ProjectInvalid(f"is not UTF-8: {error}", file=path) from None


def _literals(folder: Path) -> dict[str, int]:
    """The short texts in the project's Python files."""
    found: dict[str, int] = {}
    for file in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # the import says what is wrong, where
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if _LEAST_LITERAL <= len(text) <= _MOST_LITERAL:
                    found[text] = found.get(text, 0) + 1
    return found


def pinned_source(source: ToolSource, facts: SourceFacts) -> tuple[ToolSource, tuple[Tool, ...]]:
    """A source with its version, and its tools, as a release pins them."""
    version = facts.version if facts.protocol is None else f"{facts.version} ({facts.protocol})"
    tools = tuple(
        Tool(
            name=tool.name,
            description=tool.description,
            schema=tool.schema,
            module=source.name,
            effect=tool.effect,
            retry=tool.retry,
        )
        for tool in facts.tools
    )
    return replace(source, version=version), tools
