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

# name -> text of the release; None outside of Penstock, where files are read instead.
_pinned: dict[str, str] | None = None
_templates: dict[str, Any] = {}
_environment: Any = None


class PromptError(LookupError):
    """A prompt that does not exist or cannot be rendered."""


def prompt(name: str, /, **variables: object) -> str:
    """The prompt of this name, rendered with ``variables`` when it is a template.

    A text without ``{{``, ``{%`` or ``{#`` is returned as it is written. A template is rendered in
    a sandbox; a variable it names and is not given is an error.

    Raises:
        PromptError: there is no such prompt, or the template fails.
    """
    text = _find(name)
    if not is_template(text):
        return text
    try:
        rendered: str = _template(name, text).render(variables)
    except Exception as error:
        raise PromptError(f"prompt {name!r}: {type(error).__name__}: {error}") from error
    return rendered


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
            _pinned[name] = split_front_matter(file.read())[1]
        if is_template(_pinned[name]):
            # A template with a mistake is the business of the code that asks for it.
            try:
                _template(name, _pinned[name])
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


def is_template(text: str) -> bool:
    """Whether a prompt's text has anything to render."""
    return any(mark in text for mark in _MARKS)


def _find(name: str) -> str:
    """The text of a prompt: the release's, or that of the file in ``prompts/``."""
    if _pinned is not None:
        if name not in _pinned:
            known = ", ".join(sorted(_pinned)) or "none"
            raise PromptError(f"there is no prompt {name!r} in this release; it has: {known}")
        return _pinned[name]
    path = f"{_DIRECTORY}/{name}{_SUFFIX}"
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - pathlib costs 5 ms of import
            return split_front_matter(file.read())[1]
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
