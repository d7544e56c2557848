"""What a prompt and a label may be called."""

from __future__ import annotations

import re

from penstock.domain.errors import Invalid

PROTECTED = ("production",)  # everywhere; an agent may have more
_RESERVED = ("latest", "live", "none")
_LABEL = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"v\d.*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")


def check_label(label: str) -> None:
    """Let a label be one that can move.

    Raises:
        Invalid: it is reserved, looks like a version, or is no word.
    """
    if label in _RESERVED or _VERSION.fullmatch(label) or not _LABEL.fullmatch(label):
        raise Invalid(
            f"{label!r} can be no label",
            hint="A label is a word of lower-case letters, digits and dashes, such as production,"
            " and no version such as v1.2.",
        )


def check_name(name: str) -> None:
    """Let a prompt be named so.

    Raises:
        Invalid: it could be no file's name.
    """
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} can be no prompt's name", hint="Letters, digits, dots and dashes: system"
        )
