"""Agents that need nothing but Python, and what they say of themselves in a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

NOTING = """
import os
from penstock import step


def note(text):
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{text}\\n".encode())
    os.close(file)
    return text
"""


class SmallAgent:
    """A plain agent of one file, deployed; it may ``note(text)`` what it does."""

    def __init__(self, cluster, folder: Path, name: str, code: str, settings: str = ""):
        project = folder / name
        project.mkdir()
        self.name = name
        self._notes = folder / f"{name}.notes"
        (project / "app.py").write_text(NOTING + code)
        (project / "penstock.yaml").write_text(
            f"agent: {name}\nentrypoint: app:agent\nenv: {{NOTES: '{self._notes}'}}\n{settings}"
        )
        self.release = cluster.deploy(name, project)

    def notes(self) -> Counter:
        """What was noted, and how often."""
        if not self._notes.exists():
            return Counter()
        return Counter(self._notes.read_text().splitlines())
