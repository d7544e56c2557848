"""Rows of checkpoints as columns, for the statement that keeps those of several commits at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.store.commits import Commit
from penstock.store.transaction import Value

# Queries whose rows ``commits.keep`` takes along, with what their columns are called there.
FOLDED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "checkpoints.put_content": ("content", ("task_id", "session_id", "key", "data")),
    "checkpoints.write": (
        "write",
        ("task_id", "epoch", "session_id", "namespace", "checkpoint_id", "node_task", "number",
         "channel", "path", "encoding", "format", "data", "seal"),
    ),
    "checkpoints.put": (
        "put",
        ("task_id", "epoch", "session_id", "namespace", "checkpoint_id", "parent_id", "release",
         "encoding", "format", "depth", "data", "metadata", "seal", "base"),
    ),
}  # fmt: skip


def folds(commit: Commit) -> bool:
    """Whether a commit has such rows, and nothing that needs another statement first."""
    return commit.completion is None and any(query in FOLDED for query, _ in commit.rows)


def folded(commits: Sequence[Commit]) -> dict[str, Sequence[Value]]:
    """Their rows, column by column."""
    rows: dict[str, list[Mapping[str, Value]]] = {query: [] for query in FOLDED}
    for commit in commits:
        for query, parameters in commit.rows:
            if query in FOLDED:
                rows[query].extend(parameters)
    return {
        f"{prefix}_{column}": [row[column] for row in rows[query]]
        for query, (prefix, columns) in FOLDED.items()
        for column in columns
    }
