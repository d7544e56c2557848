"""What this machine is, as far as wheels and environments care."""

from __future__ import annotations

import platform
import sys


def python_minor() -> str:
    """The Python that releases cut here run on: ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def platform_name(python: str) -> str:
    """What wheels must suit, for a minor version of Python: ``cp311-linux-x86_64``."""
    return f"cp{python.replace('.', '')}-{sys.platform}-{platform.machine()}"
