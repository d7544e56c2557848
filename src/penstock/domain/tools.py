"""What a tool server or an OpenAPI document offers, and how that differs from what was pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTool:
    """One tool as its source describes it."""

    name: str
    description: str
    schema: Mapping[str, Any]  # JSON Schema of its arguments
    output_schema: Mapping[str, Any] | None = None
    effect: str = "write"  # read | write
    retry: str = "never"  # safe | keyed | never


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts:
    """Everything a source offers, in an order that does not change from one read to the next."""

    name: str  # as the source calls itself
    version: str
    protocol: str | None  # version of the protocol that was spoken; None when none was
    tools: tuple[SourceTool, ...]  # by name


class Severity(StrEnum):
    """What a drift means for an agent that still has the pinned tools in mind."""

    BREAKING = "breaking"  # its calls may fail, or do something else
    COMPATIBLE = "compatible"


class DriftKind(StrEnum):
    """How a source has moved."""

    REMOVED = "removed"  # a tool
    ADDED = "added"  # a tool
    CHANGED = "changed"  # something about a tool
    VERSION = "version"  # the source, or the protocol that was spoken


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """One difference between a source as it was pinned and as it is."""

    kind: DriftKind
    severity: Severity
    tool: str | None = None  # None: the source itself
    pointer: str = ""  # JSON pointer into the tool, or the source: /schema/properties/limit/type
    before: str | None = None  # as JSON; None when there was nothing
    after: str | None = None  # as JSON; None when there is nothing

    @property
    def text(self) -> str:
        """The drift in one line, for a person."""
        if self.kind is DriftKind.REMOVED:
            return f"the tool {self.tool} is gone"
        if self.kind is DriftKind.ADDED:
            return f"the tool {self.tool} is new"
        place = f"{self.tool}{self.pointer}" if self.tool else self.pointer.removeprefix("/")
        if self.before is None:
            return f"{place} is new: {self.after}"
        if self.after is None:
            return f"{place} is gone; it was {self.before}"
        return f"{place} was {self.before} and is {self.after}"
