"""The texts an agent asks for by name: those pinned in its release, or the project's own files."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_DIRECTORY = "prompts"
_SUFFIX = ".prompt"
_FENCE = "---"
_MARKS = ("{{", "{%", "{#")
_ROLE_LINE = "--- role:"

ROLES = ("system", "user", "assistant", "tool")

# name -> file of the release, split; None outside of Penstock, where files are read instead.
_pinned: dict[str, _Source] | None = None
_templates: dict[str, Any] = {}
_environment: Any = None


class PromptError(LookupError):
    """A prompt that does not exist or cannot be rendered."""


class _Source:
    """A prompt's file, split."""

    __slots__ = ("_front", "body", "name", "parts", "raw_front")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.raw_front, self.body = split_front_matter(text)
        self.parts = split_roles(self.body)
        self._front: dict[str, Any] | None = None

    def front(self) -> dict[str, Any]:
        """The front matter, read when it is asked for: most agents ask for the text only."""
        if self._front is None:
            found = None
            if self.raw_front is not None:
                import importlib  # noqa: PLC0415 - see above

                found = importlib.import_module("yaml").safe_load(self.raw_front)
            self._front = found if isinstance(found, dict) else {}
        return self._front

    def render(self, number: int, variables: Mapping[str, object]) -> str:
        """One part with its variables filled in.

        Roles are told apart before anything is filled in: no variable can begin a message.
        """
        text = self.parts[number]["content"]
        if not is_template(text):
            return text
        try:
            rendered: str = _template(f"{self.name}#{number}", text).render(variables)
        except Exception as error:
            raise PromptError(f"prompt {self.name!r}: {type(error).__name__}: {error}") from error
        return rendered


class Prompt(str):
    """A rendered prompt: a text that also knows what its file says.

    The text itself is the first message, usually the system's; ``messages`` are all of them, with
    the examples.
    """

    __slots__ = ("_source", "_variables")

    _source: _Source
    _variables: dict[str, object]

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy, and what a checkpoint keeps, is the text alone."""
        return str, (str(self),)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages to begin with: the system's, the examples, then the others of the file.

        Raises:
            PromptError: a variable that one of them names was not given.
        """
        source = self._source
        system: list[dict[str, str]] = []
        others: list[dict[str, str]] = []
        for number, part in enumerate(source.parts):
            content = source.render(number, self._variables)
            into = system if part["role"] == "system" else others
            into.append({"role": part["role"], "content": content})
        for example in source.front().get("examples") or []:
            system.append({"role": "user", "content": self._question(example["input"])})
            system.append({"role": "assistant", "content": _as_text(example["output"])})
        return system + others

    def _question(self, given: Any) -> str:
        """An example's question: the file's user message with the example's variables."""
        source = self._source
        if isinstance(given, dict):
            for number, part in enumerate(source.parts):
                if part["role"] == "user":
                    return source.render(number, {**self._variables, **given})
        return _as_text(given)

    @property
    def model(self) -> str | None:
        """The model's alias or id."""
        return self._source.front().get("model")

    @property
    def parameters(self) -> dict[str, Any]:
        """The model's parameters: temperature and the like."""
        return dict(self._source.front().get("parameters") or {})

    @property
    def input_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the variables."""
        return self._source.front().get("input")

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the answer."""
        return self._source.front().get("output")

    @property
    def tools(self) -> list[str]:
        """The names of the tools it is written for."""
        return list(self._source.front().get("tools") or [])


def prompt(name: str, /, **variables: object) -> Prompt:
    """The prompt of this name, rendered with ``variables`` when it is a template.

    A text without ``{{``, ``{%`` or ``{#`` is returned as it is written. A template is rendered in
    a sandbox; a variable it names and is not given is an error.

    Raises:
        PromptError: there is no such prompt, or the template fails.
    """
    source = _find(name)
    found = Prompt(source.render(0, variables))
    found._source, found._variables = source, variables  # noqa: SLF001 - of this very module
    return found


def pin(paths: Mapping[str, str]) -> None:
    """Read the prompts of the release, and compile its templates, before the agent asks for them.

    Args:
        paths: name -> file.

    Raises:
        OSError: a file cannot be read.
    """
    global _pinned  # noqa: PLW0603 - the release of this process, set once
    _pinned = {}
    for name, path in paths.items():
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - pathlib costs 5 ms of import
            source = _pinned[name] = _Source(name, file.read())
        for number, part in enumerate(source.parts):
            if is_template(part["content"]):
                # A template with a mistake is the business of the code that asks for it.
                try:
                    _template(f"{name}#{number}", part["content"])
                except Exception:  # noqa: BLE001, S112 - see above
                    continue


def split_front_matter(text: str) -> tuple[str | None, str]:
    """The YAML between the ``---`` lines at the top, if any, and the text below it, verbatim."""
    first, newline, rest = text.partition("\n")
    if not newline or first.rstrip() != _FENCE:
        return None, text
    lines = rest.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.rstrip() == _FENCE:
            return "".join(lines[:number]), "".join(lines[number + 1 :])
    return None, text


def split_roles(text: str) -> list[dict[str, str]]:
    """A body's messages: what stands before the first ``--- role: … ---`` line is the system's."""
    found: list[dict[str, str]] = []
    role, lines = "system", []
    for line in text.splitlines(keepends=True):
        wanted = role_of(line)
        if wanted is None:
            lines.append(line)
            continue
        _add(found, role, lines)
        role, lines = wanted, []
    _add(found, role, lines)
    return found or [{"role": "system", "content": ""}]


def role_of(line: str) -> str | None:
    """The role that a line begins, if it is such a line."""
    line = line.strip()
    if not line.startswith(_ROLE_LINE) or not line.endswith(_FENCE):
        return None
    return line[len(_ROLE_LINE) : -len(_FENCE)].strip()


def is_template(text: str) -> bool:
    """Whether a prompt's text has anything to render."""
    return any(mark in text for mark in _MARKS)


def _add(found: list[dict[str, str]], role: str, lines: list[str]) -> None:
    content = "".join(lines)
    if content.strip():
        found.append({"role": role, "content": content.strip("\n") if found else content})


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    import json  # noqa: PLC0415 - only examples need it

    return json.dumps(value, ensure_ascii=False)


def _find(name: str) -> _Source:
    """The file of a prompt: the release's, or that in ``prompts/``."""
    if _pinned is not None:
        if name not in _pinned:
            known = ", ".join(sorted(_pinned)) or "none"
            raise PromptError(f"there is no prompt {name!r} in this release; it has: {known}")
        return _pinned[name]
    path = f"{_DIRECTORY}/{name}{_SUFFIX}"
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - pathlib costs 5 ms of import
            return _Source(name, file.read())
    except FileNotFoundError:
        raise PromptError(f"there is no prompt {name!r}: {path} does not exist here") from None


def _template(name: str, text: str) -> Any:
    """The compiled template of a prompt; each is compiled once."""
    known = _templates.get(name)
    if known is not None and known[0] == text:
        return known[1]
    template = _sandbox().from_string(text)
    _templates[name] = (text, template)
    return template


def _sandbox() -> Any:
    """The template environment: sandboxed, immutable, strict about missing variables."""
    global _environment  # noqa: PLW0603 - built once, on first use
    if _environment is None:
        import importlib  # noqa: PLC0415 - only templates need it

        jinja2 = importlib.import_module("jinja2")
        sandbox = importlib.import_module("jinja2.sandbox")
        _environment = sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
    return _environment
