"""What an environment may add to a release."""

from __future__ import annotations

import re
from collections.abc import Mapping

from penstock.domain.errors import Invalid
from penstock.rules import compositions

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"(env|file):(\S+)")
OURS = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PENSTOCK_GATEWAY", "PATH", "HOME", "LANG")


def check(environment: str, overlay: Mapping[str, str], variables: Mapping[str, str]) -> None:
    """Let an environment add this.

    Raises:
        Invalid: a name or a setting cannot be used; says which.
    """
    if not _NAME.fullmatch(environment):
        raise Invalid(
            f"{environment!r} is no name of an environment", hint="staging, production, …"
        )
    compositions.settings_of(overlay)
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise Invalid(f"{name!r} is no name of an environment variable")
        if name in OURS or name.startswith("PENSTOCK_"):
            raise Invalid(f"{name} is set by Penstock", hint="Choose another name.")


def reference(value: str) -> tuple[str, str] | None:
    """Driver and address of a secret, if a value refers to one: ``env:NAME``, ``file:/path``."""
    match = _REFERENCE.fullmatch(value)
    return None if match is None else (match[1], match[2])
