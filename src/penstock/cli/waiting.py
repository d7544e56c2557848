"""Waiting for a task, over restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from penstock.cli.output import note
from penstock.client import Client
from penstock.client.streams import PATIENCE_SECONDS
from penstock.domain.errors import Unavailable
from penstock.domain.tasks import SETTLED

_LONGEST_SECONDS = 600.0  # of one request
_PAUSE_SECONDS = 0.5


def settled(
    client: Client,
    task: Any,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """``task`` once it has ended or waits for a person, or as it is after ``seconds``.

    Raises:
        Unavailable: no server has answered for a minute.
    """
    until = clock() + seconds
    silent_since: float | None = None
    while task["state"] not in SETTLED and (left := until - clock()) > 0:
        try:
            task = client.wait_for_task(task["id"], seconds=min(left, _LONGEST_SECONDS))
        except Unavailable:
            if silent_since is None:
                silent_since = clock()
                note(f"No server answers; {task['id']} is waited for until one does.")
            elif clock() - silent_since > PATIENCE_SECONDS:
                raise
            sleep(_PAUSE_SECONDS)
            continue
        if silent_since is None and task["state"] not in SETTLED:
            sleep(min(_PAUSE_SECONDS, max(0.0, until - clock())))  # its server is stopping
        silent_since = None
    return task
