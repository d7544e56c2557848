"""The parts of a release: each versioned alone, each with labels that people know it by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ComponentKind(StrEnum):
    """The parts of a release that are versioned alone."""

    PROMPT = "prompt"
    TOOLS = "tools"
    MODEL = "model"
    CODE = "code"
    POLICY = "policy"


WHOLE = ""  # the name of a component that is not one prompt or one alias but all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One version of one part, without its content."""

    agent: str
    kind: ComponentKind
    name: str  # of a prompt or an alias; WHOLE for all of the kind together
    digest: str
    number: int  # 1, 2, 3 … in order of first publication
    label: str  # v3.2, a dated model id, a code hash; never moves
    message: str
    tags: tuple[str, ...]
    created_by: str
    created_us: int
    labels: tuple[str, ...] = ()  # those that point here now

    @property
    def title(self) -> str:
        """How an error names it: ``prompt system v3.2``."""
        return " ".join(part for part in (self.kind.value, self.name, self.label) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewComponent:
    """A component version that may not be published yet."""

    kind: ComponentKind
    name: str
    digest: str
    content: str  # canonical JSON
    label: str | None = None  # the author's own: no other content may have it
    hint: str | None = None  # what the label should look like; a number is added if it is taken
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A name that moves from version to version."""

    agent: str
    kind: ComponentKind
    name: str
    label: str
    digest: str
    revision: int  # raised by every move
    moved_by: str
    moved_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMove:
    """One move of a label."""

    label: str
    revision: int
    before: str | None  # digest; None when the label was new
    after: str | None  # digest; None when it was taken away
    message: str
    moved_by: str
    moved_us: int
