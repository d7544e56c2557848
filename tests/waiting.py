"""Waits for what happens by itself."""

from __future__ import annotations

import time


def wait_until(condition, seconds=10.0, *, otherwise="this took too long"):
    """What a condition says, once that is anything."""
    by = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < by, otherwise
        time.sleep(0.02)
    return found
