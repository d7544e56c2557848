"""Puts Penstock's half of an agent's process where the release's interpreter finds it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import penstock
from penstock.rules.releases import digest_json

_VENDORED = ("jinja2", "markupsafe", "yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSide:
    """Two directories for ``sys.path``."""

    inside: Path  # holds penstock/, ahead of everything
    vendor: Path  # holds what prompts need, behind everything


def install(folder: Path) -> AgentSide:
    """Copy this version's agent-side code below ``folder``; it costs little when it is there."""
    source = Path(penstock.__file__).parent
    files = [source / "__init__.py", *sorted((source / "inside").rglob("*.py"))]
    packages = [_package(name) for name in _VENDORED]
    seen = {str(f.relative_to(source)): f.read_text(encoding="utf-8") for f in files}
    seen["vendor"] = repr([(p.name, sorted(f.name for f in p.iterdir())) for p in packages])
    target = folder / digest_json(seen)[:24]
    side = AgentSide(inside=target / "inside", vendor=target / "vendor")
    if target.exists():
        return side
    folder.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
    for file in files:
        copy = making / "inside" / "penstock" / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for package in packages:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, making / "vendor" / package.name, ignore=ignored)
    try:
        os.rename(making, target)  # noqa: PTH104 - must fail when another was faster
    except OSError:
        shutil.rmtree(making, ignore_errors=True)
    return side


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
