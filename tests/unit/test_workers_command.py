"""What the list of workers says of each."""

from __future__ import annotations

import pytest

from penstock.cli.workers import _state


@pytest.mark.parametrize(
    ("draining", "capacity", "said"),
    [
        (False, 64, "taking tasks"),
        (False, 0, "leaves them to others"),
        (True, 64, "draining"),
        (True, 0, "draining"),
    ],
)
def test_a_server_without_attempts_is_not_said_to_take_tasks(draining, capacity, said):
    assert _state({"kind": "server", "draining": draining, "capacity": capacity}) == said
