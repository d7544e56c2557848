"""Environments: what staging or production adds to an agent's releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What is added to an agent's releases in one environment."""

    agent: str
    environment: str
    # What changes behaviour makes a derived release: model.main → simulated/small.
    overlay: Mapping[str, str] = field(default_factory=dict)
    # What does not is given to the agent's process: a text, or env:NAME and file:/path of a secret.
    variables: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0  # raised by every change; 0: nothing was ever added
    updated_by: str = ""
    updated_us: int = 0
